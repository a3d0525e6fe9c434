"""What the week before teaches: its shape is known at once, and nothing goes by it that was not watched."""

import math

from preheat.decide.scaling import Known, LoadTime, Memory, Mode, Policy, Sample, recommend
from preheat.decide.scaling.past import misses_past, with_past
from preheat.decide.scaling.season import DAY_SLOTS, WEEK_SLOTS

HOUR, DAY = 3600.0, 86_400.0
POLICY = Policy(1, 40, slots=4, load=LoadTime(1200, 1300), mode=Mode.PREDICTIVE)
SERVICE = 4.0
EVENING = 100 * DAY + 22 * HOUR


def wanted(at: float) -> float:
    """Slots: a morning of 40, and 2 for the rest of the day."""
    return 40.0 if 8 * HOUR <= at % DAY < 12 * HOUR else 2.0


def week(until: float, days: int = 3) -> list[Known]:
    ends = [until - 600 * n for n in range(days * DAY_SLOTS)]
    return [
        Known(at, 600.0, wanted(at - 300) * 600 / SERVICE, wanted(at - 300), 0.0, SERVICE, 0)
        for at in sorted(ends)
    ]


def night(memory: Memory, until: float) -> tuple[int, Memory]:
    """Live through the night, minute by minute, with as many replicas as are asked for; return the last number."""
    at, have = EVENING, 1
    while at < until:
        at += 60
        many = wanted(at - 30)
        sample = Sample(at, 60.0, many * 60 / SERVICE, many, 0.0, SERVICE, have)
        said, memory = recommend(POLICY, [sample], memory, at)
        have = said.replicas
    return have, memory


def test_tomorrows_peak_is_known_today() -> None:
    soon = 101 * DAY + 8 * HOUR - 600  # ten minutes before it: a load takes twenty
    without, _ = night(Memory(), soon)
    memory, learnt = with_past(POLICY, Memory(), week(EVENING), EVENING)
    with_it, _ = night(memory, soon)
    assert learnt == 3 * DAY_SLOTS
    assert without == 1, "nobody can know it"
    assert with_it >= 10, "40 slots are 10 replicas"


def test_what_was_seen_is_not_written_over_and_what_needs_finer_windows_not_touched() -> None:
    _, live = night(Memory(), EVENING + 2 * HOUR)
    now = EVENING + 2 * HOUR
    memory, learnt = with_past(POLICY, live, week(now, days=9), now)
    assert 0 < learnt < WEEK_SLOTS, "the two hours that it saw are left"
    known = [slot for slot, code in enumerate(live.season.codes) if code]
    assert known
    assert all(memory.season.codes[slot] == live.season.codes[slot] for slot in known)
    assert memory.record >= 30
    for name in ("forecast", "trials", "idle", "hold", "since", "known_at", "closed", "minute", "wanted"):
        assert getattr(memory, name) == getattr(live, name), name
    again, more = with_past(POLICY, memory, week(now, days=9), now)
    assert (again, more) == (memory, 0)


def test_nothing_goes_before_a_load_time_was_watched() -> None:
    memory, _ = with_past(POLICY, Memory(), week(EVENING), EVENING)
    assert memory.since == math.inf
    sample = Sample(EVENING + 60, 60.0, 0.0, 0.0, 0.0, None, 9)
    said, _ = recommend(POLICY, [sample], memory, EVENING + 60)
    assert said.replicas == 9


def test_a_past_with_gaps_leaves_them_unknown() -> None:
    hours = [one for one in week(EVENING, days=2) if not 3 * HOUR <= one.at % DAY < 6 * HOUR]
    memory, learnt = with_past(POLICY, Memory(), hours, EVENING)
    assert learnt == len(hours)
    assert memory.season.at(int((100 * DAY + 4 * HOUR) // 600)) is None
    assert Memory.from_json(memory.to_json()).season == memory.season


def test_a_request_whose_length_nobody_knows_teaches_nothing() -> None:
    windows = [Known(EVENING - 600, 600.0, 50.0, 0.0, 0.0, None, 0)]
    assert with_past(POLICY, Memory(), windows, EVENING) == (Memory(), 0)


def test_who_remembers_the_week_asks_nobody() -> None:
    assert misses_past(Memory(), EVENING)
    full, _ = with_past(POLICY, Memory(), week(EVENING, days=8), EVENING)
    assert not misses_past(full, EVENING)
    assert misses_past(full, EVENING + 2 * DAY), "two days of which nothing was seen"
