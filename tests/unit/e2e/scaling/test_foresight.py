"""What nobody could foresee: jumps are, what comes every day is not."""

import numpy as np
import pytest

from e2e.bench.scaling.foresight import unforeseen
from e2e.bench.scaling.measures import measured
from e2e.bench.scaling.simulate import run
from e2e.bench.scaling.synthetic import daily, made, on_off, step
from e2e.bench.scaling.trace import DAY, Trace
from tests.unit.e2e.scaling.made import Told, a_setting

HOUR = 3600.0


@pytest.mark.parametrize("load", [300.0, 2700.0])
def test_a_step_is_a_jump_for_as_long_as_a_load_takes(load: float) -> None:
    trace = made("s", step(20, 5, 30 * HOUR), 34 * HOUR, 0, 1)
    jumped = unforeseen(trace, load)
    calm, within, later = (
        jumped[(trace.arrivals >= begin) & (trace.arrivals < end)]
        for begin, end in (
            (2 * HOUR, 30 * HOUR),
            (30 * HOUR + 60, 30 * HOUR + load),
            (30 * HOUR + 3 * load, 34 * HOUR),
        )
    )
    assert calm.mean() < 0.08
    assert within.mean() > 0.95
    assert later.mean() < 0.05


def test_office_hours_are_no_jump_from_the_second_day_on() -> None:
    trace = made("d", lambda t: 30 * daily(t), 6 * DAY, 0, 1)
    assert unforeseen(trace, 2700.0)[trace.arrivals > 2 * DAY].mean() < 0.02


def test_work_that_comes_every_day_is_a_jump_on_the_first() -> None:
    trace = made("o", on_off(20, (9,), 2 * HOUR), 4 * DAY, 0, 1)
    jumped = unforeseen(trace, 2700.0)
    assert jumped[trace.arrivals < 9 * HOUR + 2700].mean() > 0.9
    assert jumped[trace.arrivals > 2 * DAY].mean() < 0.05


def test_the_late_of_a_step_came_with_a_jump() -> None:
    trace = made("s", step(20, 5, 30 * HOUR), 32 * HOUR, 28 * HOUR, 1)
    setting = a_setting(300, slots=8)
    run_of = run(trace, setting, Told({30 * HOUR + 30: 16}))
    found = measured(trace, run_of, 300, unforeseen(trace, 300))
    assert found.attained < 0.98
    assert found.unforeseen > 0.25  # the others waited behind them
    assert measured(trace, run_of, 300, never(trace)).unforeseen == 0


def never(trace: Trace) -> np.ndarray:  # type: ignore[type-arg]
    return np.zeros(trace.arrivals.size, dtype=bool)
