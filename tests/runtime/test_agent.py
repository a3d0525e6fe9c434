"""The agent's real process beside a real tritonserver with a real model: what the engine hides is found."""

import contextlib
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
    back = pod.until("ready again", pod.is_ready, 60)
    assert pod.status()["heals"] >= 1
    print(f"not ready after {gone:.1f} s, ready again after {gone + back:.1f} s")


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


def test_a_drain_waits_for_what_is_under_way(pod: Pod) -> None:
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
