"""Which revision is wanted: from what is stored, and from nothing else."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from preheat.api.conditions import Reason
from preheat.api.constants import (
    ANNOTATION_RETRY,
    ANNOTATION_ROLLBACK_TO,
    ANNOTATION_SERVED,
    ANNOTATION_SOAKED,
    ANNOTATION_VERDICT,
)
from preheat.api.gpu import GPUType
from preheat.api.llmdeployment import LLMDeployment
from preheat.config import OperatorConfig
from preheat.decide.judgement.failure import Failure, failure_of
from preheat.decide.target import Target, as_it_was, choose_target, way_back
from preheat.resources.serving import Revision, render_revision, revision_id

from tests.builders import a_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOAKED = {ANNOTATION_SOAKED: "2026-01-01T00:00:00Z"}
SERVED = {ANNOTATION_SERVED: "2026-01-01T00:00:00Z"}


def a_revision(service: LLMDeployment, number: int, gpu_type: str = "nvidia-l4", **marks: str) -> Revision:
    made = render_revision(service, GPUType(gpu_type), number, "weights", OperatorConfig())
    return replace(made, marks=marks)


def version(n_ctx: int, annotations: dict[str, str] | None = None, **spec: Any) -> LLMDeployment:
    made = a_service(runtime={"options": {"n_ctx": str(n_ctx)}}, **spec)
    return made.model_copy(update={"annotations": annotations or {}})


def failed(service: LLMDeployment, number: int, back: LLMDeployment, retry: str = "") -> Revision:
    verdict = Failure(Reason.LOAD_FAILED, "no such file.", NOW, revision_id(back), retry, {"attempts": 3})
    return replace(a_revision(service, number), marks={ANNOTATION_VERDICT: verdict.to_json()})


OLD, NEW = version(1), version(2)


def test_the_spec_is_wanted_as_long_as_nothing_speaks_against_it() -> None:
    assert choose_target(NEW, []) == Target(revision_id(NEW))
    assert choose_target(NEW, [a_revision(OLD, 1), a_revision(NEW, 2)]) == Target(revision_id(NEW))


def test_a_verdict_is_read_as_it_was_written() -> None:
    stored = [failed(NEW, 2, OLD, "x")]
    found = failure_of(stored, revision_id(NEW))
    assert found == Failure(Reason.LOAD_FAILED, "no such file.", NOW, revision_id(OLD), "x", {"attempts": 3})


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "7", '{"reason": "Odd"}', '{"reason":"LoadFailed","time":"x"}']
)
def test_a_verdict_that_somebody_wrote_by_hand_is_none(text: str) -> None:
    spoiled = replace(a_revision(NEW, 2), marks={ANNOTATION_VERDICT: text})
    assert choose_target(NEW, [spoiled]) == Target(revision_id(NEW))


def test_after_a_verdict_the_one_that_it_names_is_wanted_whoever_serves() -> None:
    older = version(0)
    stored = [replace(a_revision(older, 1), marks=SOAKED), a_revision(OLD, 2), failed(NEW, 3, OLD)]
    target = choose_target(NEW, stored)
    assert (target.id, target.going_back, target.reason) == (revision_id(OLD), True, Reason.ROLLED_BACK)
    gone = [revision for revision in stored if revision.id != revision_id(OLD)]
    assert choose_target(NEW, gone).id == revision_id(older)


def test_with_nothing_to_go_back_to_it_goes_on_trying() -> None:
    target = choose_target(NEW, [failed(NEW, 1, OLD)])
    assert (target.id, target.going_back, target.holds) == (revision_id(NEW), False, False)


def test_one_gpu_type_with_a_verdict_speaks_for_all() -> None:
    stored = [a_revision(OLD, 1), a_revision(NEW, 2, "nvidia-a10g"), failed(NEW, 2, OLD)]
    assert choose_target(NEW, stored).going_back


def test_a_new_value_of_retry_has_it_tried_again_and_an_old_one_does_not() -> None:
    stored = [a_revision(OLD, 1), failed(NEW, 2, OLD, "monday")]
    assert choose_target(version(2, {ANNOTATION_RETRY: "monday"}), stored).going_back
    assert not choose_target(version(2, {ANNOTATION_RETRY: "tuesday"}), stored).going_back


def test_a_revision_that_turned_out_to_be_good_has_no_verdict_any_more() -> None:
    good = failed(NEW, 2, OLD)
    stored = [a_revision(OLD, 1), replace(good, marks={**good.marks, **SOAKED})]
    assert not choose_target(NEW, stored).going_back


def test_without_automatic_rollback_nothing_moves() -> None:
    careful = version(2, rollout={"autoRollback": False})
    target = choose_target(careful, [a_revision(OLD, 1), failed(NEW, 2, OLD)])
    assert (target.id, target.holds, target.reason) == (revision_id(NEW), True, Reason.ROLLOUT_FAILED)


@pytest.mark.parametrize(
    ("asked", "want"),
    [
        ("1", True),
        (revision_id(OLD), True),
        (f"1@{revision_id(NEW)}", True),
        (f"1@{revision_id(OLD)}", False),
        ("", False),
        ("7", False),
    ],
)
def test_a_person_asks_for_a_number_or_an_id_and_may_bind_it_to_a_spec(asked: str, want: bool) -> None:
    service = version(2, {ANNOTATION_ROLLBACK_TO: asked})
    target = choose_target(service, [a_revision(OLD, 1), a_revision(NEW, 2)])
    assert target.going_back is want
    assert (target.reason is Reason.REVISION_UNKNOWN) is (asked == "7")


def test_a_person_goes_before_a_verdict() -> None:
    service = version(2, {ANNOTATION_ROLLBACK_TO: "2"})
    target = choose_target(service, [a_revision(OLD, 1), failed(NEW, 2, OLD)])
    assert (target.id, target.failure) == (revision_id(NEW), None)


def test_the_way_back_is_soaked_before_it_is_newest_and_never_failed() -> None:
    older = version(0)
    stored = [
        replace(a_revision(older, 1), marks=SOAKED),
        replace(a_revision(OLD, 2), marks=SERVED),
        a_revision(NEW, 3),
    ]
    newest, ids = version(3), {revision_id(NEW)}
    assert way_back(stored, revision_id(newest), ids) == stored[0]
    assert way_back(stored[1:], revision_id(newest), ids) == stored[2]
    assert way_back(stored[1:], revision_id(newest), ()) == stored[1]
    assert way_back([failed(OLD, 1, older)], revision_id(NEW), {revision_id(OLD)}) is None
    assert way_back([a_revision(OLD, 1)], revision_id(NEW), ()) is None


def test_gone_back_to_the_service_is_as_its_revision_was_made() -> None:
    old = version(1, hardware={"nodeSelector": {"zone": "a"}, "gpu": {"types": ["nvidia-a10g", "nvidia-l4"]}})
    new = version(2, hardware={"nodeSelector": {"zone": "moon"}, "gpu": {"types": ["nvidia-a10g", "nvidia-l4"]}},
                  model={"uri": "http://store/other/"}, scaling={"maxReplicas": 7}, template={"metadata": {"labels": {"a": "b"}}})  # fmt: skip
    stored = [a_revision(old, 1), a_revision(new, 2)]
    was = as_it_was(new, stored, Target(revision_id(old), going_back=True))
    assert revision_id(was) == revision_id(old)
    assert was.spec.model == old.spec.model
    assert was.spec.template is None
    assert was.spec.hardware.node_selector == {"zone": "a"}
    assert was.spec.hardware.gpu.types == [GPUType("nvidia-l4")], "the other is not stored"
    assert was.spec.scaling.max_replicas == 7, "what makes no revision is as it is now"


def test_a_revision_of_an_older_release_says_only_what_is_run() -> None:
    pinned = a_revision(OLD, 1)
    legacy = replace(pinned, data={key: value for key, value in pinned.data.items() if key != "spec"})
    was = as_it_was(NEW, [legacy], Target(revision_id(OLD), going_back=True))
    assert was.spec.model == NEW.spec.model
