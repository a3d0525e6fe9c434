"""What one apply leads to, in full: every child of the example, as the API server gets it."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from preheat.api.llmdeployment import LLMDeployment, LLMDeploymentSpec
from preheat.api.modelcache import ModelCache
from preheat.api.parse import parse
from preheat.config import OperatorConfig
from preheat.decide.caching import CacheObservation, decide_cache
from preheat.decide.observed import JobState, JobView
from preheat.decide.plan import Apply, Plan, Write
from preheat.decide.serving import decide_service
from preheat.decide.wish import ServiceObservation
from preheat.resources.caching import cache_key
from preheat.resources.paging import make_pager
from preheat.resources.serving import render_revision

from tests.builders import a_node, a_pod
from tests.golden.golden import check
from tests.pages import manifests

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "children"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig()


def _text(plan: Plan) -> str:
    manifests = [write.manifest for write in plan.writes if isinstance(write, Apply)]
    text: str = yaml.safe_dump_all(manifests, sort_keys=True, width=110)
    return text


def _example(name: str = "smollm2") -> LLMDeployment:
    body = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    body["metadata"].update(uid="00000000-0000-0000-0000-000000000001", generation=1)
    return parse(LLMDeployment, body)


def test_children_of_the_example() -> None:
    seen = ServiceObservation([a_node()], (), (), (), ())
    check(HERE / "smollm2.yaml", _text(decide_service(_example(), seen, CONFIG, NOW)))


def test_children_with_a_pod_template() -> None:
    seen = ServiceObservation([a_node()], (), (), (), ())
    check(HERE / "pod-template.yaml", _text(decide_service(_example("pod-template"), seen, CONFIG, NOW)))


def test_children_on_two_gpu_types() -> None:
    """The second type has arguments of its own: the two templates differ in them, and in where they run."""
    service = _example()
    body = service.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    body["hardware"]["gpu"]["types"] = ["nvidia-l4", "nvidia-t4"]
    body["runtime"]["perType"] = [
        {"type": "nvidia-t4", "args": ["--log-verbose=1"], "options": {"n_ctx": "1024"}}
    ]
    body["replicas"] = 2
    two = service.model_copy(update={"spec": LLMDeploymentSpec.model_validate(body)})
    nodes = [a_node(gpus=1), a_node("n2", "Tesla-T4", gpus=1)]
    plan = decide_service(two, ServiceObservation(nodes, (), (), (), ()), CONFIG, NOW)
    deployments = [w for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "Deployment"]
    check(HERE / "two-gpu-types.yaml", _text(Plan(tuple(deployments), None, (), 0)))


def _example_cache(nodes: int = 1, status: dict[str, Any] | None = None) -> ModelCache:
    seen = ServiceObservation([a_node()], (), (), (), ())
    plan = decide_service(_example(), seen, CONFIG, NOW)
    (manifest,) = [
        w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "ModelCache"
    ]
    metadata = {**manifest["metadata"], "uid": "00000000-0000-0000-0000-000000000002", "generation": 1}
    manifest["spec"]["placement"]["nodes"] = nodes
    return parse(ModelCache, {**manifest, "metadata": metadata, "status": status})


def test_children_of_its_cache() -> None:
    plan = decide_cache(_example_cache(), CacheObservation([a_node()], (), {}, {}, {}), CONFIG, NOW)
    check(HERE / "smollm2-cache.yaml", _text(plan))


def test_a_seeder_and_a_warmer_that_it_serves() -> None:
    """n1 holds the weights and serves them; a warmer on n2 begins."""
    cache = _example_cache(nodes=2, status={"manifestSHA256": "d" * 64})
    nodes = [a_node("n1", caches=frozenset({cache_key(cache)})), a_node("n2")]
    keys = {"keys": [{"alg": "RS256", "e": "AQAB", "kid": "one", "kty": "RSA", "n": "n", "use": "sig"}]}
    seeder = JobView("s", "1", "n1", JobState.ACTIVE, None, deleting=False, component="seeder")
    alone = CacheObservation(nodes, (), {}, {}, {}, issuer_keys=keys)
    serving = replace(alone, seeders=[seeder], seeder_pods={"n1": a_pod(ready=True)})
    written: list[Write] = []
    for seen in (alone, serving):
        written += [
            w
            for w in decide_cache(cache, seen, CONFIG, NOW).writes
            if isinstance(w, Apply) and w.manifest["kind"] in {"Job", "NetworkPolicy"} and w not in written
        ]
    check(HERE / "smollm2-neighbours.yaml", _text(Plan(tuple(written), None, (), 0)))


def test_a_pager() -> None:
    service = _example()
    revision = render_revision(service, service.spec.hardware.gpu.types[0], 1, "weights", CONFIG)
    pager = make_pager(service, revision, "n1", 16 << 30, CONFIG)
    check(HERE / "smollm2-pager.yaml", _text(Plan((Apply(pager),), None, (), 0)))


@pytest.mark.parametrize("name", ["on-a-volume", "in-an-image"])
def test_children_where_weights_wait_elsewhere(name: str) -> None:
    """What docs/weights.md shows, once the weights are there: the service's children, then its cache's."""
    body = manifests("weights.md")[name]
    body["metadata"].update(uid="00000000-0000-0000-0000-000000000001", generation=1, namespace="default")
    service = parse(LLMDeployment, body)
    first = decide_service(service, ServiceObservation([a_node()], (), (), (), ()), CONFIG, NOW)
    (manifest,) = [
        w.manifest for w in first.writes if isinstance(w, Apply) and w.manifest["kind"] == "ModelCache"
    ]
    metadata = {**manifest["metadata"], "uid": "00000000-0000-0000-0000-000000000002", "generation": 1}
    warm = {"readyNodes": 1, "desiredNodes": 1}
    cache = parse(ModelCache, {**manifest, "metadata": metadata, "status": warm})
    plan = decide_service(service, ServiceObservation([a_node()], (), (), [cache], ()), CONFIG, NOW)
    its_own = decide_cache(cache, CacheObservation([a_node()], (), {}, {}, {}), CONFIG, NOW)
    check(HERE / f"{name}.yaml", f"{_text(plan)}---\n{_text(its_own)}")
