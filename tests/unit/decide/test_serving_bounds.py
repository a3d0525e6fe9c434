"""What the schema lets in at its bounds, the decision can carry out."""

from datetime import UTC, datetime
from typing import Any

import pytest
from preheat.api.llmdeployment import MOST_CHILDREN, LLMDeployment, ScalingMode
from preheat.api.modelcache import MOST_NODES
from preheat.config import OperatorConfig
from preheat.decide.autoscale import ScalingObservation
from preheat.decide.observed import DeploymentView
from preheat.decide.plan import Apply
from preheat.decide.refusals import with_refusal
from preheat.decide.scaling import Memory
from preheat.decide.serving import decide_service
from preheat.decide.wish import ServiceObservation
from preheat.errors import InvalidSpec

from tests.builders import a_node, a_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _cache(nodes: int, **spec: object) -> dict[str, object]:
    seen = ServiceObservation([a_node(f"n{i}") for i in range(nodes)], (), (), (), ())
    plan = decide_service(a_service(**spec), seen, OperatorConfig(), NOW)
    (made,) = [w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "ModelCache"]
    placement: dict[str, object] = made["spec"]["placement"]
    return placement


def test_as_many_tolerations_as_the_schema_allows_fit_into_the_cache_beside_our_own() -> None:
    given = [{"key": f"team-{i}", "operator": "Exists"} for i in range(16)]
    tolerations = _cache(1, hardware={"tolerations": given})["tolerations"]
    assert isinstance(tolerations, list)
    assert len(tolerations) == 17


def test_a_cache_asks_for_no_more_nodes_than_its_schema_allows() -> None:
    assert _cache(1500, replicas=1000, cache={"warmNodes": 1000})["nodes"] == MOST_NODES


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"replicas": 2}, "The spec is valid."),
        (
            {"replicas": 9, "scaling": {"minReplicas": 1, "maxReplicas": 2}},
            "The spec is valid. spec.replicas is 9; spec.scaling.maxReplicas allows 2.",
        ),
        (
            {"replicas": 1, "scaling": {"minReplicas": 3, "maxReplicas": 4}},
            "The spec is valid. spec.replicas is 1; spec.scaling.minReplicas asks for 3.",
        ),
    ],
)
def test_a_bound_that_overrules_the_replicas_is_told(spec: dict[str, Any], words: str) -> None:
    seen = ServiceObservation([a_node("n")], (), (), (), ())
    status = decide_service(a_service(**spec), seen, OperatorConfig(), NOW).status
    assert status is not None
    (accepted,) = [c for c in status["conditions"] if c["type"] == "Accepted"]
    assert accepted["message"] == words


def _told(service: LLMDeployment) -> tuple[str, list[tuple[str, str, bool]], dict[str, Any]]:
    """Return what Accepted says, the Events about the number, and the status."""
    decides = service.spec.scaling.mode is not ScalingMode.EXTERNAL
    scaling = ScalingObservation(None, None, Memory(), service.status.scaling) if decides else None
    seen = ServiceObservation([a_node("n")], (), (), (), (), scaling=scaling)
    plan = decide_service(service, seen, OperatorConfig(), NOW)
    assert plan.status is not None
    (accepted,) = [c for c in plan.status["conditions"] if c["type"] == "Accepted"]
    ours = {"ScalingLimited", "ScalingIgnored"}
    events = [(e.reason, e.message, e.warning) for e in plan.events if e.reason in ours]
    return accepted["message"], events, plan.status


TWO_AT_MOST = {"minReplicas": 1, "maxReplicas": 2}
DECIDES = {"mode": "Predictive", **TWO_AT_MOST}


@pytest.mark.parametrize(
    ("replicas", "message", "warning"),
    [
        (9, "spec.replicas is 9; spec.scaling.maxReplicas allows 2.", True),
        (0, "spec.replicas is 0; spec.scaling.minReplicas asks for 1.", False),
    ],
)
def test_a_number_that_is_not_followed_is_an_event_once(replicas: int, message: str, warning: bool) -> None:
    words, events, status = _told(a_service(replicas=replicas, scaling=TWO_AT_MOST))
    assert words == f"The spec is valid. {message}"
    assert events == [("ScalingLimited", message, warning)]
    assert _told(a_service(replicas=replicas, scaling=TWO_AT_MOST, status=status))[1] == []
    again = _told(a_service(replicas=replicas + 3, scaling=TWO_AT_MOST, status=status))[1]
    assert [reason for reason, _, _ in again] == ["ScalingLimited"], "another number is news"


def test_a_number_that_is_not_followed_is_an_event_also_in_a_pass_whose_write_is_refused() -> None:
    """The status that is written then tells of it, so that the next pass has nothing to post."""
    service, seen = (
        a_service(replicas=9, scaling=TWO_AT_MOST),
        ServiceObservation([a_node("n")], (), (), (), ()),
    )
    plan = decide_service(service, seen, OperatorConfig(), NOW)
    refused = with_refusal(service, plan, InvalidSpec("422 a policy says no"), NOW)
    assert {event.reason for event in refused.events} == {"ScalingLimited", "ChildRefused"}


def test_a_number_that_is_followed_is_no_event() -> None:
    assert _told(a_service(replicas=2, scaling=TWO_AT_MOST))[:2] == ("The spec is valid.", [])


def _scaled_by(who: str, service: LLMDeployment) -> LLMDeployment:
    return service.model_copy(update={"scaled_by": who})


def test_who_scales_where_preheat_decides_is_told_that_nothing_follows() -> None:
    words, events, status = _told(a_service(replicas=2, scaling=DECIDES))
    assert words.endswith("spec.scaling.mode is Predictive.")
    assert events == [], "it is the number to begin with"
    assert status["scaling"]["askedReplicas"] == 2
    words, events, status = _told(_scaled_by("hpa", a_service(replicas=4, scaling=DECIDES, status=status)))
    assert words.endswith("spec.scaling.mode is Predictive. hpa set it to 4 through /scale.")
    message = (
        "hpa set spec.replicas to 4, and nothing follows from that: spec.scaling.mode is Predictive. Take an "
        "autoscaler that writes it away, or set the mode to External."
    )
    assert events == [("ScalingIgnored", message, True)]
    assert _told(_scaled_by("hpa", a_service(replicas=4, scaling=DECIDES, status=status)))[1] == []
    ((reason, words, _),) = _told(a_service(replicas=0, scaling=DECIDES, status=status))[1]
    assert (reason, words.partition(",")[0]) == ("ScalingIgnored", "Somebody set spec.replicas to 0")


def test_who_hands_the_number_over_to_preheat_has_asked_for_nothing() -> None:
    """The number of the autoscaler before stays in the spec: it is what Preheat begins with."""
    _, _, status = _told(a_service(replicas=2, scaling=TWO_AT_MOST))
    assert _told(_scaled_by("hpa", a_service(replicas=2, scaling=DECIDES, status=status)))[1] == []


def test_of_more_deployments_than_a_status_holds_those_with_replicas_are_told() -> None:
    """Those of kept revisions stay at 0, one per GPU type."""
    children = [
        DeploymentView(f"d{i:03}", f"rev{i // 4}", "nvidia-l4", int(i == 99), None) for i in range(100)
    ]
    seen = ServiceObservation([a_node()], children, [], [], [])
    plan = decide_service(a_service(), seen, OperatorConfig(), NOW)
    assert plan.status is not None
    told = [child["name"] for child in plan.status["children"]]
    assert len(told) == MOST_CHILDREN
    assert "d099" in told
