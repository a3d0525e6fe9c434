"""The revisions that are rolled out: the good ones, and those that must be rolled back. Each is a folder of weights.

The weights are a whole Triton model repository, a few hundred kilobytes; a file in it says how the model behaves.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from preheat.api.conditions import Reason

from e2e.images.catalog import IMAGES
from e2e.install import TAG

MODEL = "m"
"""What the model is called in every repository."""
CANARY = "Are you well?"
WEIGHTS_BYTES = 256 << 10
LOAD_SECONDS = 3.0
SLOW_LOAD_SECONDS = 10 * LOAD_SECONDS
SLOW_ANSWER_SECONDS = 0.5
DIES_AFTER_SECONDS = 60.0
STALL_SECONDS = 20
SOAK_SECONDS = 60
"""Four looks at the comparison with the predecessor, 15 s apart."""
LONG_SOAK_SECONDS = 180
"""For what only shows after a minute."""
ERROR_RATE, LATENCY = "ErrorRateRose", "LatencyRose"
PREFLIGHT, NOWHERE = "PreflightFailed", "Unschedulable"
INCLUDE = ("*.py", "*.json", "*.pbtxt", "*.dat")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a model behaves (`model.py`). ``load``: well, raises, stalls or out-of-memory; ``answers``: well, errors or
    empty; ``dies``: stub, server or nobody. ``spared``: the question that is answered well all the same."""

    revision: str
    load: str = "well"
    load_seconds: float = LOAD_SECONDS
    memory_bytes: int = 2 << 30
    answers: str = "well"
    answer_seconds: float = 0.0
    spared: str = ""
    dies: str = ""
    dies_after_seconds: float = DIES_AFTER_SECONDS
    tensors: tuple[str, str] = ("text_input", "text_output")


@dataclass(frozen=True, slots=True)
class Revision:
    """A behaviour, and what else is particular to it in the spec.

    ``reasons``: the reasons that are right for taking it back, none for a good one. ``serves``: whether it takes
    traffic before it is found out, so that requests to it fail. ``moves_nothing``: whether it is found out before a good
    replica has to make room. ``stored``: as what its weights lie in the store.
    """

    behaviour: Behaviour
    spec: Mapping[str, Any] = field(default_factory=dict)
    reasons: frozenset[str] = frozenset()
    serves: bool = False
    moves_nothing: bool = False
    stored: str = "whole"
    soak_seconds: int = SOAK_SECONDS

    @property
    def name(self) -> str:
        return self.behaviour.revision


def _good(name: str, **behaviour: Any) -> Revision:
    return Revision(Behaviour(name, **behaviour))


def _bad(
    name: str,
    *reasons: str,
    spec: Mapping[str, Any] | None = None,
    serves: bool = False,
    moves_nothing: bool = False,
    stored: str = "whole",
    soak_seconds: int = SOAK_SECONDS,
    **behaviour: Any,
) -> Revision:
    made = Behaviour(name, **behaviour)
    return Revision(made, spec or {}, frozenset(reasons), serves, moves_nothing, stored, soak_seconds)


def _engine(**container: Any) -> dict[str, Any]:
    """Return a spec that lays something over the engine's container."""
    return {"template": {"spec": {"containers": [{"name": "engine", **container}]}}}


GOOD = (_good("good-1"), _good("good-2"))
OTHER_IMAGE = _engine(imagePullPolicy="Never")
"""The engine's image on other terms: it has to be there anew on each node, and is on every cluster by this name alone."""
SLOW_LOAD = _good("slow-load", load_seconds=SLOW_LOAD_SECONDS)

# What a container runtime and the kernel say of memory that ran out differs: with one cgroup for all processes of a
# container the engine ends, else its stub alone, and the load fails.
_CRASHES = (Reason.ENGINE_CRASHING, Reason.CANARY_FAILED, Reason.LOAD_FAILED, ERROR_RATE)

BAD = (
    _bad(
        "bad-image",
        Reason.IMAGE_UNAVAILABLE,
        spec={"runtime": {"image": "ghcr.io/preheat-dev/no-such-image:dev"}},
        moves_nothing=True,
    ),
    _bad("missing-weights", Reason.WEIGHTS_FAILED, stored="missing"),
    _bad("corrupt-weights", Reason.WEIGHTS_FAILED, stored="corrupt"),
    _bad("load-raises", Reason.LOAD_FAILED, load="raises"),
    _bad("load-stalls", Reason.LOAD_STALLED, load="stalls", spec={"health": {"stallSeconds": STALL_SECONDS}}),
    _bad("out-of-memory", Reason.LOAD_FAILED, Reason.ENGINE_CRASHING, load="out-of-memory"),
    _bad("errors", ERROR_RATE, answers="errors", spared=CANARY, serves=True),
    _bad("empty-answers", Reason.CANARY_FAILED, answers="empty"),
    _bad("slow-answers", LATENCY, answer_seconds=SLOW_ANSWER_SECONDS, spared=CANARY, serves=True),
    _bad("stub-crash", *_CRASHES, dies="stub", serves=True, soak_seconds=LONG_SOAK_SECONDS),
    _bad("wrong-tensors", Reason.CANARY_FAILED, tensors=("prompt", "answer")),
    _bad(
        "unsatisfiable-gpu",
        PREFLIGHT,
        NOWHERE,
        spec={"hardware": {"gpu": {"types": ["nvidia-h100-80gb"]}}},
    ),
)
"""The twelve of issue 7."""

MORE_BAD = (
    _bad("server-crash", *_CRASHES, dies="server", serves=True, soak_seconds=LONG_SOAK_SECONDS),
    _bad("errors-to-all", Reason.CANARY_FAILED, answers="errors"),
    _bad(
        "missing-secret",
        Reason.REFERENCE_MISSING,
        spec=_engine(
            env=[{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "no-such-secret", "key": "key"}}}]
        ),
        moves_nothing=True,
    ),
    _bad("too-many-gpus", PREFLIGHT, NOWHERE, spec={"hardware": {"gpu": {"count": 4}}}),
)
"""The same failures in another guise, and what else a pod cannot start without."""

ALL = {revision.name: revision for revision in (*GOOD, SLOW_LOAD, *BAD, *MORE_BAD)}


def engine_image() -> str:
    return IMAGES["triton-cpu"].reference(TAG)


def files() -> dict[str, str | int]:
    """Return what the store has to serve: a text, or how many bytes a file is filled with.

    Every folder has its digests; one file of the folder that is corrupt does not match.
    """
    found: dict[str, str | int] = {}
    for revision in ALL.values():
        if revision.stored != "missing":
            found |= {f"{revision.name}/{path}": content for path, content in _repository(revision).items()}
    return found


def filled(size_bytes: int) -> bytes:
    """Return the bytes of a file that only has a size."""
    return b"w" * size_bytes


def _repository(revision: Revision) -> dict[str, str | int]:
    behaviour = revision.behaviour
    content: dict[str, str | int] = {
        f"{MODEL}/config.pbtxt": _config(behaviour),
        f"{MODEL}/1/model.py": Path(__file__).with_name("model.py").read_text(),
        f"{MODEL}/1/behaviour.json": json.dumps(asdict(behaviour), indent=2) + "\n",
        f"{MODEL}/1/weights.dat": WEIGHTS_BYTES,
    }
    return {**content, "SHA256SUMS": _sums(content, last=b"!" if revision.stored == "corrupt" else b"w")}


def _sums(content: Mapping[str, str | int], last: bytes) -> str:
    """Return the digests of a folder. ``last``: what those of files that only have a size take for their last byte."""
    lines = []
    for path, what in content.items():
        body = what.encode() if isinstance(what, str) else filled(what - 1) + last
        lines.append(f"{hashlib.sha256(body).hexdigest()}  {path}\n")
    return "".join(lines)


def _config(behaviour: Behaviour) -> str:
    tensors = "".join(
        f'{side} [ {{ name: "{name}" data_type: TYPE_STRING dims: [ 1 ] }} ]\n'
        for side, name in zip(("input", "output"), behaviour.tensors, strict=True)
    )
    return (
        f'backend: "python"\nmax_batch_size: 0\n{tensors}instance_group [ {{ kind: KIND_CPU count: 1 }} ]\n'
    )
