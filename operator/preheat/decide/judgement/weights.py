"""What warmers tell against a revision: that its weights are not to be had, anywhere and for good.

    a warmer gave up, and says                                 against the revision
    not at the source, not what its digest says, refused       yes (``OF_THE_REVISION``)
    network, credentials, disk, memory, budget, a bug          no: it waits
    nothing, or its pod does not start                         no: it waits

A revision failed when two Jobs of its warmers gave up for such a reason: on two nodes or, where only one is asked, one after
the other on that one. One node that tells anything else, or that has the weights, is enough against it.
"""

from dataclasses import dataclass

from preheat.api.modelcache import ModelCache, NodeCacheState, NodeCacheStatus, NodeFailure
from preheat.decide.caching import SPEECHLESS
from preheat.decide.neighbours import WAITS
from preheat.decide.troubles import sentence

ATTEMPTS = 2
"""Jobs that gave up. The next one on a node comes after ``caching.RETRY_SECONDS``: a file may have been on its way."""

OF_THE_REVISION = frozenset(
    {
        "NotFound",
        "DigestMismatch",
        "NoDigest",
        "IncompleteModel",
        "PickleRefused",
        "PathRefused",
    }
)
"""Reasons of a warmer (runtime/warmer/README.md) that are about the weights, and after which its Job fails at once.

Not among them: ``Unauthorized``, as a Secret may be right by then; ``AddressRefused``, as a name server may be wrong;
``UnreadableImage`` and ``NoImageVolume``, as they may be a node's; ``InvalidConfig``, as it may be the operator's.
"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a revision's weights are not to be had. ``node``, ``reason``: one that tells it, and the warmer's word."""

    node: str
    reason: str
    words: str
    attempts: int


def refusal_of(cache: ModelCache) -> Refusal | None:
    """Return why the weights are not to be had, None as long as they may be."""
    status = cache.status
    if status.observed_generation != cache.generation or status.ready_nodes:
        return None
    if any(node.state is NodeCacheState.READY for node in status.nodes):
        return None
    if any(_last_word(node) not in OF_THE_REVISION | {None} for node in status.nodes):
        return None
    failed = [
        (node, last)
        for node in status.nodes
        if (last := node.last_failure) is not None and last.reason in OF_THE_REVISION
    ]
    attempts = sum(last.times for _, last in failed)
    if len(failed) < min(ATTEMPTS, len(status.nodes)) or attempts < ATTEMPTS:
        return None
    now = [(node, last) for node, last in failed if node.state is NodeCacheState.FAILED]
    if not now:
        return None
    node, last = max(now, key=lambda pair: (pair[1].time, pair[0].name))
    return Refusal(node.name, last.reason, _words(cache, node, last, len(failed), attempts), attempts)


def _last_word(node: NodeCacheStatus) -> str | None:
    """Return what a node told last, None for nothing. That it waits for its turn is nothing."""
    if node.reason in {None, WAITS, SPEECHLESS}:
        return node.last_failure.reason if node.last_failure is not None else None
    return node.reason


def _words(cache: ModelCache, node: NodeCacheStatus, last: NodeFailure, failed: int, attempts: int) -> str:
    told = node.message if node.reason == last.reason and node.message else "its words are gone with its pod"
    return (
        f"ModelCache {cache.name}: warmers gave up {attempts} times on {failed} of {len(cache.status.nodes)} nodes, and "
        f"none has the weights. {node.name}: {last.reason}: {sentence(told)}"
    )
