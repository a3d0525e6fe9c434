"""The agent's real process beside a real tritonserver with a real model: what the engine hides is found."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.parse import parse
from preheat.resources.engines.triton_backends import llamacpp

from e2e.cluster.local.controlplane import free_port
from e2e.images.once import cache_directory
from e2e.images.triton_tree import demo_model, triton_command, triton_environment, triton_tree

pytestmark = pytest.mark.timeout(240)
EXAMPLE = Path(__file__).parents[2] / "examples" / "smollm2.yaml"


class Pod:
    """An engine and an agent as a pod would run them: the engine is started again when it ends."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("http", "grpc", "metrics", "agent")}
        self.options = options
        self.stall_seconds = 60.0
        self.weights = folder / "weights"
        self.weights.mkdir()
        self.engine: subprocess.Popen[bytes] | None = None
        self.agent: subprocess.Popen[bytes] | None = None
        self.engine_name = f"engine-{self.ports['http']}"
        self._stopping = threading.Event()
        self._kubelet = threading.Thread(target=self._restart_always)

    def start(self) -> None:
        """Render the very repository that the operator renders, and start both."""
        body = yaml.safe_load(EXAMPLE.read_text())
        body["metadata"].update(uid="u", generation=1)
        body["spec"]["runtime"]["options"] = self.options
        rendered = llamacpp(parse(LLMDeployment, body))
        for path, text in rendered.files.items():
            target = self.folder / "models" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace("/mnt/models", str(self.weights)))
        self.write_manifest()
        self._kubelet.start()
        settings = {
            "modelName": "smollm2", "models": ["smollm2"],
            "engineHTTP": f"http://127.0.0.1:{self.ports['http']}", "engineGRPC": f"127.0.0.1:{self.ports['grpc']}",
            "engineMetrics": f"http://127.0.0.1:{self.ports['metrics']}/metrics", "engineProcess": self.engine_name,
            "weightsDirectory": str(self.weights), "listenPort": self.ports["agent"], "adminKey": None,
            "stallSeconds": self.stall_seconds, "drainTimeoutSeconds": 20, "endpointDelaySeconds": 0.2,
            "canary": {"prompt": "The capital of France is", "maxTokens": 8, "expect": "Paris",
                       "timeoutSeconds": 20, "periodSeconds": 2, "failureThreshold": 2},
        }  # fmt: skip
        with (self.folder / "agent.log").open("wb") as log:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "preheat_agent.main"],
                env={**os.environ, "PREHEAT_AGENT_CONFIG": json.dumps(settings)},
                stderr=log,
            )

    def write_manifest(self) -> None:
        files = [{"path": path.name, "sizeBytes": path.stat().st_size} for path in self.weights.iterdir()]
        (self.weights / ".preheat-manifest.json").write_text(json.dumps({"files": files}))

    def stop(self) -> None:
        self._stopping.set()
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait(10)
        self._kubelet.join()

    def _restart_always(self) -> None:
        tree = triton_tree(cache_directory())
        command = triton_command(
            tree, self.folder / "models",
            http=self.ports["http"], grpc=self.ports["grpc"], metrics=self.ports["metrics"],
        )  # fmt: skip
        # A name of its own: the agent finds the engine by name, and other tests run engines too.
        program = self.folder / self.engine_name
        program.symlink_to(command[0])
        command[0] = str(program)
        environment = {**os.environ, **triton_environment(tree)}
        while not self._stopping.is_set():
            with (self.folder / "engine.log").open("ab") as log:
                self.engine = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            while self.engine.poll() is None and not self._stopping.wait(0.1):
                pass
            self._end_group(self.engine)

    @staticmethod
    def _end_group(process: subprocess.Popen[bytes]) -> None:
        """End the engine and its stubs, which outlive it, as the end of a container does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def ask(self, path: str, timeout: float = 5) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.ports['agent']}{path}", timeout=timeout, trust_env=False)

    def status(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self.ask("/status").json()
        except httpx.HTTPError:
            return {"state": "Silent", "load": {"percent": 0}}
        return answer

    def grant(self) -> None:
        """Be the operator for a moment: let the agent take the step that it waits for."""
        healing = self.status().get("healing", {})
        if healing.get("waitsFor"):
            body = {"healing": {"grant": healing["steps"] + 1, "seconds": 20}}
            httpx.post(f"http://127.0.0.1:{self.ports['agent']}/advice", json=body, trust_env=False)

    def is_ready(self) -> bool:
        try:
            return self.ask("/engine/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def stub(self) -> int:
        """Return the pid of the process that runs the model."""
        assert self.engine is not None
        for folder in Path("/proc").iterdir():
            try:
                text = (folder / "stat").read_text()
            except OSError:
                continue
            name, rest = text.split("(", 1)[1].rsplit(")", 1)
            if name.startswith("triton_python_b") and int(rest.split()[1]) == self.engine.pid:
                return int(folder.name)
        raise AssertionError("no stub runs")

    def until(self, what: str, holds: Callable[[], object], seconds: float) -> float:
        started = time.monotonic()
        while not holds():
            if time.monotonic() - started > seconds:
                log = (self.folder / "agent.log").read_text()[-2000:]
                raise AssertionError(f"{what}: not within {seconds} s\n{self.status()}\n{log}")
            time.sleep(0.1)
        return time.monotonic() - started


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    made = Pod(tmp_path)
    model = demo_model(cache_directory())
    (made.weights / model.name).symlink_to(model)
    try:
        yield made
    finally:
        made.stop()


def test_a_paced_load_is_seen_to_progress_and_ends_in_a_real_answer(pod: Pod) -> None:
    pod.options = {"load_bytes_per_second": "25000000"}
    pod.start()
    seen: list[int] = []

    def is_ready() -> bool:
        status = pod.status()
        if status["state"] == "Loading":
            seen.append(status["load"]["percent"])
            assert pod.ask("/engine/live").status_code == 200
            assert pod.ask("/engine/ready").status_code == 503
        return pod.is_ready()

    pod.until("ready", is_ready, 60)
    assert seen == sorted(seen)
    assert len(set(seen)) >= 4, f"the percentage was seen to move: {seen}"
    status = pod.status()
    assert status["state"] == "Serving"
    assert "Paris" in status["canary"]["lastAnswer"]
    assert status["load"]["percent"] == 100
    text = pod.ask("/metrics").text
    assert "preheat_agent_ready 1.0" in text
    assert 'preheat_agent_state{state="Serving"} 1.0' in text


def test_a_dead_stub_is_found_by_asking_and_healed(pod: Pod) -> None:
    pod.start()
    pod.until("ready", pod.is_ready, 60)
    os.kill(pod.stub(), signal.SIGKILL)
    engine = f"http://127.0.0.1:{pod.ports['http']}"
    assert httpx.get(f"{engine}/v2/health/ready", trust_env=False).status_code == 200, "the engine hides it"
    gone = pod.until("not ready", lambda: not pod.is_ready(), 20)

    def is_ready() -> bool:
        pod.grant()
        return pod.is_ready()

    back = pod.until("ready again", is_ready, 60)
    assert pod.status()["heals"] >= 1
    print(f"not ready after {gone:.1f} s, ready again after {gone + back:.1f} s")


def test_the_model_is_asked_over_both_protocols(pod: Pod) -> None:
    pod.start()
    pod.until("ready", pod.is_ready, 60)
    asked = pod.status()["canary"]["protocols"]
    assert {name for name, how in asked.items() if how["lastSuccessAt"]} == {"GRPC", "HTTP"}, asked
    before = asked["HTTP"]["lastSuccessAt"]
    pod.until(
        "again over HTTP", lambda: pod.status()["canary"]["protocols"]["HTTP"]["lastSuccessAt"] != before, 20
    )
    assert 'preheat_agent_canary_failures_total{protocol="HTTP"} 0.0' in pod.ask("/metrics").text


def test_an_engine_that_ends_is_loaded_again(pod: Pod) -> None:
    pod.start()
    pod.until("ready", pod.is_ready, 60)
    assert pod.engine is not None
    pod.engine.kill()
    pod.until("not ready", lambda: not pod.is_ready(), 10)
    pod.until("ready again", pod.is_ready, 60)
    assert pod.status()["engineStarts"] == 2


def test_a_load_that_fails_says_why_and_asks_for_no_restart(pod: Pod) -> None:
    for file in pod.weights.iterdir():
        file.unlink()
    (pod.weights / "model.gguf").write_bytes(b"this is no model")
    pod.start()
    pod.until("it says so", lambda: pod.status()["state"] == "Failed", 60)
    status = pod.status()
    assert status["reason"] == "LoadFailed"
    assert status["message"]
    assert pod.ask("/engine/live").status_code == 200


def test_incomplete_weights_are_told_and_loaded_only_when_they_are_back(pod: Pod) -> None:
    """A file that lost its end. A real engine would take it, or fail in words of its own."""
    whole = next(pod.weights.iterdir())
    content = whole.read_bytes()
    pod.start()
    pod.until("ready", pod.is_ready, 60)
    manifest = (pod.weights / ".preheat-manifest.json").open()
    with manifest, pytest.raises(BlockingIOError):
        fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
    whole.unlink()
    whole.write_bytes(content[: len(content) // 2])
    time.sleep(1)
    assert pod.is_ready(), "what is loaded goes on serving"
    assert pod.engine is not None
    pod.engine.kill()
    pod.until("it says so", lambda: pod.status().get("reason") == "WeightsIncomplete", 60)
    status = pod.status()
    assert status["state"] == "Failed"
    assert f"{len(content) // 2:,} bytes, and should have {len(content):,}" in status["message"]
    assert "Delete this pod" in status["message"]
    time.sleep(4)
    assert pod.status()["reason"] == "WeightsIncomplete", "however long the engine is there"
    assert pod.ask("/engine/live").status_code == 200
    assert pod.ask("/engine/ready").status_code == 503
    whole.write_bytes(content)
    pod.until("ready again", pod.is_ready, 60)


def test_a_frozen_load_stalls_and_only_then_is_a_restart_asked_for(pod: Pod) -> None:
    pod.options = {"load_bytes_per_second": "5000000"}
    pod.stall_seconds = 3
    pod.start()
    pod.until("loading", lambda: pod.status()["load"]["percent"] > 5, 60)
    time.sleep(pod.stall_seconds + 1)
    assert pod.ask("/engine/live").status_code == 200, "a slow load with progress is left alone"
    frozen = pod.stub()
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert pod.engine is not None
        os.kill(pod.engine.pid, signal.SIGSTOP)
        pod.until("it says so", lambda: pod.ask("/engine/live").status_code == 503, 30)
        assert pod.status()["state"] == "Stalled"
    finally:
        os.kill(frozen, signal.SIGCONT)
        os.kill(pod.engine.pid, signal.SIGCONT)


def test_a_drain_waits_for_what_is_under_way_and_ends_with_its_engine(pod: Pod) -> None:
    pod.start()
    pod.until("ready", pod.is_ready, 60)
    words: list[str] = []

    def stream() -> None:
        url = f"http://127.0.0.1:{pod.ports['http']}/v2/models/smollm2/generate_stream"
        body = {"text_input": "Once upon a time", "max_tokens": 150, "stream": True}
        with httpx.stream("POST", url, json=body, timeout=60, trust_env=False) as answer:
            words.extend(line for line in answer.iter_lines() if line)

    request = threading.Thread(target=stream)
    request.start()
    time.sleep(0.5)
    assert pod.ask("/drain", timeout=40).status_code == 200
    request.join(5)
    assert not request.is_alive(), "the request was over before the drain was"
    assert len(words) >= 100
    assert not pod.is_ready()
    time.sleep(2)
    assert not pod.is_ready(), "as long as the engine is there that is to end"
    assert pod.engine is not None
    os.kill(pod.engine.pid, signal.SIGTERM)
    pod.until("the next engine is ready: only the container was restarted", pod.is_ready, 60)


def test_what_a_model_is_asked_is_counted_without_the_canary(pod: Pod) -> None:
    pod.start()
    pod.until("ready", pod.is_ready, 60)
    engine = f"http://127.0.0.1:{pod.ports['http']}/v2/models/smollm2/generate"

    def signals() -> dict[str, float]:
        told: dict[str, float] | None = pod.ask("/signals").json()["signals"]
        return told or {}

    pod.until("the first page", signals, 10)
    begin = signals()

    def ask() -> None:
        body = {"text_input": "Once upon a time", "max_tokens": 60}
        httpx.post(engine, json=body, timeout=60, trust_env=False).raise_for_status()

    callers = [threading.Thread(target=ask) for _ in range(5)]
    for caller in callers:
        caller.start()
    pod.until(
        "two run and others wait", lambda: signals()["inService"] >= 1 and signals()["waiting"] >= 1, 20
    )
    for caller in callers:
        caller.join()
    grown = lambda name: signals()[name] - begin[name]  # noqa: E731 - read anew each time
    pod.until("five came and ended", lambda: (grown("came"), grown("ended")) == (5, 5), 20)
    assert grown("generatedTokens") >= 5 * 60, "the canary's tokens are among them"
    assert grown("busySeconds") > 1
    asked = pod.status()["canary"]["lastSuccessAt"]
    pod.until("another canary", lambda: pod.status()["canary"]["lastSuccessAt"] != asked, 20)
    time.sleep(3)  # real time: the agent reads a page every 2 s
    assert (grown("came"), grown("ended")) == (5, 5), "a question of ours is nobody's traffic"
