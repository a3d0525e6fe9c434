"""One case at work: an LLMDeployment of its own, who scales it, and what is seen of both."""

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from e2e.external.judge import Outcome, complaints, condition, refusals, unlike, writers
from e2e.external.stage import Stage, a_scaled_object, an_autoscaler

READY_SECONDS = 150.0
FOLLOW_SECONDS = 90.0
"""An autoscaler looks every 15 s, and behind it a replica loads and answers."""
GONE_SECONDS = 120.0
LOOK_SECONDS = 0.5


class Play:
    """An LLMDeployment that is gone, with its autoscaler and its pods, after the case."""

    def __init__(self, stage: Stage, case: str, tell: Callable[[str], None]) -> None:
        self.stage = stage
        self.case = case
        self.name = case.replace("/", "-")
        self.problems: list[str] = []
        self.steps: list[tuple[str, float]] = []
        self._tell = tell
        self._autoscaler = ""
        self._scaled_object = False

    def __enter__(self) -> Self:
        self.stage.set_gauge(0)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        kinds = "scaledobject,hpa" if self._scaled_object else "hpa"
        self._kubectl("delete", kinds, self.name, "--ignore-not-found", "--wait=true")
        self._kubectl("delete", "llmd", self.name, "--ignore-not-found", "--wait=true")
        self.stage.until("its pods gone", lambda: not self.stage.pods(self.name), GONE_SECONDS)

    # --- what is done

    def begin(self, replicas: int | None = None, **spec: Any) -> None:
        """Apply the example with these parts, and wait until as many replicas answer as it asks for."""
        if replicas is not None:
            spec["replicas"] = replicas
        self.stage.apply(self.name, **spec)
        self.step("begins", lambda: self.stage.ready(self.name).get("status") == "True", READY_SECONDS)

    def autoscale(self, least: int, most: int, kind: str = "AverageValue") -> None:
        """Put a HorizontalPodAutoscaler on it, and wait until that knows its target and its number."""
        self._autoscaler = self.name
        self.stage.put(
            self.name, an_autoscaler(self.stage.namespace, self.name, self._target, least, most, kind)
        )
        self.step("its HPA is active", self._is_active, FOLLOW_SECONDS)

    def hand_to_keda(self, *, activation: int = 0, **spec: Any) -> None:
        """Put a ScaledObject on it, and wait until KEDA has taken it."""
        self._autoscaler, self._scaled_object = f"keda-hpa-{self.name}", True
        body = a_scaled_object(self.stage.namespace, self.name, self._target, activation=activation, **spec)
        self.stage.put(self.name, body)

        def is_taken() -> bool:
            found = self.stage.get("scaledobject", self.name) or {}
            return condition(found, "Ready").get("status") == "True"

        self.step("KEDA has it", is_taken, FOLLOW_SECONDS)

    def gauge(self, value: int) -> None:
        """Set the number that autoscalers look at."""
        self._tell(f"    the number is {value}")
        self.stage.set_gauge(value)

    # --- what is waited for

    def step(self, what: str, holds: Callable[[], object], seconds: float = FOLLOW_SECONDS) -> None:
        """Wait until something holds, and look meanwhile whether the autoscaler complains."""

        def is_so() -> bool:
            self._listen()
            return bool(holds())

        took = round(self.stage.until(f"{self.case}: {what}", is_so, seconds, LOOK_SECONDS), 1)
        self._tell(f"    {what}: {took} s")
        self.steps.append((what, took))

    def follows(self, replicas: int) -> None:
        """Wait until so many are asked for, then until so many answer, and see that /scale tells just that."""
        self.step(f"{replicas} asked for", lambda: self.asked == replicas)
        self.settles(replicas)

    def settles(self, replicas: int) -> None:
        """Wait until just so many replicas are there and answer, and see that /scale tells just that."""

        def is_there() -> bool:
            pods = self.stage.pods(self.name)
            return len(pods) == replicas == self.stage.ready_endpoints(self.name)

        self.step(f"{replicas} answer", is_there)
        self.step("/scale tells", lambda: not self.unlike())

    def stays(self, replicas: int, asked: int, seconds: float) -> None:
        """Look for a while whether anything moves."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._listen()
            pods = [p for p in self.stage.pods(self.name) if "deletionTimestamp" not in p["metadata"]]
            if (len(pods), self.asked) != (replicas, asked):
                self.problems.append(
                    f"{replicas} replicas, {asked} asked for, should stay: {len(pods)}, {self.asked}"
                )
                return
            time.sleep(LOOK_SECONDS)

    # --- what is seen

    @property
    def body(self) -> dict[str, Any]:
        """The LLMDeployment, with who wrote which field."""
        text = self._kubectl("get", "llmd", self.name, "-o", "json", "--show-managed-fields")
        found: dict[str, Any] = json.loads(text)
        return found

    @property
    def asked(self) -> int:
        """What spec.replicas says."""
        return int(self.body["spec"]["replicas"])

    @property
    def accepted(self) -> str:
        """What the condition Accepted says."""
        return str(condition(self.body, "Accepted").get("message", ""))

    def told(self, reason: str) -> list[str]:
        """What the Events of this reason say."""
        return [event["message"] for event in self._events(self.body) if event["reason"] == reason]

    def unlike(self) -> list[str]:
        """Return where /scale is not what the pods are, right now."""
        path = (
            f"/apis/preheat.dev/v1alpha1/namespaces/{self.stage.namespace}/llmdeployments/{self.name}/scale"
        )
        scale = json.loads(self._kubectl("get", "--raw", path))
        pods = [p for p in self.stage.items("pods") if "deletionTimestamp" not in p["metadata"]]
        return unlike(scale, pods)

    @property
    def autoscaler(self) -> dict[str, Any]:
        """Its HorizontalPodAutoscaler, empty while there is none."""
        return self.stage.get("hpa", self._autoscaler) or {} if self._autoscaler else {}

    def expect(self, what: str, actual: object, wanted: object) -> None:
        """Note a problem when something is not what it should be."""
        if actual != wanted:
            self.problems.append(f"{what}: {actual!r}, expected {wanted!r}")

    def outcome(self) -> Outcome:
        """Return what came of it."""
        problems = [*self.problems]
        if autoscaler := self.autoscaler:
            problems += refusals(self._events(autoscaler))
        return Outcome(
            self.case, problems, steps=tuple(self.steps), writers=tuple(sorted(writers(self.body)))
        )

    def _is_active(self) -> bool:
        return condition(self.autoscaler, "ScalingActive").get("status") == "True"

    def _listen(self) -> None:
        for words in complaints(self.autoscaler):
            if words not in self.problems:
                self.problems.append(words)

    def _events(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the Events of this very object: an earlier one may have had its name."""
        selector = f"involvedObject.uid={body['metadata']['uid']}"
        text = self._kubectl("get", "events", "--field-selector", selector, "-o", "json")
        found: list[dict[str, Any]] = json.loads(text)["items"]
        return found

    @property
    def _target(self) -> dict[str, Any]:
        return {"apiVersion": "preheat.dev/v1alpha1", "kind": "LLMDeployment", "name": self.name}

    def _kubectl(self, *arguments: str) -> str:
        return self.stage.kubectl("-n", self.stage.namespace, *arguments)
