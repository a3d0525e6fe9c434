"""What the agent does next. Pure: ``decide(config, seen, memory, now) -> (memory, action)``.

    WaitingForEngine -> Loading -> Probing -> Serving
                           |         |           |
                        Stalled    Failed     Healing -> Probing
                        Failed                   |
                                             (restart)

Ready is only who answered a real question over each protocol since its last load. Live fails only where a restart of
the engine is the one thing left that can help: the load, or an engine with a closed port, shows no sign of progress
(bytes, CPU time, GPU memory: any of them counts) for as long as ``stall.py`` allows.

Nothing is loaded while weights are missing: an engine takes what is there, or fails in words of its own.

A model that does not answer goes up the LADDER, one step at a time: unloaded and loaded again, twice, then its engine
is killed, three times at most (the kubelet starts it again at once). Where an unload itself hangs (Triton waits for
ever for requests that a dead stub took with it), the engine is killed as part of that step. Each step costs a load,
and what is wrong may be the question, or something that all replicas need: so each step waits until it is granted
(``ration.py``). A model that has come to the end of the ladder is Failed and stays observable, and only new facts
(a new pod, a new spec) or good answers change that.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from preheat_agent.config import Config
from preheat_agent.ration import Advice, may_step
from preheat_agent.stall import Pauses, limit_seconds

LOAD_RETRY_SECONDS = (10.0, 30.0, 60.0, 300.0)
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


LADDER = (Action.UNLOAD, Action.UNLOAD, Action.KILL, Action.KILL, Action.KILL)
"""The steps of healing. A killed engine loads the model anew: after it, to unload would be a step back."""


class Protocol(StrEnum):
    """How the model is asked. The two ports are two servers in the engine, and can fail apart."""

    GRPC = "GRPC"
    HTTP = "HTTP"


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
    protocol: Protocol = Protocol.GRPC


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
    advice: Advice = field(default_factory=Advice)
    """What the operator said last."""
    weights: str = ""
    """What is missing of the weights that a load would need, in words; empty when they are whole."""


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
    pauses: Pauses = field(default_factory=Pauses)
    load_failures: int = 0
    retry_at: float = 0.0
    answered: frozenset[Protocol] = frozenset()
    """Over which protocols a good answer came since the last load."""
    protocol: Protocol = Protocol.GRPC
    """How the next question is asked."""
    bad_answers: int = 0
    """In a row, over one protocol: after a bad answer the same is asked again."""
    last_answer: int = 0
    ask_at: float = 0.0
    backend_failures: float = 0.0
    healing: bool = False
    steps: int = 0
    """How far up the ladder, since the model was last well."""
    ill_since: float | None = None
    """Since when it has not been well: it failed often enough in a row."""
    waits_since: float | None = None
    """Since when the next step waits for its grant."""
    healed_at: float = 0.0
    """When the last step of healing was taken."""
    heals: int = 0
    engine_starts: int = 0

    @property
    def proven(self) -> bool:
        """Whether a good answer came over each protocol since the last load."""
        return self.answered.issuperset(Protocol)

    @property
    def exhausted(self) -> bool:
        """Whether there is no step left."""
        return self.steps >= len(LADDER)

    @property
    def next_step(self) -> Action | None:
        """The step that waits for its grant."""
        return None if self.waits_since is None or self.exhausted else LADDER[self.steps]


def decide(config: Config, seen: Seen, memory: Memory, now: float) -> tuple[Memory, Action]:
    """Return what is known now and what to do about it."""
    memory = _progress(seen, memory, now)
    if not seen.live:
        memory = _without_engine(config, seen, memory, now)
        return _without_weights(seen, memory, now) if seen.weights else memory, Action.NOTHING
    if not memory.was_live or seen.engine != memory.engine:
        starts = memory.engine_starts + 1
        memory = replace(
            _forget_load(_after_a_stall(memory)),
            was_live=True,
            engine=seen.engine,
            engine_starts=starts,
            progress_at=now,
        )
    if seen.draining:
        drained = _say(memory, State.DRAINING, "Draining", "no new requests, finishing those under way", now)
        return replace(drained, ready=False, live=True), Action.NOTHING
    if seen.busy_loading or seen.repository is Repository.LOADING:
        return _loading(config, seen, memory, now), Action.NOTHING
    if seen.repository is Repository.UNLOADING:
        return _unloading(memory, now)
    if seen.repository is Repository.READY:
        return _loaded(config, seen, memory, now)
    return _not_loaded(seen, memory, now)


def _progress(seen: Seen, memory: Memory, now: float) -> Memory:
    if seen.marker == memory.marker:
        return memory
    pauses = memory.pauses.saw(now - memory.progress_at, now) if _is_loading(seen) else memory.pauses
    return replace(memory, marker=seen.marker, progress_at=now, pauses=pauses)


def _is_loading(seen: Seen) -> bool:
    return seen.live and (seen.busy_loading or seen.repository is Repository.LOADING)


def _without_engine(config: Config, seen: Seen, memory: Memory, now: float) -> Memory:
    if memory.was_live:
        memory = replace(_forget_load(memory), was_live=False, progress_at=now)
    limit = limit_seconds(config.stall_seconds, memory.pauses, seen.advice.load_seconds)
    if seen.process and now - memory.progress_at > limit:
        words = f"the engine's process runs, but its port stays closed; no progress for {limit:.0f} s"
        return _stalled(memory, "EngineStalled", words, now, live=False)
    memory = _after_a_stall(memory)
    words = "the engine is starting" if seen.process else "the engine's process is not there yet"
    return replace(
        _say(memory, State.WAITING_FOR_ENGINE, "EngineStarting", words, now), ready=False, live=True
    )


def _after_a_stall(memory: Memory) -> Memory:
    """Give the next load more time, where the engine was restarted because the last one stalled."""
    if memory.state is not State.STALLED:
        return memory
    return replace(memory, pauses=memory.pauses.stalled())


def _without_weights(seen: Seen, memory: Memory, now: float) -> Memory:
    """Say what is missing, and load nothing until it is there. No restart of the engine can help."""
    return _say(memory, State.FAILED, "WeightsIncomplete", seen.weights, now)


def _forget_load(memory: Memory) -> Memory:
    return replace(
        memory,
        ready=False,
        live=True,
        answered=frozenset(),
        bad_answers=0,
        healing=False,
        waits_since=None,
        load_failures=0,
        retry_at=0.0,
        ask_at=0.0,
    )


def _loading(config: Config, seen: Seen, memory: Memory, now: float) -> Memory:
    limit = limit_seconds(config.stall_seconds, memory.pauses, seen.advice.load_seconds)
    if now - memory.progress_at > limit:
        words = f"the load made no progress for {limit:.0f} s"
        return _stalled(memory, "LoadStalled", words, now, live=memory.exhausted)
    if memory.healing:
        told = _say(memory, State.HEALING, "Reloading", "the model is loaded again", now)
    else:
        told = _say(memory, State.LOADING, "Loading", "the model is loading", now)
    fresh = replace(told, answered=frozenset(), bad_answers=0, waits_since=None, ask_at=0.0)
    # A question that was under way as the model went says nothing of the one that comes.
    last = seen.answer.number if seen.answer is not None else memory.last_answer
    return replace(fresh, ready=False, live=True, last_answer=last)


def _stalled(memory: Memory, reason: str, words: str, now: float, *, live: bool) -> Memory:
    stalled = _say(memory, State.STALLED, reason, words, now)
    return replace(stalled, ready=False, live=live)


def _unloading(memory: Memory, now: float) -> tuple[Memory, Action]:
    memory = replace(memory, ready=False, live=True, answered=frozenset())
    if memory.healing and not memory.exhausted and now - memory.healed_at > UNLOAD_SECONDS:
        # Part of the step that was granted: without it the model would stay where it is for ever.
        return _step(memory, Action.KILL, "the model does not unload", now)
    return memory, Action.NOTHING


def _not_loaded(seen: Seen, memory: Memory, now: float) -> tuple[Memory, Action]:
    memory = replace(memory, ready=False, live=True, answered=frozenset())
    if seen.weights:
        return _without_weights(seen, memory, now), Action.NOTHING
    if seen.load_error is None:
        told = _say(memory, State.LOADING, "Loading", "the model is loading", now)
        if memory.healing:
            told = _say(memory, State.HEALING, "Reloading", "the model is loaded again", now)
        return replace(told, progress_at=now, pauses=memory.pauses.began(now)), Action.LOAD
    if memory.state is not State.FAILED or memory.reason != "LoadFailed":
        wait = LOAD_RETRY_SECONDS[min(memory.load_failures, len(LOAD_RETRY_SECONDS) - 1)]
        memory = replace(memory, load_failures=memory.load_failures + 1, retry_at=now + wait)
        return _say(memory, State.FAILED, "LoadFailed", seen.load_error, now), Action.NOTHING
    if now < memory.retry_at:
        return memory, Action.NOTHING
    told = _say(memory, State.LOADING, "Loading", "the model is loading, another try", now)
    return replace(told, progress_at=now, pauses=memory.pauses.began(now)), Action.LOAD


def _loaded(config: Config, seen: Seen, memory: Memory, now: float) -> tuple[Memory, Action]:
    memory = _take_answer(config, seen, replace(memory, pauses=memory.pauses.ended()), now)
    if memory.bad_answers >= config.canary.failure_threshold:
        return _unwell(config, seen, memory, now)
    if not memory.proven:
        state = State.HEALING if memory.healing else State.PROBING
        memory = replace(
            _say(memory, state, "Probing", "waiting for the first good answer", now), ready=False, live=True
        )
    # Failures of the backend seen in the engine's own counters are reason enough to ask at once.
    if seen.backend_failures > memory.backend_failures:
        memory = replace(memory, ask_at=now)
    memory = replace(memory, backend_failures=seen.backend_failures)
    return _ask(seen, memory, now, again_after=config.canary.period_seconds)


def _ask(seen: Seen, memory: Memory, now: float, again_after: float) -> tuple[Memory, Action]:
    if seen.busy_asking or now < memory.ask_at:
        return memory, Action.NOTHING
    return replace(memory, ask_at=now + again_after), Action.ASK


def _take_answer(config: Config, seen: Seen, memory: Memory, now: float) -> Memory:
    if seen.answer is None or seen.answer.number <= memory.last_answer:
        return memory
    memory = replace(memory, last_answer=seen.answer.number)
    if not seen.answer.good:
        bad = replace(
            memory,
            protocol=seen.answer.protocol,
            bad_answers=memory.bad_answers + 1,
            message=f"over {seen.answer.protocol}: {seen.answer.message}",
        )
        in_doubt = bad.bad_answers < config.canary.failure_threshold
        return replace(bad, ask_at=now + RECHECK_SECONDS) if in_doubt else bad
    answered = memory.answered | {seen.answer.protocol}
    memory = replace(memory, answered=answered, protocol=_other(seen.answer.protocol), bad_answers=0)
    if not memory.proven:
        return replace(memory, ask_at=now)
    return replace(
        _say(memory, State.SERVING, "Serving", "", now),
        ready=True,
        live=True,
        healing=False,
        steps=0,
        ill_since=None,
        waits_since=None,
        load_failures=0,
        ask_at=now + config.canary.period_seconds,
    )


def _other(protocol: Protocol) -> Protocol:
    return Protocol.HTTP if protocol is Protocol.GRPC else Protocol.GRPC


def _unwell(config: Config, seen: Seen, memory: Memory, now: float) -> tuple[Memory, Action]:
    """Return the next step up for a model that does not answer, once it is granted; it is asked on until then."""
    memory = replace(memory, ready=False, live=True, answered=frozenset())
    if memory.exhausted:
        failed = _say(memory, State.FAILED, "CanaryFailed", memory.message, now)
        # Nothing helped. Keep asking now and then: what is broken may be elsewhere.
        return _ask(seen, replace(failed, waits_since=None), now, again_after=GIVEN_UP_PERIOD_SECONDS)
    ill_since = now if memory.ill_since is None else memory.ill_since
    waits_since = now if memory.waits_since is None else memory.waits_since
    memory = replace(memory, ill_since=ill_since, waits_since=waits_since)
    if may_step(seen.advice, memory.steps + 1, waits_since, config.spread, now):
        return _step(memory, LADDER[memory.steps], memory.message, now)
    waiting = _say(memory, State.HEALING, "CanaryFailed", memory.message, now)
    return _ask(seen, waiting, now, again_after=config.canary.period_seconds)


def _step(memory: Memory, action: Action, words: str, now: float) -> tuple[Memory, Action]:
    stepped = replace(
        memory,
        steps=memory.steps + 1,
        waits_since=None,
        healing=True,
        healed_at=now,
        bad_answers=0,
        heals=memory.heals + (action is Action.UNLOAD),
    )
    reason = "CanaryFailed" if action is Action.UNLOAD else "EngineRestart"
    return _say(stepped, State.HEALING, reason, words, now), action


def _say(memory: Memory, state: State, reason: str, message: str, now: float) -> Memory:
    since = memory.since if memory.state is state else now
    return replace(memory, state=state, reason=reason, message=message, since=since)
