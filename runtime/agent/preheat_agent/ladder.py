"""What the agent does next. Pure: ``decide(config, seen, memory, now) -> (memory, action)``.

    WaitingForEngine -> Loading -> Probing -> Serving
                           |         |           |
                        Stalled    Failed     Healing -> Probing
                        Failed                   |
                                             (restart)

Ready is only who answered a real question since its last load. Live fails only where a restart of the
engine is the one thing left that can help:

* the load makes no progress for ``stall_seconds`` (bytes, CPU time, GPU memory: any of them counts),
* the engine's process is there, but its port stays closed that long without progress.

A model that does not answer is first unloaded and loaded again. Where that does not help, twice in a row, or
the unload itself hangs (Triton waits for ever for requests that a dead stub took with it), the engine is
killed: the kubelet starts it again at once. What did not help is not done without end: after
RESTARTS_AT_MOST the model is Failed and stays observable, and only new facts (a new pod, a new spec) or a
good answer change that.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from preheat_agent.config import Config

LOAD_RETRY_SECONDS = (10.0, 30.0, 60.0, 300.0)
HEALS_BEFORE_RESTART = 2
RESTARTS_AT_MOST = 3
RECHECK_SECONDS = 1.0
"""After a failed answer the next question comes this soon: doubt is settled fast."""
UNLOAD_SECONDS = 10.0
"""A healthy unload takes two to three seconds."""
GIVEN_UP_PERIOD_SECONDS = 60.0
"""How often a model that never answered is asked again."""


class State(StrEnum):
    """What is said of the model."""

    WAITING_FOR_ENGINE = "WaitingForEngine"
    LOADING = "Loading"
    PROBING = "Probing"
    SERVING = "Serving"
    HEALING = "Healing"
    STALLED = "Stalled"
    FAILED = "Failed"
    DRAINING = "Draining"


class Action(StrEnum):
    """What the loop does now. At most one at a time."""

    NOTHING = "Nothing"
    LOAD = "Load"
    UNLOAD = "Unload"
    ASK = "Ask"
    KILL = "Kill"


class Repository(StrEnum):
    """Where the models stand in the engine's repository, all taken together."""

    ABSENT = "Absent"
    LOADING = "Loading"
    READY = "Ready"
    UNLOADING = "Unloading"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a question ended. ``number`` tells answers apart."""

    number: int
    good: bool
    message: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the engine."""

    live: bool
    process: bool
    engine: int = 0
    """Tells one engine from the next (its pid): one that ended and came back between two looks is another."""
    repository: Repository = Repository.ABSENT
    busy_loading: bool = False
    """Whether our own load call is still under way."""
    load_error: str | None = None
    """What the last load call ended with, None for well."""
    marker: tuple[float, ...] = ()
    """Anything that moves when work is done: a change is evidence of progress."""
    answer: Answer | None = None
    busy_asking: bool = False
    backend_failures: float = 0.0
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What one look leaves for the next. Times are seconds on the loop's clock."""

    state: State = State.WAITING_FOR_ENGINE
    reason: str = "EngineStarting"
    message: str = ""
    since: float = 0.0
    live: bool = True
    ready: bool = False
    was_live: bool = False
    engine: int = 0
    marker: tuple[float, ...] = ()
    progress_at: float = 0.0
    load_failures: int = 0
    retry_at: float = 0.0
    proven: bool = False
    """A good answer came since the last load."""
    bad_answers: int = 0
    last_answer: int = 0
    ask_at: float = 0.0
    backend_failures: float = 0.0
    healing: bool = False
    heals_in_a_row: int = 0
    restarts: int = 0
    """Times that the engine was killed since the last good answer."""
    healed_at: float = 0.0
    """When the last step of healing was taken."""
    heals: int = 0
    engine_starts: int = 0


def decide(config: Config, seen: Seen, memory: Memory, now: float) -> tuple[Memory, Action]:
    """Return what is known now and what to do about it."""
    memory = _progress(seen, memory, now)
    if not seen.live:
        return _without_engine(config, seen, memory, now), Action.NOTHING
    if not memory.was_live or seen.engine != memory.engine:
        memory = replace(memory, was_live=True, engine_starts=memory.engine_starts + 1, progress_at=now)
        memory = replace(_forget_load(memory), engine=seen.engine)
    if seen.draining:
        drained = _say(memory, State.DRAINING, "Draining", "no new requests, finishing those under way", now)
        return replace(drained, ready=False, live=True), Action.NOTHING
    if seen.busy_loading or seen.repository is Repository.LOADING:
        return _loading(config, memory, now), Action.NOTHING
    if seen.repository is Repository.UNLOADING:
        return _unloading(memory, now)
    if seen.repository is Repository.READY:
        return _loaded(config, seen, memory, now)
    return _not_loaded(seen, memory, now)


def _progress(seen: Seen, memory: Memory, now: float) -> Memory:
    if seen.marker == memory.marker:
        return memory
    return replace(memory, marker=seen.marker, progress_at=now)


def _without_engine(config: Config, seen: Seen, memory: Memory, now: float) -> Memory:
    if memory.was_live:
        memory = replace(_forget_load(memory), was_live=False, progress_at=now)
    stuck = seen.process and now - memory.progress_at > config.stall_seconds
    if stuck:
        words = f"the engine's process runs, but its port stays closed; no progress for {config.stall_seconds:g} s"
        return replace(_say(memory, State.STALLED, "EngineStalled", words, now), ready=False, live=False)
    words = "the engine is starting" if seen.process else "the engine's process is not there yet"
    return replace(
        _say(memory, State.WAITING_FOR_ENGINE, "EngineStarting", words, now), ready=False, live=True
    )


def _forget_load(memory: Memory) -> Memory:
    return replace(
        memory,
        ready=False,
        live=True,
        proven=False,
        bad_answers=0,
        healing=False,
        heals_in_a_row=0,
        load_failures=0,
        retry_at=0.0,
        ask_at=0.0,
    )


def _loading(config: Config, memory: Memory, now: float) -> Memory:
    if now - memory.progress_at > config.stall_seconds:
        words = f"the load made no progress for {config.stall_seconds:g} s"
        return replace(
            _say(memory, State.STALLED, "LoadStalled", words, now), ready=False, live=_may_not_restart(memory)
        )
    if memory.healing:
        told = _say(memory, State.HEALING, "Reloading", "the model is loaded again", now)
    else:
        told = _say(memory, State.LOADING, "Loading", "the model is loading", now)
    return replace(told, ready=False, live=True, proven=False, bad_answers=0, ask_at=0.0)


def _unloading(memory: Memory, now: float) -> tuple[Memory, Action]:
    memory = replace(memory, ready=False, live=True)
    if memory.healing and now - memory.healed_at > UNLOAD_SECONDS:
        return _restart(memory, "the model does not unload", now)
    return memory, Action.NOTHING


def _not_loaded(seen: Seen, memory: Memory, now: float) -> tuple[Memory, Action]:
    memory = replace(memory, ready=False, live=True, proven=False)
    if seen.load_error is None:
        told = _say(memory, State.LOADING, "Loading", "the model is loading", now)
        if memory.healing:
            told = _say(memory, State.HEALING, "Reloading", "the model is loaded again", now)
        return replace(told, progress_at=now), Action.LOAD
    if memory.state is not State.FAILED or memory.reason != "LoadFailed":
        wait = LOAD_RETRY_SECONDS[min(memory.load_failures, len(LOAD_RETRY_SECONDS) - 1)]
        memory = replace(memory, load_failures=memory.load_failures + 1, retry_at=now + wait)
        return _say(memory, State.FAILED, "LoadFailed", seen.load_error, now), Action.NOTHING
    if now < memory.retry_at:
        return memory, Action.NOTHING
    told = _say(memory, State.LOADING, "Loading", "the model is loading, another try", now)
    return replace(told, progress_at=now), Action.LOAD


def _loaded(config: Config, seen: Seen, memory: Memory, now: float) -> tuple[Memory, Action]:
    memory = _take_answer(config, seen, memory, now)
    if memory.bad_answers >= config.canary.failure_threshold:
        return _unwell(memory, now)
    if not memory.proven:
        state = State.HEALING if memory.healing else State.PROBING
        memory = replace(
            _say(memory, state, "Probing", "waiting for the first good answer", now), ready=False, live=True
        )
    # Failures of the backend seen in the engine's own counters are reason enough to ask at once.
    if seen.backend_failures > memory.backend_failures:
        memory = replace(memory, ask_at=now)
    memory = replace(memory, backend_failures=seen.backend_failures)
    if seen.busy_asking or now < memory.ask_at:
        return memory, Action.NOTHING
    return replace(memory, ask_at=now + config.canary.period_seconds), Action.ASK


def _take_answer(config: Config, seen: Seen, memory: Memory, now: float) -> Memory:
    if seen.answer is None or seen.answer.number <= memory.last_answer:
        return memory
    memory = replace(memory, last_answer=seen.answer.number)
    if seen.answer.good:
        told = _say(memory, State.SERVING, "Serving", "", now)
        return replace(
            told,
            ready=True,
            live=True,
            proven=True,
            bad_answers=0,
            healing=False,
            heals_in_a_row=0,
            restarts=0,
            load_failures=0,
            ask_at=now + config.canary.period_seconds,
        )
    return replace(
        memory,
        bad_answers=memory.bad_answers + 1,
        message=seen.answer.message,
        ask_at=now + RECHECK_SECONDS,
    )


def _unwell(memory: Memory, now: float) -> tuple[Memory, Action]:
    """Return the next step up for a model that does not answer: load it again, then a new engine, then no more."""
    if memory.heals_in_a_row >= HEALS_BEFORE_RESTART:
        return _restart(memory, memory.message, now)
    healing = replace(
        memory,
        healing=True,
        healed_at=now,
        proven=False,
        ready=False,
        live=True,
        bad_answers=0,
        heals=memory.heals + 1,
        heals_in_a_row=memory.heals_in_a_row + 1,
    )
    return _say(healing, State.HEALING, "CanaryFailed", memory.message, now), Action.UNLOAD


def _restart(memory: Memory, words: str, now: float) -> tuple[Memory, Action]:
    memory = replace(memory, ready=False, live=True, proven=False)
    if memory.restarts < RESTARTS_AT_MOST:
        killed = replace(memory, restarts=memory.restarts + 1, healing=True, healed_at=now, bad_answers=0)
        return _say(killed, State.HEALING, "EngineRestart", words, now), Action.KILL
    failed = _say(memory, State.FAILED, "CanaryFailed", words, now)
    # Nothing helped. Keep asking now and then: what is broken may be elsewhere.
    if now < memory.ask_at:
        return failed, Action.NOTHING
    return replace(failed, ask_at=now + GIVEN_UP_PERIOD_SECONDS), Action.ASK


def _may_not_restart(memory: Memory) -> bool:
    return memory.restarts >= RESTARTS_AT_MOST


def _say(memory: Memory, state: State, reason: str, message: str, now: float) -> Memory:
    since = memory.since if memory.state is state else now
    return replace(memory, state=state, reason=reason, message=message, since=since)
