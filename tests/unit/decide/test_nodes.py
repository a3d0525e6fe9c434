"""A node's loop: labels that are true, weights that leave in order, a keeper when there is something to keep."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from preheat.config import OperatorConfig
from preheat.decide.budget import DiskState, Entry, Limits
from preheat.decide.nodes import (
    IN_USE_SECONDS,
    MOUNTED_SECONDS,
    RETRY_SECONDS,
    YOUNG_SECONDS,
    Held,
    NodeObservation,
    decide_node,
    takes_away,
)
from preheat.decide.observed import JobState, JobView, KeeperReport
from preheat.decide.plan import RESYNC_SECONDS, Admit, Apply, Delete, LabelNode, Plan

from tests.builders import a_node

P = "cache.preheat.dev/"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = 604_800.0


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def a_warmer(state: JobState = JobState.COMPLETE, ended: float = 100, **more: Any) -> JobView:
    when = None if state is JobState.ACTIVE else ago(ended)
    return JobView("warmer", "uid-warmer", "n1", state, when, deleting=False, namespace="team", **more)


def a_keeper(removes: str = "", state: JobState = JobState.COMPLETE, created: float = 60, ended: float = 50,
             **more: Any) -> JobView:  # fmt: skip
    when = None if state is JobState.ACTIVE else ago(ended)
    return JobView("keeper", "uid-keeper", "n1", state, when, deleting=False, namespace="preheat-system",
                   created=ago(created), removes=frozenset(removes), **more)  # fmt: skip


def held(key: str, warmer: JobView | None = None, *, wanted: bool = True, **more: Any) -> Held:
    return Held(key, "team", wanted=wanted, warmer=warmer, **{"verify_seconds": WEEK, **more})


def decide(*there: Held, ready: str = "", leaving: str = "", boot: str = "", entries: tuple[Entry, ...] = (),
           limits: Limits | None = None, **seen: Any) -> Plan:  # fmt: skip
    node = a_node(caches=frozenset(ready), leaving=frozenset(leaving), boot=boot)
    limits = limits or Limits()
    return decide_node(NodeObservation(node, there, entries, limits, **seen), OperatorConfig(), NOW)


def labels(plan: Plan) -> dict[str, str | None]:
    found = [write for write in plan.writes if isinstance(write, LabelNode)]
    assert len(found) <= 1, "all labels are one write"
    return {k.removeprefix(P): v for write in found for k, v in write.labels.items()}


def keeper(plan: Plan) -> dict[str, Any] | None:
    """The configuration of the keeper that is made, and what it removes."""
    jobs = [w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "Job"]
    if not jobs:
        return None
    (env,) = jobs[0]["spec"]["template"]["spec"]["containers"][0]["env"]
    return {**json.loads(env["value"]), "removes": jobs[0]["metadata"]["annotations"]["preheat.dev/removes"]}


def deleted(plan: Plan) -> list[str]:
    return [write.name for write in plan.writes if isinstance(write, Delete)]


def test_a_node_is_ready_when_its_warmer_has_ended_well_all_in_one_write() -> None:
    there = [held(key, a_warmer()) for key in "abc"]
    assert labels(decide(*there, ready="a")) == {"b": "ready", "c": "ready"}
    assert labels(decide(held("a", a_warmer(JobState.ACTIVE)), held("b", a_warmer(JobState.FAILED)))) == {}


def test_at_rest_there_is_nothing_to_write() -> None:
    plan = decide(held("a", a_warmer()), ready="a")
    assert plan.writes == ()
    assert plan.requeue_after == RESYNC_SECONDS


def test_weights_of_a_cache_that_is_gone_leave_in_order() -> None:
    """First no pod may start with them, then a keeper takes them away, then the label goes."""
    first = decide(held("a", wanted=False), ready="a")
    assert labels(first) == {"a": "leaving"}
    made = keeper(first)
    assert made is not None
    assert made["removes"] == "a"
    assert made["keep"] == {}
    at_work = decide(held("a", wanted=False), leaving="a", keeper=a_keeper("a", JobState.ACTIVE))
    assert at_work.writes == ()
    gone = decide(held("a", wanted=False), leaving="a", keeper=a_keeper("a"), report=KeeperReport())
    assert labels(gone) == {"a": None}


def test_the_keeper_keeps_what_is_ready_and_what_a_warmer_is_at() -> None:
    there = held("a", a_warmer()), held("b", a_warmer(JobState.ACTIVE)), held("z", wanted=False)
    made = keeper(decide(*there, ready="az"))
    assert made is not None
    assert made["keep"] == {"team": ["a", "b"]}
    assert made["verify"] == {}


def test_what_was_touched_a_moment_before_is_left_alone() -> None:
    made = keeper(decide(held("z", wanted=False), ready="z"))
    assert made is not None
    assert datetime.fromisoformat(made["olderThan"]) <= ago(20)


def test_weights_that_pods_on_their_way_out_still_mount_wait_for_them() -> None:
    plan = decide(held("a", wanted=False), leaving="a", mounted={"a"})
    assert plan.writes == ()
    assert plan.requeue_after == MOUNTED_SECONDS
    assert keeper(decide(held("a", wanted=False), leaving="a", mounted={"b"})) is not None


def test_weights_that_somebody_still_holds_are_tried_again_later() -> None:
    report = KeeperReport(in_use=frozenset("a"))
    soon = decide(held("a", wanted=False), leaving="a", keeper=a_keeper("a", ended=10), report=report)
    assert soon.writes == ()
    assert soon.requeue_after == IN_USE_SECONDS - 10
    later = decide(held("a", wanted=False), leaving="a", keeper=a_keeper("a", ended=61), report=report)
    assert deleted(later) == ["keeper"]


def test_weights_that_were_warmed_a_moment_before_are_tried_again_soon() -> None:
    report = KeeperReport(young=frozenset("a"))
    soon = decide(held("a", wanted=False), leaving="a", keeper=a_keeper("a", ended=4), report=report)
    assert (soon.writes, soon.requeue_after) == ((), YOUNG_SECONDS - 4)
    later = decide(held("a", wanted=False), leaving="a", keeper=a_keeper("a", ended=11), report=report)
    assert deleted(later) == ["keeper"]


def test_a_keeper_that_failed_is_tried_again_later() -> None:
    there = held("a", wanted=False)
    soon = decide(there, leaving="a", keeper=a_keeper("a", JobState.FAILED, ended=10))
    assert (soon.writes, soon.requeue_after) == ((), RETRY_SECONDS - 10)
    later = decide(there, leaving="a", keeper=a_keeper("a", JobState.FAILED, ended=RETRY_SECONDS + 1))
    assert deleted(later) == ["keeper"]


def test_a_keeper_of_before_does_not_count_for_what_leaves_now() -> None:
    plan = decide(held("a", wanted=False), leaving="a", keeper=a_keeper(""), report=KeeperReport())
    assert labels(plan) == {}
    assert deleted(plan) == ["keeper"]


@pytest.mark.parametrize(("warmed_ago", "expected"), [(40, {"a": "ready"}), (70, {"a": None})])
def test_a_cache_that_was_made_again_is_ready_if_it_was_warmed_after_the_keeper_was_made(
    warmed_ago: float, expected: dict[str, str | None]
) -> None:
    there = held("a", a_warmer(ended=warmed_ago))
    assert labels(decide(there, leaving="a", keeper=a_keeper("a"), report=KeeperReport())) == expected


def test_what_a_warmer_is_at_again_is_not_removed() -> None:
    plan = decide(held("a", a_warmer(JobState.ACTIVE)), leaving="a")
    assert plan.writes == ()


def test_what_was_taken_away_and_is_wanted_is_fetched_anew() -> None:
    """A cache is made again, or another operator was wrong about it, while its keeper is at it."""
    entry, report = held("a", a_warmer(ended=100)), KeeperReport()
    at_it = decide(entry, leaving="a", keeper=a_keeper("a", JobState.ACTIVE))
    assert (labels(at_it), deleted(at_it)) == ({}, [])
    taken = decide(entry, leaving="a", keeper=a_keeper("a"), report=report)
    assert (labels(taken), deleted(taken)) == ({"a": None}, ["warmer"])
    seen_late = decide(entry, keeper=a_keeper("a"), report=report)
    assert deleted(seen_late) == ["warmer"], "also when the label went before its warmer"
    anew = decide(held("a", a_warmer(ended=10)), keeper=a_keeper("a"), report=report)
    assert (labels(anew), deleted(anew)) == ({"a": "ready"}, [])


def test_what_could_not_be_taken_away_and_is_wanted_again_stays() -> None:
    report = KeeperReport(in_use=frozenset("a"))
    plan = decide(held("a", a_warmer(ended=100)), leaving="a", keeper=a_keeper("a"), report=report)
    assert (labels(plan), deleted(plan)) == ({"a": "ready"}, [])


def test_what_takes_weights_away_is_told_from_the_rest() -> None:
    assert takes_away(decide(held("a", None, wanted=False), ready="a"))
    assert takes_away(decide(held("a", None), ready="a")), "a keeper removes what it is not told to keep"
    assert not takes_away(decide(held("a", a_warmer())))


@pytest.mark.parametrize(
    ("warmer", "before", "chosen", "after"),
    [
        (a_warmer(JobState.ACTIVE, created=ago(4)), "", True, {}),
        (a_warmer(JobState.ACTIVE, created=ago(6)), "", True, {"a": "warming"}),
        (a_warmer(JobState.ACTIVE, created=ago(6), suspended=True), "", True, {}),
        (a_warmer(JobState.FAILED, created=ago(6)), "a", True, {}),
        (None, "a", True, {}),
        (None, "a", False, {"a": "leaving"}),
        (a_warmer(created=ago(500)), "a", True, {"a": "ready"}),
    ],
)
def test_bytes_that_a_warmer_leaves_half_way_are_not_forgotten(
    warmer: JobView | None, before: str, *, chosen: bool, after: dict[str, str | None]
) -> None:
    node = a_node(warming=frozenset(before))
    seen = NodeObservation(node, [held("a", warmer, chosen=chosen)])
    assert labels(decide_node(seen, OperatorConfig(), NOW)) == after


def test_a_warmer_at_work_is_looked_at_again_when_it_has_been_for_long() -> None:
    plan = decide(held("a", a_warmer(JobState.ACTIVE, created=ago(2))))
    assert plan.requeue_after == 3


def an_entry(key: str, state: DiskState, age: float, **more: Any) -> Entry:
    return Entry(key, "team", f"cache-{key}", state, ago(age), 60, **more)


def test_room_is_given_and_made() -> None:
    waits = a_warmer(JobState.ACTIVE, suspended=True)
    entries = an_entry("a", DiskState.READY, 90), an_entry("b", DiskState.WAITING, 0)
    there = held("a", a_warmer()), held("b", waits)
    full = decide(*there, ready="a", entries=entries, limits=Limits(100))
    assert labels(full) == {"a": "leaving"}
    assert deleted(full) == ["warmer"], "or it would be labelled ready again"
    assert not [w for w in full.writes if isinstance(w, Admit)]
    made = keeper(full)
    assert made is not None
    assert made["removes"] == "a"
    empty = decide(there[1], entries=entries[1:], limits=Limits(100))
    assert empty.writes == (Admit("team", "warmer", "uid-warmer", 60),)


@pytest.mark.parametrize(
    ("age", "peers", "more", "begins"),
    [
        (61, (), {"holders": ["n2"]}, False),
        (61, ("n2",), {"holders": ["n2"]}, False),
        (61, ("n2",), {"holders": ["n2"], "seeders": ["n2"]}, True),
        (59, (), {"holders": ["n2"]}, True),
        (61, (), {}, True),
    ],
)
def test_a_warmer_that_waited_is_told_anew_who_its_neighbours_are(
    age: float, peers: tuple[str, ...], more: dict[str, Any], *, begins: bool
) -> None:
    waits = a_warmer(JobState.ACTIVE, suspended=True, created=ago(age), peers=peers)
    entries = (an_entry("b", DiskState.WAITING, 0),)
    plan = decide(held("b", waits, **more), entries=entries, limits=Limits(100))
    assert isinstance(plan.writes[0], Admit if begins else Delete)
    assert len(plan.writes) == 1


def test_a_warmer_is_not_told_anew_where_another_would_take_its_room_meanwhile() -> None:
    """The room was made for it; without its Job nothing keeps it from the next in line."""
    first = a_warmer(JobState.ACTIVE, suspended=True, created=ago(61))
    second = replace(first, name="second", uid="uid-second")
    entries = an_entry("b", DiskState.WAITING, 0, needed=True), an_entry("c", DiskState.WAITING, 0)
    there = held("b", first, holders=["n2"]), held("c", second)
    plan = decide(*there, entries=entries, limits=Limits(100))
    assert plan.writes == (Admit("team", "warmer", "uid-warmer", 60),)


@pytest.mark.parametrize(
    ("warmer", "more", "boot", "due"),
    [
        (a_warmer(ended=WEEK - 1), {}, "", False),
        (a_warmer(ended=WEEK + 1), {}, "", True),
        (a_warmer(ended=WEEK + 1), {"verify_seconds": 0}, "", False),
        (a_warmer(boot="one"), {}, "one", False),
        (a_warmer(boot="one"), {}, "two", True),
        (a_warmer(boot="one"), {"verify_seconds": 0}, "two", False),
        (a_warmer(), {"asked": ago(10)}, "", True),
        (a_warmer(), {"asked": ago(10), "verify_seconds": 0}, "", True),
        (a_warmer(), {"asked": ago(200)}, "", False),
        (a_warmer(), {"asked": ago(-1000)}, "", False),
        (None, {}, "", True),
    ],
)
def test_when_weights_are_verified_again(
    warmer: JobView | None, more: dict[str, Any], boot: str, *, due: bool
) -> None:
    made = keeper(decide(held("a", warmer, **more), ready="a", boot=boot))
    assert bool(made and made["verify"]) is due
    if made is not None:
        assert made["verify"] == ({"team": ["a"]} if due else {})
        assert made["keep"] == {"team": ["a"]}


def test_a_disk_is_looked_through_every_week_for_what_no_label_tells_of() -> None:
    entry = held("a", a_warmer(ended=WEEK - 100), verify_seconds=0)
    soon = decide(entry, ready="a")
    assert (soon.writes, soon.requeue_after) == ((), 100)
    made = keeper(decide(held("a", a_warmer(ended=WEEK + 1), verify_seconds=0), ready="a"))
    assert made is not None
    assert (made["keep"], made["verify"], made["removes"]) == ({"team": ["a"]}, {}, "")
    after = decide(held("a", a_warmer(ended=WEEK + 1), verify_seconds=0), ready="a", keeper=a_keeper())
    assert after.writes == ()
    again = decide(entry, ready="a", keeper=a_keeper(created=WEEK + 2, ended=WEEK + 1))
    assert deleted(again) == ["keeper"]


def test_a_sweep_leaves_on_record_what_was_verified_before_it() -> None:
    verified = held("a", a_warmer(ended=WEEK + 1), verify_seconds=4 * WEEK)
    made = keeper(decide(verified, ready="a"))
    assert made is not None
    assert made["verify"] == {"team": ["a"]}
    assert datetime.fromisoformat(made["freshSince"]["a"]) == ago(4 * WEEK), "its note is good enough"


def test_what_a_keeper_has_verified_counts_from_then() -> None:
    asked = held("a", a_warmer(ended=500), asked=ago(100))
    after = a_keeper(verifies=frozenset("a"))
    assert decide(asked, ready="a", keeper=after, report=KeeperReport()).writes == ()
    before = a_keeper(created=300, ended=50, verifies=frozenset("a"))
    assert deleted(decide(asked, ready="a", keeper=before, report=KeeperReport())) == ["keeper"]


def test_wrong_bytes_cost_a_node_its_label_and_its_warmer() -> None:
    report = KeeperReport(corrupt={"a": "model.gguf: other bytes"})
    plan = decide(held("a", a_warmer()), ready="a", keeper=a_keeper(), report=report)
    assert labels(plan) == {"a": "warming"}, "no pod starts there, and what lies there is not forgotten"
    assert deleted(plan) == ["warmer"]


def test_weights_that_were_wrong_once_leave_like_any_other() -> None:
    """What the keeper said of them is old: they were fetched anew, and then their cache was deleted."""
    report = KeeperReport(corrupt={"a": "model.gguf: other bytes"})
    plan = decide(held("a", wanted=False), ready="a", keeper=a_keeper(), report=report)
    assert labels(plan) == {"a": "leaving"}


def test_weights_that_were_fetched_anew_are_ready_again() -> None:
    report = KeeperReport(corrupt={"a": "model.gguf: other bytes"})
    plan = decide(held("a", a_warmer(ended=10)), keeper=a_keeper(), report=report)
    assert labels(plan) == {"a": "ready"}


def test_a_node_that_is_not_there_gets_no_keeper() -> None:
    node = a_node(caches=frozenset("a"), ready=False)
    plan = decide_node(NodeObservation(node, [held("a", None)]), OperatorConfig(), NOW)
    assert plan.writes == ()


def test_a_keeper_that_only_removed_has_verified_nothing() -> None:
    old = held("a", a_warmer(ended=WEEK + 500))
    assert deleted(decide(old, ready="a", keeper=a_keeper("z"), report=KeeperReport())) == ["keeper"]


@pytest.mark.parametrize("report", [None, KeeperReport(whole=False)])
def test_a_keeper_of_which_nobody_knows_all_that_it_did_counts_for_nothing(
    report: KeeperReport | None,
) -> None:
    leaving = decide(held("z", wanted=False), leaving="z", keeper=a_keeper("z", ended=1), report=report)
    assert labels(leaving) == {}
    old = held("a", a_warmer(ended=WEEK + 500))
    keeper_of_a = a_keeper(verifies=frozenset("a"))
    assert deleted(decide(old, ready="a", keeper=keeper_of_a, report=report)) == ["keeper"]


def test_a_keeper_that_could_not_tell_all_that_stays_is_tried_again_later() -> None:
    """With a hundred folders that cannot be deleted one keeper followed the other."""
    report = KeeperReport(in_use=frozenset({"x"}), whole=False)
    soon = decide(held("z", wanted=False), leaving="z", keeper=a_keeper("z", ended=10), report=report)
    assert soon.writes == ()
    later = decide(held("z", wanted=False), leaving="z", keeper=a_keeper("z", ended=61), report=report)
    assert deleted(later) == ["keeper"]


def test_what_is_due_is_read_only_where_no_note_says_that_it_was_verified() -> None:
    due = held("a", a_warmer(ended=WEEK + 500)), held("b", a_warmer(), verify_seconds=0, asked=ago(30))
    made = keeper(decide(*due, ready="ab"))
    assert made is not None
    since = {key: datetime.fromisoformat(moment) for key, moment in made["freshSince"].items()}
    assert since == {"a": ago(WEEK), "b": ago(30)}


def test_who_needs_room_does_not_wait_for_hashing() -> None:
    there = held("z", wanted=False), held("a", a_warmer())
    young = a_keeper("", JobState.ACTIVE, created=10, verifies=frozenset("a"))
    assert decide(*there, ready="a", leaving="z", keeper=young).writes == ()
    old = a_keeper("", JobState.ACTIVE, created=31, verifies=frozenset("a"))
    assert deleted(decide(*there, ready="a", leaving="z", keeper=old)) == ["keeper"]
    removes = a_keeper("z", JobState.ACTIVE, created=9999)
    assert decide(*there, ready="a", leaving="z", keeper=removes).writes == ()


def test_what_is_on_its_way_is_kept() -> None:
    """Pods still mount `m`; the warmer of `w` will be made again."""
    node = a_node(leaving=frozenset("mz"), warming=frozenset("w"))
    there = [held("m", wanted=False), held("w", None, chosen=True), held("z", wanted=False)]
    made = keeper(decide_node(NodeObservation(node, there, mounted={"m"}), OperatorConfig(), NOW))
    assert made is not None
    assert made["removes"] == "z"
    assert made["keep"] == {"team": ["m", "w"]}


def test_a_node_that_was_started_again_takes_no_warmers_word_of_before() -> None:
    """Its object was made anew: nobody knows which disk it has."""
    plan = decide(held("a", a_warmer(boot="one")), boot="two")
    assert labels(plan) == {}
    assert deleted(plan) == ["warmer"], "another looks at what is there"
    assert labels(decide(held("a", a_warmer(boot="two")), boot="two")) == {"a": "ready"}


def test_a_keeper_comes_before_those_that_wait_for_room() -> None:
    """A webhook in the namespace of one of them may refuse to let it begin."""
    waits = a_warmer(JobState.ACTIVE, suspended=True)
    plan = decide(held("b", waits), held("z", wanted=False), leaving="z",
                  entries=(an_entry("b", DiskState.WAITING, 0),))  # fmt: skip
    assert [type(write).__name__ for write in plan.writes] == ["Apply"] * 5 + ["Admit"]
