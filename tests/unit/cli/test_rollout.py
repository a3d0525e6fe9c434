"""What ``plan`` and ``status`` say of a rollout, and what ``plan`` decides from."""

from typing import Any

from preheat.cli import live
from preheat.cli.rollout import lines
from preheat.cli.status import screen
from preheat.decide.rollout import Goal, Limits, Method, Observed, Phase, Step
from preheat.decide.rollout.gather import Question
from preheat.decide.rollout.preview import Moment, Preview, Times

from tests.builders import a_node, a_service

TIMES = Times(load=90, weights=160, drain=60)
QUESTION = Question(
    Observed((), 1), Goal("b", {"nvidia-l4": 2}, gpus=4), {}, Limits(), {}, ("n1", "n2"), None
)


def found(**fields: Any) -> Preview:
    step = Step({}, Method.DRAIN_FIRST, "why", Phase.MAKING_ROOM, "message")
    given: dict[str, Any] = {
        "chosen": Method.DRAIN_FIRST, "why": "No GPU is free.", "moments": (Moment(0, 0, 1, 0, step),), "ends": True,
        "seconds": 150.0, "message": "", "least_serving": 0, "gap_seconds": 150.0, "short_seconds": 150.0,
    }  # fmt: skip
    return Preview(**{**given, **fields})


def said(preview: Preview | None, before: str | None = "a", observations: int = 3) -> str:
    return "\n".join(lines(preview, before, QUESTION, TIMES, observations))


def test_a_gap_in_serving_is_told_with_its_length_and_where_that_comes_from() -> None:
    text = said(found())
    assert "a -> b" in text
    assert "8 nvidia-l4; the weights go to n1, n2 first" in text
    assert "DrainFirst: No GPU is free." in text
    assert "nothing answers for 2m30s" in text
    assert "after about 2m30s" in text
    assert "a load of 1m30s, the median of 3 observed" in text
    assert "assumed from the model's size" in said(found(), observations=0)


def test_fewer_than_wanted_is_no_gap() -> None:
    assert "at least 1 answers at any time" in said(found(gap_seconds=0, least_serving=1))
    assert "as many answer as are wanted" in said(found(gap_seconds=0, short_seconds=0, least_serving=2))


def test_a_rollout_that_would_wait_for_ever_says_for_what() -> None:
    assert "not by itself: no GPU" in said(found(ends=False, message="no GPU"))


def test_what_is_no_new_revision_is_said_to_be_none() -> None:
    assert lines(None, "b", QUESTION, TIMES, 0) == [
        "  revision  b, as it is: no replica moves from one revision to another"
    ]


def test_many_steps_are_cut_in_the_middle() -> None:
    step = Step({}, None, "", Phase.LOADING, "")
    moments = tuple(Moment(n, 100 - n, n, 100, step) for n in range(100))
    text = said(found(moments=moments))
    assert "... 76 steps more" in text
    assert text.count("Loading") == 24


def test_only_the_services_own_things_are_looked_at() -> None:
    service = a_service()
    owner = [{"controller": True, "uid": service.uid}]

    def body(kind: str, name: str, of: str = "llama", **more: Any) -> dict[str, Any]:
        labels = {
            "preheat.dev/llmdeployment": of,
            "preheat.dev/revision": "r",
            "preheat.dev/gpu-type": "nvidia-l4",
        }
        metadata = {"name": name, "namespace": "default", "labels": labels, "ownerReferences": owner, **more}
        return {"kind": kind, "metadata": metadata, "spec": {"replicas": 1}}

    def a_pod(name: str, replica_set: str, of: str = "llama") -> dict[str, Any]:
        references = [{"controller": True, "kind": "ReplicaSet", "name": replica_set}]
        made = body("Pod", name, of, ownerReferences=references)
        limits = {"limits": {"nvidia.com/gpu": "1"}}
        return {**made, "spec": {"nodeName": "n1", "containers": [{"name": "engine", "resources": limits}]}}

    puller = {"preheat.dev/llmdeployment": "llama", "preheat.dev/component": "puller"}
    job = body("Job", "p", labels=puller)
    of_job = body(
        "Pod", "p-1", labels=puller, ownerReferences=[{"controller": True, "kind": "Job", "name": "p"}]
    )
    lists = {
        "Job": [job],
        "Deployment": [body("Deployment", "d"), body("Deployment", "other", of="else")],
        "Pod": [of_job, a_pod("mine", "d-1"), a_pod("strange", "x-1"), a_pod("theirs", "other-1", of="else")],
        "ControllerRevision": [body("ControllerRevision", "d")],
        "ModelCache": [],
    }
    seen = live.observation(service, [a_node()], lists, None)
    assert [view.name for view in seen.deployments] == ["d"]
    assert [pod.name for pod in seen.pods] == ["mine"]
    assert sorted(use.holder for use in seen.uses) == ["default/else", "default/llama", "default/llama"]
    assert [body["kind"] for body in seen.children] == ["ControllerRevision", "Deployment"]
    (seen_puller,) = seen.pullers
    assert (seen_puller.job.name, seen_puller.pod and seen_puller.pod.name) == ("p", "p-1")


def test_status_follows_a_rollout() -> None:
    rollout = {
        "strategy": "Canary", "chosen": "Canary", "reason": "in steps", "step": "Watching", "stepNumber": 1,
        "stepCount": 3, "message": "1 answers", "fromRevision": "a", "toRevision": "b", "oldReplicas": 9,
        "updatedReplicas": 1, "readyUpdatedReplicas": 1, "startedAt": "2026-01-01T00:00:00Z",
        "etaTime": "2026-01-01T01:00:00Z",
    }  # fmt: skip
    text = "\n".join(screen(a_service(status={"rollout": rollout}), None))
    assert "rollout a -> b   Canary: in steps" in text
    assert "10%" in text
    assert "step 1 of 3" in text
    assert "ends about 2026-01-01T01:00:00Z" in text
