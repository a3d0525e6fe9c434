"""The agent's ladder: who is ready, who is loaded again, who is restarted, and who is left alone."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat.decide.observed import AgentState
from preheat_agent.config import Canary, Config
from preheat_agent.ladder import (
    LOAD_RETRY_SECONDS,
    RESTARTS_AT_MOST,
    UNLOAD_SECONDS,
    Action,
    Answer,
    Memory,
    Repository,
    Seen,
    State,
    decide,
)

CONFIG = Config(
    model_name="m",
    models=("m",),
    engine_http="http://127.0.0.1:1",
    engine_grpc="127.0.0.1:1",
    engine_metrics="http://127.0.0.1:1/metrics",
    engine_process="tritonserver",
    weights_directory="/mnt/models",
    listen_port=9080,
    admin_key=None,
    stall_seconds=60,
    drain_timeout_seconds=10,
    endpoint_delay_seconds=1,
    canary=Canary("hi", 8, None, 30, 10, 2, "text_input", "text_output"),
)
LIVE = Seen(live=True, process=True)
LOADED = replace(LIVE, repository=Repository.READY)


class Engine:
    """Plays an engine to the ladder, look by look, on a clock of its own."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.now = 0.0
        self.actions: list[Action] = []
        self._answers = 0

    def look(self, seen: Seen, seconds: float = 0.5) -> Action:
        self.now += seconds
        self.memory, action = decide(CONFIG, seen, self.memory, self.now)
        if action is not Action.NOTHING:
            self.actions.append(action)
        return action

    def answer(self, *, good: bool, message: str = "no") -> Answer:
        self._answers += 1
        return Answer(self._answers, good=good, message=message)

    def serve(self) -> None:
        assert self.look(LIVE) is Action.LOAD
        self.look(replace(LIVE, busy_loading=True))
        assert self.look(LOADED) is Action.ASK
        self.look(replace(LOADED, answer=self.answer(good=True)))
        assert self.memory.state is State.SERVING
        assert self.memory.ready


def test_the_straight_way_up() -> None:
    engine = Engine()
    engine.look(Seen(live=False, process=False))
    assert engine.memory.state is State.WAITING_FOR_ENGINE
    engine.serve()
    assert engine.memory.engine_starts == 1


def test_loaded_is_not_ready_before_a_good_answer() -> None:
    engine = Engine()
    engine.look(LIVE)
    engine.look(LOADED)
    assert engine.memory.state is State.PROBING
    assert not engine.memory.ready


def test_a_load_with_progress_is_never_given_up() -> None:
    engine = Engine()
    engine.look(LIVE)
    for look in range(10_000):
        engine.look(replace(LIVE, busy_loading=True, marker=(float(look),)), seconds=CONFIG.stall_seconds - 1)
        assert engine.memory.live
        assert engine.memory.state is State.LOADING


def test_a_load_without_progress_stalls_and_only_then() -> None:
    engine = Engine()
    engine.look(LIVE)
    stuck = replace(LIVE, busy_loading=True, marker=(1.0,))
    engine.look(stuck)
    engine.look(stuck, seconds=CONFIG.stall_seconds - 1)
    assert engine.memory.live
    engine.look(stuck, seconds=2)
    assert engine.memory.state is State.STALLED
    assert not engine.memory.live


def test_a_port_that_stays_closed_stalls_only_while_the_process_is_there() -> None:
    engine = Engine()
    engine.look(Seen(live=False, process=False), seconds=10_000)
    assert engine.memory.live
    engine.look(Seen(live=False, process=True), seconds=10_000)
    assert engine.memory.state is State.STALLED


def test_one_bad_answer_is_doubt_two_are_an_illness() -> None:
    engine = Engine()
    engine.serve()
    engine.look(replace(LOADED, answer=engine.answer(good=False)))
    assert engine.memory.ready, "one failure alone takes nobody out"
    assert engine.look(LOADED, seconds=1.1) is Action.ASK, "doubt is settled fast"
    assert engine.look(replace(LOADED, answer=engine.answer(good=False))) is Action.UNLOAD
    assert engine.memory.state is State.HEALING
    assert not engine.memory.ready


def test_backend_failures_make_it_ask_at_once() -> None:
    engine = Engine()
    engine.serve()
    assert engine.look(LOADED) is Action.NOTHING
    assert engine.look(replace(LOADED, backend_failures=1)) is Action.ASK


def _heal(engine: Engine, *, good: bool) -> None:
    engine.look(replace(LIVE, repository=Repository.UNLOADING))
    assert engine.look(LIVE) is Action.LOAD
    engine.look(replace(LIVE, busy_loading=True))
    engine.look(LOADED)
    engine.look(replace(LOADED, answer=engine.answer(good=good)))


def test_unload_and_load_heals() -> None:
    engine = Engine()
    engine.serve()
    for _ in range(2):
        engine.look(replace(LOADED, answer=engine.answer(good=False)), seconds=2)
    _heal(engine, good=True)
    assert engine.memory.state is State.SERVING
    assert engine.memory.heals == 1
    assert Action.KILL not in engine.actions


def test_an_unload_that_hangs_ends_in_a_new_engine() -> None:
    engine = Engine()
    engine.serve()
    for _ in range(2):
        engine.look(replace(LOADED, answer=engine.answer(good=False)), seconds=2)
    hanging = replace(LIVE, repository=Repository.UNLOADING)
    engine.look(hanging, seconds=UNLOAD_SECONDS - 1)
    assert Action.KILL not in engine.actions
    assert engine.look(hanging, seconds=2) is Action.KILL
    engine.look(Seen(live=False, process=False))
    engine.serve()


def test_what_does_not_help_is_not_done_without_end() -> None:
    """A prompt that the model can never answer: three new engines, and then it is left alone, observable."""
    engine = Engine()
    for _ in range(500):
        if engine.actions and engine.actions[-1] is Action.KILL:
            engine.look(Seen(live=False, process=False))
        if engine.look(LOADED, seconds=5) is Action.ASK:
            engine.look(replace(LOADED, answer=engine.answer(good=False)))
        if engine.actions and engine.actions[-1] is Action.UNLOAD:
            engine.look(LIVE)
    assert engine.actions.count(Action.KILL) == RESTARTS_AT_MOST
    assert engine.memory.state is State.FAILED
    assert engine.memory.reason == "CanaryFailed"
    assert engine.memory.live, "a restart would not help, so none is asked for"


def test_a_load_that_fails_is_told_and_tried_again_later_and_later() -> None:
    engine = Engine()
    engine.look(LIVE)
    failed = replace(LIVE, load_error="weights not found")
    tries = []
    for _ in range(4000):
        if engine.look(failed, seconds=1) is Action.LOAD:
            tries.append(engine.now)
            engine.look(replace(LIVE, busy_loading=True))
    assert engine.memory.live
    waits = [round(b - a) for a, b in itertools.pairwise(tries)]
    assert waits[0] >= LOAD_RETRY_SECONDS[1]
    assert max(waits) <= LOAD_RETRY_SECONDS[-1] + 5
    assert waits == sorted(waits)


def test_an_engine_that_restarts_by_itself_is_loaded_again() -> None:
    engine = Engine()
    engine.serve()
    engine.look(Seen(live=False, process=False))
    assert not engine.memory.ready
    engine.serve()
    assert engine.memory.engine_starts == 2


def test_an_engine_that_ended_and_came_back_between_two_looks_is_noticed() -> None:
    engine = Engine()
    engine.serve()
    assert engine.look(replace(LIVE, engine=99)) is Action.LOAD
    assert not engine.memory.ready
    assert engine.memory.engine_starts == 2


def test_draining_is_not_ready_and_asks_nothing() -> None:
    engine = Engine()
    engine.serve()
    assert engine.look(replace(LOADED, draining=True), seconds=100) is Action.NOTHING
    assert engine.memory.state is State.DRAINING
    assert not engine.memory.ready
    assert engine.memory.live


SEEN = st.builds(
    Seen,
    live=st.booleans(),
    process=st.booleans(),
    repository=st.sampled_from(Repository),
    busy_loading=st.booleans(),
    load_error=st.none() | st.just("broken"),
    marker=st.tuples(st.floats(0, 5)),
    answer=st.none()
    | st.builds(Answer, number=st.integers(1, 200), good=st.booleans(), message=st.just("x")),
    busy_asking=st.booleans(),
    backend_failures=st.floats(0, 3),
    draining=st.booleans(),
)


@settings(max_examples=300)
@given(st.lists(st.tuples(SEEN, st.floats(0.1, 100)), max_size=60))
def test_whatever_happens_the_promises_hold(looks: list[tuple[Seen, float]]) -> None:
    memory, now = Memory(), 0.0
    for seen, seconds in looks:
        now += seconds
        memory, action = decide(CONFIG, seen, memory, now)
        if memory.ready:
            assert memory.proven, "ready only who answered since the last load"
            assert seen.live
            assert not seen.draining
        if not memory.live:
            assert memory.state is State.STALLED, "live fails only where no progress was made"
        assert memory.restarts <= RESTARTS_AT_MOST
        if action is not Action.NOTHING:
            assert seen.live, "nothing is asked of an engine that is not there"


@pytest.mark.parametrize("state", State)
def test_every_state_is_known_to_the_operator(state: State) -> None:
    assert AgentState(state.value)
