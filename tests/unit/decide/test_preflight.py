"""A revision that cannot run anywhere is not begun, as long as one before it can serve."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.cli.plan import lines
from preheat.decide.observed import NodeView, Taint
from preheat.decide.plan import Apply, Delete, Plan
from preheat.decide.preflight import ENGINE_BYTES, SHRINK, obstacle
from preheat.decide.serving import rollout_ahead
from preheat.decide.wish import ServiceObservation
from preheat.resources import names, serving

from tests.builders import a_cache, a_node, a_service
from tests.unit.decide.rollout.test_wiring import CONFIG, cache_of, decide, pod, rev, stored, view

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIB = 1 << 30
VLLM = {"model": {"format": "Safetensors"}, "runtime": {"backend": "VLLM"}}


def gpu(**given: Any) -> dict[str, Any]:
    return {"hardware": {"gpu": given}}


def sized(mib: str | None, name: str = "n1", **fields: Any) -> NodeView:
    return a_node(name, labels={} if mib is None else {"nvidia.com/gpu.memory": mib}, **fields)


def weights(size: int, uri: str = "http://store/model/") -> ModelCache:
    return a_cache(status={"totalBytes": size}, source={"uri": uri, "format": "Safetensors"})


PLACES: dict[str, tuple[dict[str, Any], list[NodeView], str | None]] = {
    "a node has it": ({}, [a_node()], None),
    "the second type is there": (gpu(types=["nvidia-h100-80gb", "nvidia-l4"]), [a_node()], None),
    "no node has the type": (gpu(types=["nvidia-h100-80gb"]), [a_node()], "none of 1 nodes has nvidia-h100-80gb; there are: nvidia-l4"),
    "no node at all": ({}, [], "none of 0 nodes has nvidia-l4"),
    "no node has the label": ({"hardware": {"nodeSelector": {"zone": "b"}}}, [a_node()], "asked for (zone=b) and no taint that is not tolerated (none)"),
    "a taint keeps it off": ({}, [a_node(taints=(Taint("team", "x", "NoSchedule"),))], "1 of 1 nodes have nvidia-l4, and none of them the labels that are asked for (none) and no taint that is not tolerated (team)"),
    "of many labels some are named": (
        {"hardware": {"nodeSelector": {f"l{n}": "x" for n in range(8)}}}, [a_node()], "l3=x, l4=x and 3 more)",
    ),
    "a node that is cordoned may come back": (
        {}, [a_node(schedulable=False, taints=(Taint("node.kubernetes.io/unschedulable", "", "NoSchedule"),))], None,
    ),
    "a node that is away may come back": (
        {}, [a_node(ready=False, taints=(Taint("node.kubernetes.io/unreachable", "", "NoExecute"),))], None,
    ),
    "too many GPUs": (gpu(count=4), [a_node(gpus=2), a_node("n2", gpus=3)], "the largest of 2 matching nodes offers 3"),
    "too many for the only one": (gpu(count=4), [a_node(gpus=1)], "the largest of 1 matching node offers 1"),
    "a node that offers no GPU yet may offer more": (gpu(count=4), [a_node(gpus=2), a_node("n2", gpus=0)], None),
    "GPUs in use are no reason": (gpu(count=2), [a_node(gpus=2)], None),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_could_ever_take_a_replica(case: str) -> None:
    spec, nodes, want = PLACES[case]
    found = obstacle(a_service(**spec), nodes, ())
    assert found is None if want is None else want in (found or "")


SIZES: dict[str, tuple[dict[str, Any], list[NodeView], list[ModelCache], bool]] = {
    "twice as large as it could ever be": (VLLM, [sized("23034")], [weights(48 * GIB)], False),
    "half of it would fit: nobody knows": (VLLM, [sized("23034")], [weights(40 * GIB)], True),
    "no label tells of memory": (VLLM, [sized(None)], [weights(480 * GIB)], True),
    "a label that is no number": (VLLM, [sized("large")], [weights(480 * GIB)], True),
    "another node is large enough": (VLLM, [sized("23034"), sized("81559", "n2")], [weights(48 * GIB)], True),
    "of another nobody knows": (VLLM, [sized("23034"), sized(None, "n2")], [weights(48 * GIB)], True),
    "nobody knows the size": (VLLM, [sized("23034")], [], True),
    "other weights are large": (VLLM, [sized("23034")], [weights(480 * GIB, "http://store/other/")], True),
    "split over two GPUs": ({**VLLM, **gpu(count=2)}, [sized("23034")], [weights(48 * GIB)], True),
    "and too large for both": ({**VLLM, **gpu(count=2)}, [sized("23034")], [weights(100 * GIB)], False),
    "a backend that may use the processor": ({}, [sized("23034")], [weights(480 * GIB)], True),
}  # fmt: skip


@pytest.mark.parametrize("case", SIZES)
def test_weights_that_can_never_fit(case: str) -> None:
    spec, nodes, caches, want = SIZES[case]
    service = a_service(**spec)
    if spec.get("runtime") is None:
        caches = [a_cache(status={"totalBytes": 480 * GIB})]
    assert (obstacle(service, nodes, caches) is None) is want


@pytest.mark.parametrize(
    "spec", [{"model": {"precision": "FP8"}}, {"runtime": {"options": {"quantization": "bitsandbytes"}}},
             {"runtime": {"options": {"cpu_offload_gb": "40"}}},
             {"runtime": {"perType": [{"type": "nvidia-l4", "options": {"quantization": "fp8"}}]}}],
)  # fmt: skip
def test_fewer_bits_on_the_gpu_are_not_guessed_at(spec: dict[str, Any]) -> None:
    whole = {part: {**VLLM[part], **spec.get(part, {})} for part in VLLM}
    assert obstacle(a_service(**whole), [sized("23034")], [weights(480 * GIB)]) is None
    assert obstacle(a_service(**VLLM), [sized("23034")], [weights(480 * GIB)]) is not None


def test_the_message_has_the_arithmetic() -> None:
    words = obstacle(a_service(**VLLM), [sized("23034")], [weights(140_000_000_000)]) or ""
    for part in ("140 GB", "70 GB", "1.07 GB", "71.1 GB", "24.2 GB", "nvidia.com/gpu.memory"):
        assert part in words, words


def test_sizes_that_the_spec_lists_count_before_anything_is_fetched() -> None:
    files = [{"path": f"{n}.safetensors", "sha256": "0" * 64, "sizeBytes": 40 * GIB} for n in range(2)]
    listed = {**VLLM, "model": {**VLLM["model"], "files": files}}
    assert obstacle(a_service(**listed), [sized("23034")], ()) is not None
    files[0].pop("sizeBytes")
    assert obstacle(a_service(**listed), [sized("23034")], ()) is None


@given(st.integers(1, 1 << 44), st.integers(1, 200_000), st.integers(1, 8))
def test_what_half_of_the_files_fits_is_never_refused(size: int, mib: int, count: int) -> None:
    fits = size // SHRINK // count + ENGINE_BYTES <= mib << 20
    service = a_service(**VLLM, **gpu(count=count))
    assert (obstacle(service, [sized(str(mib), gpus=8)], [weights(size)]) is None) == fits


# --- in a pass

OLD = a_service(replicas=2)
NOWHERE = a_service(
    replicas=2, hardware={"gpu": {"types": ["nvidia-l4"]}, "nodeSelector": {"zone": "nowhere"}}
)
SERVING = (pod(OLD, "o1", "n1", ready=True), pod(OLD, "o2", "n2", ready=True))


def scene(*pods: Any, old: LLMDeployment | None = OLD, **more: Any) -> ServiceObservation:
    children = [stored(old, 1)] if old is not None else []
    deployments = [view(old, 2)] if old is not None else []
    seen = ServiceObservation(
        [a_node("n1"), a_node("n2")], deployments, list(pods), [cache_of(OLD, "n1", "n2")], children
    )
    return replace(seen, **more)


def condition(plan: Plan, kind: str) -> Any:
    return next((c for c in (plan.status or {})["conditions"] if c["type"] == kind), None)


def applied(plan: Plan, kind: str) -> list[Any]:
    return [w.manifest for w in plan.writes if isinstance(w, Apply) and w.manifest["kind"] == kind]


def test_a_revision_without_a_node_touches_nothing() -> None:
    plan = decide(NOWHERE, scene(*SERVING))
    told = condition(plan, "PreflightPassed")
    assert (told["status"], told["reason"]) == ("False", "PreflightFailed")
    assert "2 of 2 nodes have nvidia-l4, and none of them the labels" in told["message"]
    ready, stalled = condition(plan, "Ready"), condition(plan, "Stalled")
    assert (ready["status"], ready["reason"], stalled["status"]) == ("False", "PreflightFailed", "True")
    assert condition(plan, "RolledBack") is None, "nobody has gone anywhere"
    assert {d["metadata"]["name"]: d["spec"]["replicas"] for d in applied(plan, "Deployment")} == {
        view(OLD, 2).name: 2
    }
    assert {r["metadata"]["name"] for r in applied(plan, "ControllerRevision")} == {view(OLD, 2).name}
    assert [e.reason for e in plan.events] == ["PreflightFailed"]
    assert (plan.status or {}).get("rollout") is None
    assert any("PreflightPassed=False PreflightFailed" in line for line in lines(plan))
    question = rollout_ahead(NOWHERE, scene(*SERVING), CONFIG, NOW)
    assert question.goal.revision == rev(OLD)


def test_it_clears_by_itself_when_a_node_comes() -> None:
    nodes = [a_node("n1"), a_node("n2"), a_node("n3", labels={"zone": "nowhere"})]
    plan = decide(NOWHERE, scene(*SERVING, nodes=nodes))
    assert condition(plan, "PreflightPassed")["status"] == "True"
    assert (plan.status or {})["revision"] == rev(NOWHERE)


def test_the_old_revision_is_remembered_to_have_served() -> None:
    """Else it would be nobody once its last replica is lost, and the new one would begin."""
    unmarked = stored(OLD, 1)
    unmarked["metadata"]["annotations"].pop("preheat.dev/served")
    plan = decide(NOWHERE, scene(*SERVING, children=[unmarked]))
    (kept,) = applied(plan, "ControllerRevision")
    assert kept["metadata"]["annotations"]["preheat.dev/served"]
    lost = decide(NOWHERE, scene(pod(OLD, "o1", None), children=[kept]))
    assert (lost.status or {})["revision"] == rev(OLD)


def test_a_first_revision_is_tried_all_the_same() -> None:
    plan = decide(NOWHERE, scene(old=None))
    told = condition(plan, "PreflightPassed")
    assert told["status"] == "False"
    assert "tried all the same" in told["message"]
    assert (plan.status or {})["revision"] == rev(NOWHERE)
    assert applied(plan, "Deployment")[0]["spec"]["replicas"] == 2


def test_one_that_cannot_serve_itself_holds_nothing_up() -> None:
    """Its nodes are gone, and those of the new one come when a pod waits."""
    plan = decide(NOWHERE, scene(nodes=[]))
    assert (plan.status or {})["revision"] == rev(NOWHERE)


def test_whoever_lets_an_autoscaler_add_nodes_is_only_told() -> None:
    told_only = a_service(
        replicas=2, rollout={"preflight": "Report"},
        hardware={"gpu": {"types": ["nvidia-l4"]}, "nodeSelector": {"zone": "nowhere"}},
    )  # fmt: skip
    plan = decide(told_only, scene(*SERVING))
    assert condition(plan, "PreflightPassed")["status"] == "False"
    assert (plan.status or {})["revision"] == rev(told_only)


def test_weights_that_turn_out_too_large_are_kept_and_their_pods_go() -> None:
    """The size is known once they are being fetched. The cache stays: without it, it would be begun again and again."""
    other = {"uri": "http://store/large/", "format": "Safetensors"}
    old = a_service(replicas=1, **VLLM)
    new = a_service(replicas=1, model=other, runtime={"backend": "VLLM"})
    cache = cache_of(new)
    large = cache.model_copy(
        update={
            "spec": cache.spec.model_copy(update={"source": weights(1, "http://store/large/").spec.source}),
            "status": cache.status.model_copy(update={"total_bytes": 480 * GIB}),
        }
    )
    body = {"kind": "ModelCache", "metadata": {"name": large.name, "namespace": "default", "ownerReferences": [
        {"kind": "LLMDeployment", "name": "llama", "uid": new.uid, "controller": True}]}}  # fmt: skip
    seen = ServiceObservation(
        [sized("23034"), sized("23034", "n2")], [view(old, 1), view(new, 1)],
        [pod(old, "o1", "n1", ready=True), pod(new, "w", None)], [cache_of(old, "n1"), large],
        [stored(old, 1), stored(new, 2), body],
    )  # fmt: skip
    plan = decide(new, seen)
    assert condition(plan, "PreflightPassed")["status"] == "False"
    counts = {d["metadata"]["name"]: d["spec"]["replicas"] for d in applied(plan, "Deployment")}
    assert counts == {view(old, 1).name: 1, view(new, 1).name: 0}
    assert [write for write in plan.writes if isinstance(write, Delete)] == []


def test_the_cache_by_whose_size_it_is_held_is_kept_though_the_revision_is_not_stored() -> None:
    """As of an image by its tag: the revision is stored once the tag is resolved, and the size is known in that moment."""
    old = a_service(replicas=1, **VLLM)
    new = a_service(
        replicas=1,
        model={"uri": "oci://registry.example.com/team/large:1", "format": "Safetensors"},
        runtime={"backend": "VLLM"},
        cache={"mode": "Image"},
    )
    name = names.cache_name(new.name, serving.cache_source(new), serving.cache_storage(new))
    source = {**serving.cache_source(new), "format": "Safetensors"}
    large = a_cache(name, status={"totalBytes": 480 * GIB}, labels={"preheat.dev/llmdeployment": "llama"},
                    source=source, storage=serving.cache_storage(new))  # fmt: skip
    body = {"kind": "ModelCache", "metadata": {"name": name, "namespace": "default", "uid": large.uid, "ownerReferences": [
        {"kind": "LLMDeployment", "name": "llama", "uid": new.uid, "controller": True}]}}  # fmt: skip
    seen = ServiceObservation(
        [sized("23034"), sized("23034", "n2")], [view(old, 1)], [pod(old, "o1", "n1", ready=True)],
        [cache_of(old, "n1"), large], [stored(old, 1), body],
    )  # fmt: skip
    plan = decide(new, seen)
    assert condition(plan, "PreflightPassed")["status"] == "False"
    assert [write for write in plan.writes if isinstance(write, Delete)] == []
    gone = [w for w in decide(old, seen).writes if isinstance(w, Delete)]
    assert [(w.kind, w.name) for w in gone] == [("ModelCache", name)], "once nobody asks for it, it goes"


@pytest.mark.parametrize("newest", [True, False])
def test_one_that_has_taken_over_is_not_given_up_for_nodes_that_are_gone(newest: bool) -> None:
    """They went with its last replica, or with the replicas on them. The one before it is not started again for that.

    A spec that goes back to one that was good long ago is held back as a new one is.
    """
    soaked = stored(NOWHERE, 2 if newest else 1)
    soaked["metadata"]["annotations"]["preheat.dev/soaked"] = "2025-12-31T23:30:00Z"
    other = stored(OLD, 1 if newest else 2)
    plan = decide(NOWHERE, scene(deployments=[view(OLD, 0), view(NOWHERE, 2)], children=[other, soaked]))
    assert (plan.status or {})["revision"] == rev(NOWHERE if newest else OLD)
    counts = {d["metadata"]["name"]: d["spec"]["replicas"] for d in applied(plan, "Deployment")}
    assert counts[view(OLD, 0).name] == (0 if newest else 2)
    assert (condition(plan, "PreflightPassed") is None) == newest


def test_it_is_no_question_once_a_replica_has_a_gpu() -> None:
    new = pod(NOWHERE, "new", "n1")
    plan = decide(NOWHERE, scene(*SERVING, new, deployments=[view(OLD, 2), view(NOWHERE, 1)]))
    assert condition(plan, "PreflightPassed") is None
    assert (plan.status or {})["revision"] == rev(NOWHERE)
    assert condition(decide(OLD, scene(*SERVING)), "PreflightPassed") is None, "nor at rest"


def test_replicas_on_a_type_that_is_not_listed_any_more_stay_until_others_serve() -> None:
    """The list of types makes no revision."""
    moved = a_service(replicas=2, hardware={"gpu": {"types": ["nvidia-a10g"]}})
    assert rev(moved) == rev(OLD)
    l4 = view(OLD, 2)

    def kept(nodes: list[NodeView], *others: Any) -> int:
        plan = decide(moved, scene(*SERVING, *others, nodes=nodes))
        return int(
            next(
                d["spec"]["replicas"] for d in applied(plan, "Deployment") if d["metadata"]["name"] == l4.name
            )
        )

    nodes = [a_node("n1"), a_node("n2"), a_node("n3", "NVIDIA-A10G")]
    assert kept(nodes[:2]) == 2, "no node has it: nothing is lost"
    assert kept(nodes) == 2, "it loads"
    assert kept(nodes, pod(moved, "a", "n3", gpu_type="nvidia-a10g", ready=True)) == 1
