"""What the schema lets in at its bounds, the decision can carry out."""

from datetime import UTC, datetime

from preheat.config import OperatorConfig
from preheat.decide.plan import Apply
from preheat.decide.serving import MOST_NODES, decide_service
from preheat.decide.wish import ServiceObservation

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
