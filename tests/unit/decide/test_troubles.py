"""Why a pod does not start, in whose words, and under which reason."""

import pytest
from preheat.api.conditions import Reason
from preheat.decide.observed import JobView, PodView
from preheat.decide.troubles import names_missing, trouble_of, what_to_do

from tests.builders import a_pod


@pytest.mark.parametrize(
    "words",
    [
        'MountVolume.SetUp failed for volume "credentials" : secret "hub-token" not found',
        'secret "x" not found',
        'configmap "settings" not found',
        "couldn't find key token in Secret default/hub-token",
        "references non-existent secret key: token",
        "references non-existent config key: a",
        '0/2 nodes are available: persistentvolumeclaim "models" not found. preemption: 0/2 nodes are available',
    ],
)
def test_what_is_named_and_not_there_is_a_missing_reference(words: str) -> None:
    assert names_missing(words)


@pytest.mark.parametrize(
    "words",
    [
        "container has runAsNonRoot and image will run as root",
        "failed to sync secret cache: timed out waiting for the condition",
        "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
        "manifest for example.com/a:1 not found",
        "0/62 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
        '0/2 nodes are available: persistentvolumeclaim "preheat-0123456789abcdef-serve" not found.',
    ],
)
def test_other_words_are_not(words: str) -> None:
    assert not names_missing(words)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"unschedulable": "2 Insufficient nvidia.com/gpu"}, Reason.NO_CAPACITY),
        ({"unschedulable": 'persistentvolumeclaim "m" not found'}, Reason.REFERENCE_MISSING),
        (
            {"unschedulable": 'persistentvolumeclaim "preheat-0123456789abcdef-serve" not found'},
            Reason.PODS_PENDING,
        ),
        ({"waiting_reason": "ImagePullBackOff"}, Reason.IMAGE_UNAVAILABLE),
        ({"waiting_reason": "InvalidImageName"}, Reason.IMAGE_UNAVAILABLE),
        (
            {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "x" not found'},
            Reason.REFERENCE_MISSING,
        ),
        (
            {"waiting_reason": "CreateContainerConfigError", "waiting_message": "image will run as root"},
            Reason.POD_NOT_STARTING,
        ),
        ({"waiting_reason": "RunContainerError"}, Reason.POD_NOT_STARTING),
        ({"waiting_reason": "CrashLoopBackOff"}, None),
        ({"complaint": 'secret "x" not found'}, Reason.REFERENCE_MISSING),
        ({"complaint": "the volume is on fire"}, Reason.POD_NOT_STARTING),
        ({"complaint": 'secret "x" not found', "begun": True}, Reason.REFERENCE_MISSING),
        ({"complaint": "Startup probe failed", "begun": True}, None),
    ],
)
def test_each_trouble_has_its_reason(fields: dict[str, str], reason: Reason | None) -> None:
    trouble = trouble_of(a_pod(**fields))
    assert (trouble.reason if trouble else None) == reason


def test_what_is_missing_comes_with_what_to_do() -> None:
    assert "Create it in namespace demo" in what_to_do(Reason.REFERENCE_MISSING, "demo")
    assert what_to_do(Reason.POD_NOT_STARTING, "demo") == ""


SCHEDULED = {"type": "PodScheduled", "status": "True"}
CREATING = {"name": "engine", "state": {"waiting": {"reason": "ContainerCreating"}}}
RUNNING = {"name": "agent", "state": {"running": {}}}
ENDED = {"name": "engine", "state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 1}}}


@pytest.mark.parametrize(
    ("status", "starting"),
    [
        ({"phase": "Pending", "conditions": [SCHEDULED]}, True),
        ({"phase": "Pending", "conditions": [SCHEDULED], "containerStatuses": [CREATING]}, True),
        ({"phase": "Pending"}, False),
        (
            {"phase": "Pending", "conditions": [SCHEDULED], "initContainerStatuses": [RUNNING],
             "containerStatuses": [CREATING]},
            False,
        ),
        (
            {"phase": "Pending", "conditions": [SCHEDULED], "initContainerStatuses": [{**RUNNING, "started": True}],
             "containerStatuses": [CREATING]},
            True,
        ),
        (
            {"phase": "Running", "conditions": [SCHEDULED], "initContainerStatuses": [{**RUNNING, "started": True}],
             "containerStatuses": [{**RUNNING, "name": "engine"}]},
            False,
        ),
        ({"phase": "Pending", "conditions": [SCHEDULED], "containerStatuses": [ENDED]}, False),
        ({"phase": "Running", "conditions": [SCHEDULED], "containerStatuses": [RUNNING]}, False),
    ],
)  # fmt: skip
def test_a_pod_is_starting_while_its_first_or_its_main_container_is_next(
    status: dict[str, object], starting: bool
) -> None:
    assert PodView.from_body({"metadata": {"name": "p"}, "status": status}, "engine").starting == starting


@pytest.mark.parametrize(
    ("status", "podless"),
    [
        ({}, True),
        ({"active": 0}, True),
        ({"active": 1}, False),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, False),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, False),
    ],
)
def test_a_job_at_work_without_a_pod_is_podless(status: dict[str, object], podless: bool) -> None:
    assert JobView.from_body({"metadata": {"name": "j"}, "status": status}).podless == podless
