"""How much a model is asked: read from pages that a real Triton 2.51 wrote (``pages/``), and counted over restarts.

The pages are of one server with two models: ``smollm2`` (decoupled, 2 slots, queues inside itself) and ``slow`` (blocking,
2 instances). Busy: 0.5 to 1 s after five requests came at once.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from preheat_agent.engine import read_counters
from preheat_agent.traffic import Own, Page, Tally, others_were_served, read_page, take, told

PAGES = Path(__file__).parent / "pages"
NONE = Own()
EMPTY = Page(came=0, ended=0, failed=0, waiting=0, running=0, busy_seconds=None, prompt_tokens=0)
VLLM = """\
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="llama",version="1"} 12
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="llama",version="1"} 1
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model="llama",version="1"} 4
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model="llama",version="1"} 3
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model="llama",version="1"} 900
# TYPE vllm:e2e_request_latency_seconds histogram
vllm:e2e_request_latency_seconds_bucket{model="llama",version="1",le="0.3"} 1
vllm:e2e_request_latency_seconds_bucket{model="llama",version="1",le="+Inf"} 5
vllm:e2e_request_latency_seconds_count{model="llama",version="1"} 5
vllm:e2e_request_latency_seconds_sum{model="llama",version="1"} 17.5
"""


def page(name: str, model: str) -> Page:
    found = read_page((PAGES / f"{name}.txt").read_text(), model)
    assert found is not None
    return found


def test_a_backend_that_queues_inside_itself_tells_by_its_own_gauges() -> None:
    busy = page("busy-llamacpp", "smollm2")
    assert (busy.running, busy.waiting, busy.ended, busy.slots) == (2, 3, 0, 2)
    assert busy.came == 5, "Triton's success count moves when a request is handed over"
    after = page("after-llamacpp", "smollm2")
    assert (after.running, after.waiting, after.ended, after.came) == (0, 0, 5, 5)
    assert (after.prompt_tokens, after.generated_tokens) == (20, 600)


def test_a_blocking_model_tells_by_tritons_counters_and_does_not_say_what_runs() -> None:
    busy = page("busy-blocking", "slow")
    assert (busy.running, busy.waiting, busy.ended, busy.came) == (None, 3, 0, 3)
    after = page("after-blocking", "slow")
    assert (after.waiting, after.ended, after.came) == (0, 5, 5)
    assert after.busy_seconds == pytest.approx(5 * 1.05, abs=0.05), (
        "five requests of a second, without the queue"
    )


def test_the_vllm_backend_tells_by_its_own_series() -> None:
    found = read_page(VLLM, "llama")
    assert found is not None
    assert (found.came, found.ended, found.running, found.waiting) == (13, 5, 4, 3)
    assert found.generated_tokens == 900


def test_vllm_without_triton_tells_what_came_by_what_ended_and_is_under_way() -> None:
    text = "\n".join(line for line in VLLM.splitlines() if "nv_inference" not in line) + "\n"
    found = read_page(text.replace('model="llama"', 'model_name="llama"'), "llama")
    assert found is not None
    assert found.came == 5 + 4 + 3


def test_a_page_without_the_model_says_nothing() -> None:
    assert read_page((PAGES / "idle.txt").read_text(), "another") is None
    assert read_page("", "smollm2") is None


@pytest.mark.parametrize("value", ["NaN", "+Inf"])
def test_a_page_with_what_is_no_number_says_nothing(value: str) -> None:
    text = VLLM.replace(
        'running{model="llama",version="1"} 4', f'running{{model="llama",version="1"}} {value}'
    )
    assert value in text
    assert read_page(text, "llama") is None


def counted(*pages: tuple[float, Page], own: Own = NONE) -> dict[str, float | None]:
    tally = Tally()
    for at, one in pages:
        tally = take(tally, one, own, at)
    found = told(tally, pages[-1][0] + 1)
    assert found is not None
    return dict(found)


def test_what_was_in_service_is_added_up_over_time() -> None:
    two = replace(EMPTY, running=2, came=2)
    found = counted((0, EMPTY), (2, two), (4, two), (6, replace(EMPTY, came=2, ended=2)))
    assert found["busySeconds"] == 2 + 4 + 2
    assert found["ageSeconds"] == 1


def test_a_new_engine_is_counted_on_and_what_it_took_with_it_has_failed() -> None:
    before = replace(EMPTY, came=10, ended=7, running=2, waiting=1, prompt_tokens=50)
    found = counted((0, before), (2, replace(EMPTY, came=1, running=1, prompt_tokens=3)))
    assert (found["came"], found["ended"], found["failed"]) == (11, 10, 3)
    assert found["promptTokens"] == 53
    assert found["inService"] == 1
    again = counted((0, before), (2, replace(EMPTY, came=1, ended=1)), (4, EMPTY))
    assert (again["came"], again["ended"], again["failed"]) == (11, 11, 3), "and the one after that as well"
    busy = replace(EMPTY, came=9, ended=7, running=2)
    assert counted((0, busy), (2, busy), (4, EMPTY))["busySeconds"] == 4


def test_the_canarys_own_questions_are_nobodys_traffic() -> None:
    asked = replace(EMPTY, came=4, ended=3, running=1)
    found = counted((0, EMPTY), (2, asked), own=Own(ended=3, asking=True))
    assert (found["came"], found["ended"], found["inService"], found["waiting"]) == (0, 0, 0, 0)


def test_a_question_of_ours_waits_as_long_as_anybody_does() -> None:
    found = counted((0, replace(EMPTY, came=5, running=2, waiting=3)), own=Own(asking=True))
    assert (found["inService"], found["waiting"], found["came"]) == (2, 2, 4)


def test_tritons_counters_are_read_though_the_parser_renames_them() -> None:
    busy = read_counters((PAGES / "busy-llamacpp.txt").read_text(), "smollm2")
    assert (busy.successes, busy.in_flight) == (5, 5)
    failing = VLLM.replace("success", "failure").replace("{model", '{reason="BACKEND",model')
    assert read_counters(failing, "llama").backend_failures == 12


def test_before_the_first_page_nothing_is_said() -> None:
    assert told(Tally(), 1.0) is None


def test_that_a_question_was_handed_over_is_no_sign_that_others_are_served() -> None:
    idle = replace(EMPTY, came=5, ended=5, answered=5, generated_tokens=600)
    hangs = replace(idle, came=9, running=2, waiting=2)
    assert not others_were_served(idle, hangs, 8)
    assert not others_were_served(idle, replace(hangs, generated_tokens=608), 8), "these may be ours"
    assert not others_were_served(idle, replace(hangs, ended=6), 8), "ours, as it was given up"
    assert others_were_served(idle, replace(hangs, generated_tokens=609), 8)
    assert others_were_served(idle, replace(hangs, answered=6), 8)
    assert not others_were_served(None, hangs, 8)


@pytest.mark.parametrize(("name", "model", "answered"), [("after-llamacpp", "smollm2", 5), ("after-blocking", "slow", 5),
                                                         ("busy-llamacpp", "smollm2", 0)])  # fmt: skip
def test_who_was_answered_is_on_the_page(name: str, model: str, answered: float) -> None:
    assert page(name, model).answered == answered
    vllm = read_page(VLLM, "llama")
    assert vllm is not None
    assert vllm.answered == 5
