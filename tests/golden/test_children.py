"""What one apply leads to, in full: every child of the example, as the API server gets it."""

from datetime import UTC, datetime
from pathlib import Path

import yaml
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.api.parse import parse
from preheat.config import OperatorConfig
from preheat.decide.caching import CacheObservation, decide_cache
from preheat.decide.plan import Apply, Plan
from preheat.decide.serving import decide_service
from preheat.decide.wish import ServiceObservation

from tests.builders import a_node
from tests.golden.golden import check

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


def test_children_of_its_cache() -> None:
    seen = ServiceObservation([a_node()], (), (), (), ())
    plan = decide_service(_example(), seen, CONFIG, NOW)
    (manifest,) = [
        w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == "ModelCache"
    ]
    metadata = {**manifest["metadata"], "uid": "00000000-0000-0000-0000-000000000002", "generation": 1}
    cache = parse(ModelCache, {**manifest, "metadata": metadata})
    check(
        HERE / "smollm2-cache.yaml",
        _text(decide_cache(cache, CacheObservation([a_node()], (), {}, {}, {}), CONFIG, NOW)),
    )
