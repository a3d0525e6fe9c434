"""Are the weights on a shared volume still right? A Job hashes them now and then, beside whoever uses them. Pure.

The keeper of a node does that for its disk (``nodes.py``). A volume has none: its verifier is a Job of the cache, in the
cache's namespace, that mounts the claim as the warmer does. What it finds wrong is put aside by then; the warmer's
Job goes, and another fetches it anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from preheat.api.constants import ANNOTATION_VERIFY, SHARED_SITE
from preheat.api.modelcache import CacheMode, ModelCache
from preheat.config import OperatorConfig
from preheat.decide.observed import JobState, JobView, KeeperReport, parse_time
from preheat.decide.plan import Apply, Delete, Write
from preheat.resources.caching import cache_key
from preheat.resources.places.shared import make_verifier

RETRY_SECONDS = 300.0
"""A verifier that failed, or did not tell all, is followed by another after this."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What is done, and what is known."""

    writes: Sequence[Write] = ()
    corrupt: Mapping[str, str] = field(default_factory=dict)
    """What was found wrong and is not fetched anew yet, by what stands in a node's place."""
    verified: datetime | None = None
    """When they were last known to be right."""
    look_again_seconds: float | None = None


def verify_shared(
    cache: ModelCache,
    warmer: JobView | None,
    verifier: JobView | None,
    report: KeeperReport | None,
    config: OperatorConfig,
    now: datetime,
) -> Verification:
    """Return what keeps the weights on a shared volume verified. ``report``: what the verifier said last."""
    if cache.spec.storage.mode is not CacheMode.SHARED:
        return Verification()
    wrong = report.corrupt.get(cache_key(cache)) if report is not None else None
    if warmer is None or warmer.state is not JobState.COMPLETE or warmer.ended is None:
        return Verification(corrupt={SHARED_SITE: wrong} if wrong and warmer is None else {})
    if verifier is None or not _is_over(verifier) or not _is_newer(verifier, warmer):
        return _next(cache, verifier, warmer.ended, warmer.ended, config, now)
    if wrong:
        return Verification([_deletion(cache, warmer)], {SHARED_SITE: wrong})
    return _after(cache, warmer.ended, verifier, report, config, now)


def _after(
    cache: ModelCache,
    warmed: datetime,
    verifier: JobView,
    report: KeeperReport | None,
    config: OperatorConfig,
    now: datetime,
) -> Verification:
    """Return what comes after a verifier that found nothing wrong, or did not come to an end."""
    ended = verifier.ended or now
    if verifier.state is JobState.COMPLETE and report is not None and report.whole:
        return _next(cache, verifier, ended, verifier.created or ended, config, now)
    left = RETRY_SECONDS - (now - ended).total_seconds()
    again = [_deletion(cache, verifier)] if left <= 0 else []
    return Verification(again, verified=warmed, look_again_seconds=left if left > 0 else None)


def _next(
    cache: ModelCache,
    verifier: JobView | None,
    verified: datetime,
    begun: datetime,
    config: OperatorConfig,
    now: datetime,
) -> Verification:
    """Return what has the weights hashed when it is time. ``begun``: when the look that found them right began."""
    interval = cache.spec.verify_interval_seconds
    asked = parse_time(cache.annotations.get(ANNOTATION_VERIFY))
    is_asked = asked is not None and begun < asked <= now
    left = (verified + timedelta(seconds=interval) - now).total_seconds() if interval else None
    if not is_asked and (left is None or left > 0):
        return Verification(verified=verified, look_again_seconds=left)
    writes: list[Write] = []
    if verifier is None:
        since = asked if asked is not None and is_asked else now - timedelta(seconds=interval)
        writes = [Apply(make_verifier(cache, since, config, now), once=True)]
    elif _is_over(verifier):
        writes = [_deletion(cache, verifier)]
    return Verification(writes, verified=verified)


def _is_over(job: JobView) -> bool:
    return job.state is not JobState.ACTIVE and not job.deleting


def _is_newer(verifier: JobView, warmer: JobView) -> bool:
    return verifier.ended is not None and warmer.ended is not None and verifier.ended > warmer.ended


def _deletion(cache: ModelCache, job: JobView) -> Delete:
    return Delete("Job", cache.namespace, job.name, job.uid)
