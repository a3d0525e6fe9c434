"""What is told of writes that the API server refuses, pass after pass."""

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.parse import parse
from preheat.config import OperatorConfig
from preheat.controller.apply import Writer
from preheat.controller.telemetry import Metrics
from preheat.controller.view import View
from preheat.decide.ahead import START_SECONDS
from preheat.decide.plan import IMAGES, Apply, Plan, apart
from preheat.errors import Denied, Forbidden, Unavailable
from preheat.resources import serving
from preheat.resources.pulling import images_of, make_puller

from tests.builders import SERVICE
from tests.fakes import FakeKube

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = OperatorConfig()


async def test_a_puller_that_is_not_let_in_for_a_minute_is_given_up_beside_one_that_is_there() -> None:
    kube, view, at = FakeKube(), View(), [0.0]
    metadata = {"name": "llama", "namespace": "default"}
    body = kube.put({"apiVersion": "v1", "kind": "LLMDeployment", "metadata": metadata, "spec": SERVICE})
    view.put(body)
    service = parse(LLMDeployment, body)
    template = serving.render_revision(service, service.spec.hardware.gpu.types[0], 1, "c", CONFIG).template
    jobs = [
        Apply(make_puller(service, template, images_of(template), node, CONFIG), once=True)
        for node in ("n1", "n2")
    ]
    ready = {"type": "Ready", "status": "False", "reason": "RollingOut", "message": "", "observedGeneration": 1,
             "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    plan = Plan(tuple(apart(IMAGES, jobs)), {"conditions": [ready]}, (), 300.0)
    writer = Writer(cast("Any", kube), view, Metrics(), lambda: at[0])

    async def one_pass(seconds: float) -> list[str]:
        at[0] = seconds
        await writer.apply(service, body, plan, NOW + timedelta(seconds=seconds))
        told = kube.store["LLMDeployment", "default", "llama"]["status"]["conditions"]
        return [c["reason"] for c in told if c["type"] in {"Ready", "ImageReady"}]

    view.put(await kube.create(jobs[0].manifest) or {})
    kube.refuses["create Job"] = Unavailable("exceeded quota: jobs")
    for seconds in (0.0, START_SECONDS - 1):
        with pytest.raises(Unavailable):
            await one_pass(seconds)
    assert await one_pass(START_SECONDS) == ["RollingOut", "ImageNotPulled"]


@pytest.mark.parametrize(
    ("refusal", "again"),
    [
        (Forbidden("exceeded quota"), 15.0),
        (Denied("a policy"), 15.0),
        (Unavailable("429 too many requests"), None),
    ],
    ids=["a quota", "a policy", "an API server that has too much to do"],
)
async def test_what_is_not_let_in_keeps_no_other_work_waiting(
    refusal: Unavailable, again: float | None
) -> None:
    kube, view = FakeKube(), View()
    body = kube.put(
        {
            "apiVersion": "v1",
            "kind": "LLMDeployment",
            "metadata": {"name": "llama", "namespace": "default"},
            "spec": SERVICE,
        }
    )
    view.put(body)
    service = parse(LLMDeployment, body)
    template = serving.render_revision(service, service.spec.hardware.gpu.types[0], 1, "c", CONFIG).template
    job = Apply(make_puller(service, template, images_of(template), "n1", CONFIG), once=True)
    kube.refuses["create Job"] = refusal
    writer = Writer(cast("Any", kube), view, Metrics(), lambda: 0.0)
    with pytest.raises(Unavailable) as raised:
        await writer.apply(service, body, Plan((job,), None, (), 1.0), NOW)
    assert raised.value.again_seconds == again
