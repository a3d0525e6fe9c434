"""One case at work: an LLMDeployment of its own, watched and asked, and what is done to it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from types import TracebackType
from typing import Any, Self

from e2e.cluster.provider import ROOT
from e2e.rollout.eyes import Body, Eyes, Moment, moments
from e2e.rollout.judge import Verdict, first_verdict, recovered
from e2e.rollout.revisions import CANARY, GOOD, INCLUDE, MODEL, Revision, engine_image
from e2e.rollout.stage import CLIENT, STORE, Stage
from e2e.rollout.traffic import Request, Traffic
from e2e.tests.cluster import merged

READY_SECONDS = 120.0
VERDICT_SECONDS = 480.0
"""A crash after a minute is one only after the third, and kubelets wait longer from one to the next."""
RECOVERY_SECONDS = 180.0
ROUTED_SECONDS = 360.0
"""Gateway API is noticed within five minutes when it comes to a cluster."""
BEFORE_REQUESTS = 20
AFTER_SECONDS = 5.0
"""Of traffic, after the end."""
LOOK_SECONDS = 1.0


class Play:
    """An LLMDeployment that is gone, with its pods, after the case. ``gpus``: per replica."""

    def __init__(
        self, stage: Stage, case: str, tell: Callable[[str], None], *, replicas: int = 1, gpus: int = 1
    ) -> None:
        self.stage = stage
        self.case = case
        self.name = case.replace("/", "-")
        self.replicas = replicas
        self.good = ""
        """The hash of the revision that serves at first."""
        self.changed = 0.0
        """When the last change was made, Unix seconds."""
        self.began = 0.0
        """When the first revision served."""
        self._gpus = gpus
        self._tell = tell
        self._told = ""
        self._started = time.monotonic()
        self._traffic: Traffic | None = None
        self._eyes: Eyes | None = None

    def __enter__(self) -> Self:
        self._eyes = Eyes(self.stage.kubeconfig, self.stage.namespace, self.name)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._traffic is not None:
            self._traffic.end()
        self.eyes.close()
        self._record()
        self.stage.kubectl(
            "-n", self.stage.namespace, "delete", "llmd", self.name, "--ignore-not-found", "--wait=true"
        )
        self.stage.until("its pods gone", lambda: not self.stage.pods(self.name), READY_SECONDS)

    def _record(self) -> None:
        """Write down what was asked and seen, in order: who lost which request is found in there."""
        lines = [{"what": "request", **asdict(request)} for request in self.requests]
        for moment in self.history:
            replicas = [asdict(replica) for replica in moment.replicas.values()]
            lines.append({"what": "replicas", "at": moment.at, "replicas": replicas})
        lines.append({"what": "change", "at": self.changed})
        path = ROOT / "build" / "e2e" / "rollout" / f"{self.name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in sorted(lines, key=itemgetter("at"))))

    @property
    def eyes(self) -> Eyes:
        assert self._eyes is not None
        return self._eyes

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def requests(self) -> list[Request]:
        """The requests so far."""
        return list(self._traffic.requests) if self._traffic is not None else []

    @property
    def history(self) -> list[Moment]:
        """The states of the replicas, so far."""
        return moments(self.eyes.seen())

    # --- what is done

    def begin(
        self,
        revision: Revision = GOOD[0],
        *,
        asked: int = BEFORE_REQUESTS,
        how: Sequence[str] = (),
        **spec: Any,
    ) -> None:
        """Have a good revision serve with all its replicas, and ask it from then on, so many times before anything else.

        ``how``: further arguments of the driver.
        """
        self.apply(revision, **spec)
        self.until("the first revision serves", lambda: self.eyes.now.ready() == self.replicas, READY_SECONDS)
        if "gateway" in spec.get("rollout", {}):
            self.until("the gateway takes it", self._is_routed, ROUTED_SECONDS)
        (self.good,) = {replica.revision for replica in self.eyes.now.replicas.values()}
        self.began = time.time()
        self.ask(how)
        self.until("the first requests", lambda: len(self.requests) >= asked, READY_SECONDS)

    def apply(self, revision: Revision, **spec: Any) -> None:
        """Apply the LLMDeployment with a revision. ``spec`` is laid over what the revision asks for."""
        whole = merged(merged(self._spec(revision), dict(revision.spec)), spec)
        body = {
            "apiVersion": "preheat.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": self.name, "namespace": self.stage.namespace},
            "spec": whole,
        }
        self.changed = time.time()
        self.stage.put(self.name, body)

    def _spec(self, revision: Revision) -> Body:
        return {
            "model": {
                "uri": f"http://{STORE}.{self.stage.namespace}.svc/{revision.name}/",
                "include": list(INCLUDE),
            },
            "replicas": self.replicas,
            "hardware": {"gpu": {"types": ["nvidia-l4"], "count": self._gpus}},
            "runtime": {
                "backend": "Repository",
                "image": engine_image(),
                "options": {"models": MODEL},
                "resources": {"cpu": "100m", "memory": "512Mi"},
                "sharedMemory": "64Mi",
                "drainSeconds": 5,
            },
            "health": {"canary": {"prompt": CANARY, "periodSeconds": 3, "timeoutSeconds": 10}},
            "rollout": {"soakSeconds": revision.soak_seconds},
        }

    def ask(self, how: Sequence[str]) -> None:
        """Have the pod of the stage ask, over REST and gRPC, until the case ends."""
        service = self.stage.get("service", self.name) or {}
        address = service["spec"]["clusterIP"]
        self._traffic = Traffic(self.stage.kubeconfig, self.stage.namespace, CLIENT, [address, MODEL, *how])

    def preheat(self, *arguments: str) -> str:
        """Run `kubectl preheat`; return what it printed. Raises with its own words."""
        environment = {"KUBECONFIG": str(self.stage.kubeconfig), "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-m", "preheat.cli.main", *arguments, "-n", self.stage.namespace]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kubectl preheat {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def stop(self) -> list[Request]:
        """Ask for a little longer, then no more; return every request."""
        assert self._traffic is not None
        time.sleep(AFTER_SECONDS)
        return self._traffic.stop()

    # --- what is waited for

    def until(self, what: str, holds: Callable[[], object], seconds: float) -> None:
        """Wait, and tell of every step on the way. Raises AssertionError, with what is there."""
        deadline = time.monotonic() + seconds
        while not self.eyes.until(holds, LOOK_SECONDS):
            self.progress()
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:g} s; {self._state()}")
        self.progress()

    def progress(self) -> None:
        """Tell of the state, if it is another one."""
        state = self._state()
        if state != self._told:
            self._told = state
            bad = sum(not request.ok for request in self.requests)
            asked = f"asked {len(self.requests)}, failed {bad}"
            self._tell(f"  {self.case:<24} {self.seconds:5.0f} s  {state}; {asked}")

    def _state(self) -> str:
        body, now = self.eyes.service, self.eyes.now
        conditions = {c["type"]: c for c in (body.get("status") or {}).get("conditions", ())}
        words = [str(conditions["Ready"]["reason"])] if "Ready" in conditions else []
        words += [f"{name}={conditions[name]['status']}" for name in _TOLD if name in conditions]
        old, new = now.ready(self.good), [r for r in now.others(self.good) if self.good]
        there = f"old {old} ready, new {len(new)} there, {sum(r.ready for r in new)} ready"
        return ", ".join([*words, there if self.good else f"{now.ready()} ready"])

    def _is_routed(self) -> bool:
        conditions = (self.eyes.service.get("status") or {}).get("conditions", ())
        return any(c["type"] == "Routed" and c["status"] == "True" for c in conditions)

    def verdict(self, since: float | None = None, seconds: float = VERDICT_SECONDS) -> Verdict | None:
        """Wait for a verdict on what was changed last; None when there is none in time."""
        start = self.changed if since is None else since

        def told() -> Verdict | None:
            return first_verdict(self.eyes.seen(), start)

        deadline = time.monotonic() + seconds
        while told() is None and time.monotonic() < deadline:
            self.eyes.until(told, LOOK_SECONDS)
            self.progress()
        return told()

    def recovery(self, since: float) -> float | None:
        """Wait until the first revision alone serves with all its replicas; return from when on, None for never."""

        def back() -> float | None:
            return recovered(self.history, self.good, self.replicas, since)

        deadline = time.monotonic() + RECOVERY_SECONDS
        while back() is None and time.monotonic() < deadline:
            self.eyes.until(back, LOOK_SECONDS)
            self.progress()
        return back()

    def rolled_out(self) -> bool:
        """Tell whether the newest spec serves with all its replicas, and nothing of the first revision is left."""
        now, body = self.eyes.now, self.eyes.service
        status = body.get("status") or {}
        ready: Mapping[str, Any] = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
        return (
            ready.get("status") == "True"
            and ready.get("observedGeneration") == body["metadata"]["generation"]
            and len(now.replicas) == now.ready() == self.replicas
            and now.ready(self.good) == 0
        )


_TOLD = ("RolledBack", "PreflightPassed")
"""Conditions that the progress names."""
