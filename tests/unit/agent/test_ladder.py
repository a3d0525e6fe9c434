"""The agent's ladder: who is ready, who is loaded again, who is restarted, and who is left alone."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preheat.decide.observed import AgentState
from preheat_agent.config import Canary, Config
from preheat_agent.ladder import (
    LADDER,
    LOAD_RETRY_SECONDS,
    UNLOAD_SECONDS,
    Action,
    Answer,
    Memory,
    Protocol,
    Repository,
    Seen,
    State,
    decide,
)
from preheat_agent.ration import AWAY_SECONDS, Advice

STALL_SECONDS = 60.0
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
    stall_seconds=STALL_SECONDS,
    drain_timeout_seconds=10,
    endpoint_delay_seconds=1,
    canary=Canary("hi", 8, None, 30, 10, 2, "text_input", "text_output"),
)
LIVE = Seen(live=True, process=True)
LOADED = replace(LIVE, repository=Repository.READY)


class Engine:
    """Plays an engine to the ladder, look by look, on a clock of its own. The operator grants all, or is away."""

    def __init__(self, *, granted: bool = True, config: Config = CONFIG) -> None:
        self.memory = Memory()
        self.now = 0.0
        self.actions: list[Action] = []
        self.advice = Advice()
        self._granted = granted
        self._config = config
        self._answers = 0

    def look(self, seen: Seen, seconds: float = 0.5) -> Action:
        self.now += seconds
        if self._granted and self.memory.next_step is not None:
            self.advice = Advice(self.now, self.memory.steps + 1, self.now + 20)
        seen = replace(seen, advice=self.advice)
        self.memory, action = decide(self._config, seen, self.memory, self.now)
        if action is not Action.NOTHING:
            self.actions.append(action)
        return action

    def answer(self, *, good: bool, message: str = "no") -> Answer:
        self._answers += 1
        return Answer(self._answers, good=good, message=message, protocol=self.memory.protocol)

    def fall_ill(self) -> Action:
        """Fail twice; the step that follows is taken where it is granted."""
        for _ in range(2):
            action = self.look(replace(LOADED, answer=self.answer(good=False)), seconds=2)
        return action if action in LADDER else self.look(LOADED)

    def ignore(self, looks: int, seconds: float = 5) -> None:
        """Answer every question badly, and do what is asked for at once."""
        for _ in range(looks):
            if self.actions and self.actions[-1] is Action.KILL:
                self.look(Seen(live=False, process=False))
            if self.look(LOADED, seconds=seconds) is Action.ASK:
                self.look(replace(LOADED, answer=self.answer(good=False)))
            if self.actions and self.actions[-1] is Action.UNLOAD:
                self.look(LIVE)

    def serve(self) -> None:
        assert self.look(LIVE) is Action.LOAD
        self.look(replace(LIVE, busy_loading=True))
        assert self.look(LOADED) is Action.ASK
        assert self.look(replace(LOADED, answer=self.answer(good=True))) is Action.ASK
        assert not self.memory.ready, "over one protocol it has not answered yet"
        self.look(replace(LOADED, answer=self.answer(good=True)))
        assert self.memory.state is State.SERVING
        assert self.memory.ready


def test_the_straight_way_up() -> None:
    engine = Engine()
    engine.look(Seen(live=False, process=False))
    assert engine.memory.state is State.WAITING_FOR_ENGINE
    engine.serve()
    assert engine.memory.engine_starts == 1


@pytest.mark.parametrize("engine_is_there", [True, False])
def test_incomplete_weights_are_never_loaded(engine_is_there: bool) -> None:
    engine = Engine()
    without = Seen(live=engine_is_there, process=True, weights="a.gguf has 1 bytes, it should have 2")
    for _ in range(1000):
        assert engine.look(without) is Action.NOTHING
        assert (engine.memory.state, engine.memory.reason) == (State.FAILED, "WeightsIncomplete")
        assert engine.memory.message == without.weights
        assert not engine.memory.ready
        assert engine.memory.live or not engine_is_there, "no restart of the engine brings weights"
    engine.serve()


def test_weights_that_go_under_a_serving_model_are_told_when_they_are_needed() -> None:
    engine = Engine()
    engine.serve()
    engine.look(replace(LOADED, weights="a.gguf is gone"))
    assert engine.memory.state is State.SERVING
    assert engine.memory.ready
    assert engine.look(replace(LIVE, engine=2, weights="a.gguf is gone")) is Action.NOTHING
    assert engine.memory.reason == "WeightsIncomplete"
    assert not engine.memory.ready


def test_a_refused_load_is_tried_again_after_the_weights_came_back() -> None:
    engine = Engine()
    engine.look(LIVE)
    engine.look(replace(LIVE, load_error="no"))
    engine.look(replace(LIVE, load_error="no", weights="gone"))
    assert engine.memory.reason == "WeightsIncomplete"
    engine.look(replace(LIVE, load_error="no"))
    assert engine.memory.reason == "LoadFailed"
    assert engine.look(replace(LIVE, load_error="no"), seconds=LOAD_RETRY_SECONDS[1] + 1) is Action.LOAD


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
        engine.look(replace(LIVE, busy_loading=True, marker=(float(look),)), seconds=STALL_SECONDS - 1)
        assert engine.memory.live
        assert engine.memory.state is State.LOADING


def test_a_load_without_progress_stalls_and_only_then() -> None:
    engine = Engine()
    engine.look(LIVE)
    stuck = replace(LIVE, busy_loading=True, marker=(1.0,))
    engine.look(stuck)
    engine.look(stuck, seconds=STALL_SECONDS - 1)
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
    engine.look(replace(LOADED, answer=engine.answer(good=False)))
    assert engine.memory.state is State.HEALING
    assert not engine.memory.ready
    assert engine.look(LOADED) is Action.UNLOAD, "as soon as it is granted"


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
    engine.look(replace(LOADED, answer=engine.answer(good=good)))


def test_unload_and_load_heals() -> None:
    engine = Engine()
    engine.serve()
    assert engine.fall_ill() is Action.UNLOAD
    _heal(engine, good=True)
    assert engine.memory.state is State.SERVING
    assert engine.memory.heals == 1
    assert Action.KILL not in engine.actions


def test_a_question_that_was_under_way_as_the_model_went_says_nothing_of_the_next() -> None:
    engine = Engine()
    engine.serve()
    engine.fall_ill()
    late = engine.answer(good=False)
    engine.look(replace(LIVE, answer=late))
    engine.look(replace(LIVE, answer=late, busy_loading=True))
    engine.look(replace(LOADED, answer=late))
    assert (engine.memory.state, engine.memory.bad_answers) == (State.HEALING, 0)


def test_an_unload_that_hangs_ends_in_a_new_engine() -> None:
    engine = Engine()
    engine.serve()
    assert engine.fall_ill() is Action.UNLOAD
    hanging = replace(LIVE, repository=Repository.UNLOADING)
    engine.look(hanging, seconds=UNLOAD_SECONDS - 1)
    assert Action.KILL not in engine.actions
    assert engine.look(hanging, seconds=2) is Action.KILL
    engine.look(Seen(live=False, process=False))
    engine.serve()


def test_what_does_not_help_is_not_done_without_end() -> None:
    """A prompt that the model can never answer: up the ladder, and then it is left alone, observable."""
    engine = Engine()
    engine.ignore(500)
    assert tuple(action for action in engine.actions if action in LADDER) == LADDER
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
    | st.builds(
        Answer,
        number=st.integers(1, 200),
        good=st.booleans(),
        message=st.just("x"),
        protocol=st.sampled_from(Protocol),
    ),
    busy_asking=st.booleans(),
    backend_failures=st.floats(0, 3),
    draining=st.booleans(),
    advice=st.builds(
        Advice, at=st.none() | st.floats(0, 500), step=st.none() | st.integers(1, 6), until=st.floats(0, 900)
    ),
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
        assert memory.steps <= len(LADDER)
        if action is not Action.NOTHING:
            assert seen.live, "nothing is asked of an engine that is not there"


def test_the_protocols_take_turns() -> None:
    engine = Engine()
    engine.serve()
    asked = []
    for _ in range(4):
        assert engine.look(LOADED, seconds=CONFIG.canary.period_seconds + 1) is Action.ASK
        asked.append(engine.memory.protocol)
        engine.look(replace(LOADED, answer=engine.answer(good=True)))
    assert asked == [Protocol.GRPC, Protocol.HTTP, Protocol.GRPC, Protocol.HTTP]


@pytest.mark.parametrize("broken", Protocol)
def test_one_port_that_fails_alone_is_an_illness(broken: Protocol) -> None:
    engine = Engine()
    engine.serve()
    for _ in range(100):
        if engine.look(LOADED) is Action.ASK:
            engine.look(replace(LOADED, answer=engine.answer(good=engine.memory.protocol is not broken)))
        if engine.memory.ill_since is not None:
            break
    assert engine.now < 3 * CONFIG.canary.period_seconds
    assert engine.memory.message == f"over {broken}: no"
    assert not engine.memory.ready


def test_a_model_that_waits_for_its_grant_is_asked_on_and_serves_as_soon_as_it_answers() -> None:
    engine = Engine(granted=False)
    engine.serve()
    engine.fall_ill()
    for _ in range(10_000):
        engine.advice = Advice(engine.now, None)
        if engine.look(LOADED) is Action.ASK:
            engine.look(replace(LOADED, answer=engine.answer(good=False)))
    assert not {Action.UNLOAD, Action.KILL} & set(engine.actions), "the operator is there, and grants nothing"
    assert (engine.memory.state, engine.memory.reason) == (State.HEALING, "CanaryFailed")
    for _ in range(60):
        engine.advice = Advice(engine.now, None)
        if engine.look(LOADED) is Action.ASK:
            engine.look(replace(LOADED, answer=engine.answer(good=True)))
    assert engine.memory.ready
    assert engine.memory.heals == 0
    assert engine.memory.ill_since is None


@pytest.mark.parametrize(("granted", "seconds"), [(False, CONFIG.canary.period_seconds), (True, 60.0)])
def test_a_model_that_is_ill_is_asked_now_and_then(granted: bool, seconds: float) -> None:
    """Every period while a step waits; once a minute after the last."""
    engine = Engine(granted=granted)
    engine.serve()
    engine.fall_ill()
    engine.ignore(500 if granted else 0)
    asked = 0
    for _ in range(1200):
        engine.advice = Advice(engine.now, None)
        if engine.look(LOADED) is Action.ASK:
            asked += 1
            engine.look(replace(LOADED, answer=engine.answer(good=False)), seconds=0.01)
    assert asked == pytest.approx(600 / seconds, abs=2)


def test_a_grant_is_for_one_step_and_for_a_while() -> None:
    engine = Engine(granted=False)
    engine.serve()
    engine.advice = Advice(engine.now, 1, engine.now + 1000)
    assert engine.fall_ill() is not Action.UNLOAD, "it was given before the model fell ill"
    engine.advice = Advice(engine.now, 2, engine.now + 1000)
    assert engine.look(LOADED) is not Action.UNLOAD, "it is for another step"
    engine.advice = Advice(engine.now, 1, engine.now + 1)
    assert engine.look(LOADED, seconds=2) is not Action.UNLOAD, "it has expired"
    engine.advice = Advice(engine.now, 1, engine.now + 10)
    assert engine.look(LOADED) is Action.UNLOAD


def test_without_an_operator_it_heals_alone_and_more_and_more_slowly() -> None:
    engine = Engine(granted=False)
    engine.serve()
    engine.fall_ill()
    taken = []
    for _ in range(4000):
        count = len(engine.actions)
        engine.ignore(1, seconds=1)
        taken += [engine.now for action in engine.actions[count:] if action in LADDER]
    assert len(taken) == len(LADDER)
    waits = [after - before for before, after in itertools.pairwise(taken)]
    assert waits[0] >= 2 * AWAY_SECONDS
    assert all(after > 1.5 * before for before, after in itertools.pairwise(waits))


@settings(max_examples=50)
@given(st.lists(st.floats(0.5, 250.0), min_size=1, max_size=30), st.floats(1.0, 9.9))
def test_a_load_that_is_ten_times_as_slow_as_the_last_is_never_given_up(
    pauses: list[float], slower: float
) -> None:
    engine = Engine(config=replace(CONFIG, stall_seconds=None))

    def load(factor: float) -> None:
        assert engine.look(replace(LIVE, engine=int(factor * 1000))) is Action.LOAD
        for sign, pause in enumerate(pauses):
            for _ in range(4):
                engine.look(
                    replace(LIVE, engine=int(factor * 1000), busy_loading=True, marker=(factor, sign)),
                    factor * pause / 4,
                )
                assert engine.memory.live, f"{factor} times {pause} s"
        engine.look(replace(LOADED, engine=int(factor * 1000)))

    load(1.0)
    load(slower)


def test_a_load_that_was_given_up_gets_twice_the_time() -> None:
    engine = Engine(config=replace(CONFIG, stall_seconds=None))
    limits = []
    for number in range(1, 4):
        pid = replace(LIVE, engine=number)
        engine.look(pid)
        stuck = replace(pid, busy_loading=True, marker=(1.0,))
        engine.look(stuck)
        began = engine.now
        while engine.memory.live:
            engine.look(stuck, seconds=5)
        limits.append(engine.now - began)
        engine.look(Seen(live=False, process=False))
    assert limits == [305, 605, 1205]
    engine.look(replace(LIVE, engine=9))
    engine.look(replace(LOADED, engine=9))
    assert engine.memory.pauses.stalls == 0


def test_the_operator_knows_how_long_loads_take() -> None:
    engine = Engine(config=replace(CONFIG, stall_seconds=None))
    engine.advice = Advice(load_seconds=4000)
    engine.look(LIVE)
    stuck = replace(LIVE, busy_loading=True, marker=(1.0,))
    engine.look(stuck)
    engine.look(stuck, seconds=999)
    assert engine.memory.live
    engine.look(stuck, seconds=2)
    assert not engine.memory.live


@pytest.mark.parametrize("state", State)
def test_every_state_is_known_to_the_operator(state: State) -> None:
    assert AgentState(state.value)
