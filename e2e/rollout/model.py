"""A Triton model that behaves as the file beside it says: well, or badly in one of many ways.

It is served as weights are, in a model repository of its own. An answer names the revision and the pod that gave it,
so that who asks knows whom to blame. `e2e/rollout/revisions.py` says which behaviours there are.
"""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).parent
STEP_SECONDS = 0.1
BLOCK_BYTES = 16 << 20


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, _args: dict[str, str]) -> None:
        """Load, in the way that is asked for."""
        behaviour = json.loads((FOLDER / "behaviour.json").read_text())
        self._tag = f"{behaviour['revision']} {os.uname().nodename}"
        self._input, self._output = behaviour["tensors"]
        self._answers = behaviour["answers"]
        self._answer_seconds = behaviour["answer_seconds"]
        self._spared = behaviour["spared"]
        match behaviour["load"]:
            case "raises":
                raise RuntimeError(f"[{self._tag}] this revision does not load")
            case "stalls":
                time.sleep(3600)
            case "out-of-memory":
                _take_memory(behaviour["memory_bytes"])
        _load(behaviour["load_seconds"])
        if behaviour["dies"]:
            clock = threading.Timer(behaviour["dies_after_seconds"], _die, [behaviour["dies"]])
            clock.daemon = True
            clock.start()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        asked = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy().reshape(-1)[0].decode()
        if asked != self._spared:
            time.sleep(self._answer_seconds)
            if self._answers == "errors":
                # Only what is raised counts as a failure of Triton's backend; an error that is answered does not.
                raise RuntimeError(f"[{self._tag}] this revision refuses to answer")
            if self._answers == "empty":
                return self._response("")
        return self._response(f"[{self._tag}] {asked}")

    def _response(self, text: str) -> Any:
        values = np.array([text.encode()], dtype=np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, values)])


def _load(seconds: float) -> None:
    """Read the weights at a pace that takes so long: bytes come and processor time goes, all the while."""
    weights = FOLDER / "weights.dat"
    block_bytes = int(weights.stat().st_size * STEP_SECONDS / seconds) + 1
    with weights.open("rb", buffering=0) as file:
        while block := file.read(block_bytes):
            until = time.thread_time() + 0.02
            while time.thread_time() < until:
                sum(block)
            time.sleep(STEP_SECONDS)


def _take_memory(most_bytes: int) -> None:
    """Take memory until somebody ends this process. Bounded: nobody may, where there is no limit."""
    taken = [b"x" * BLOCK_BYTES for _ in range(most_bytes // BLOCK_BYTES)]
    raise MemoryError(f"took {len(taken) * BLOCK_BYTES} bytes, and nobody minded")


def _die(who: str) -> None:
    if who == "server":
        os.kill(os.getppid(), signal.SIGKILL)
    else:
        os._exit(1)
