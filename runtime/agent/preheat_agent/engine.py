"""The one door to the engine's HTTP side: KServe v2 health, the repository API, and its metrics.

Every connection is closed after its answer: an idle one would hold Triton's shutdown for its whole exit
timeout. Not ready is 400 in Triton, not 503: anything but 200 is a no.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from preheat_agent.ladder import Repository
from preheat_agent.traffic import Page, read_page, samples

QUICK_SECONDS = 3.0
METRICS_LIMIT_BYTES = 4_000_000
ANSWER_LIMIT_BYTES = 1_000_000
"""No answer to a question of ours is longer."""

IN_FLIGHT_GAUGES = frozenset(
    {
        "nv_inference_pending_request_count",
        "preheat_llm_running_requests",
        "preheat_llm_waiting_requests",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
    }
)
"""Requests that are somewhere in the engine. Triton's own gauge leaves out those under execution, and
decoupled backends queue inside themselves, so their own gauges are looked at as well."""


class CallError(Exception):
    """The engine gave no whole answer. The message says how the call ended."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What the engine's metrics say."""

    successes: float
    backend_failures: float
    in_flight: float
    gpu_memory_bytes: float
    page: Page | None = None
    """What they say of the requests to the model that is asked."""


class Engine:
    """Speaks with one engine."""

    def __init__(self, http: str, metrics: str, admin_key: str | None) -> None:
        headers = {"Connection": "close"}
        if admin_key:
            headers["admin-key"] = admin_key
        self._base = http
        self._metrics = metrics
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=QUICK_SECONDS,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """Release the sockets."""
        await self._http.aclose()

    async def is_live(self) -> bool:
        """Tell whether the engine's HTTP server answers."""
        try:
            answer = await self._http.get(f"{self._base}/v2/health/live")
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK

    async def repository(self, models: Iterable[str]) -> Repository:
        """Return where the models stand, all taken together. An engine that is silent has none."""
        try:
            answer = await self._http.post(f"{self._base}/v2/repository/index", json={})
            states = {entry["name"]: entry.get("state", "") for entry in answer.json()}
        except (httpx.HTTPError, KeyError, TypeError, ValueError, AttributeError):
            return Repository.ABSENT
        found = {states.get(model, "") for model in models}
        if "LOADING" in found:
            return Repository.LOADING
        if "UNLOADING" in found:
            return Repository.UNLOADING
        return Repository.READY if found == {"READY"} else Repository.ABSENT

    async def load(self, models: Iterable[str]) -> str | None:
        """Load the models in order; return None when all are loaded, else why not. Takes as long as it takes."""
        for model in models:
            problem = await self._post(f"/v2/repository/models/{model}/load")
            if problem is not None:
                return problem
        return None

    async def unload(self, models: Iterable[str]) -> str | None:
        """Unload the models, the last first. The engine answers before it is done."""
        for model in reversed(list(models)):
            problem = await self._post(f"/v2/repository/models/{model}/unload")
            if problem is not None:
                return problem
        return None

    async def call(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, str]:
        """Return status and text of an answer that may take as long as its caller lets it. Raises CallError."""
        url, method = f"{self._base}{path}", "GET" if body is None else "POST"
        content = b""
        try:
            async with self._http.stream(method, url, json=body, timeout=None) as answer:
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > ANSWER_LIMIT_BYTES:
                        raise CallError(f"the answer has more than {ANSWER_LIMIT_BYTES} bytes")
        except httpx.HTTPError as error:
            raise CallError(f"the engine broke the call off: {type(error).__name__} {error}") from error
        return answer.status_code, content.decode("utf-8", "replace")

    async def _post(self, path: str) -> str | None:
        try:
            answer = await self._http.post(f"{self._base}{path}", timeout=None)
        except httpx.HTTPError as error:
            return f"the engine broke the call off: {type(error).__name__} {error}"
        if answer.status_code == httpx.codes.OK:
            return None
        try:
            return str(answer.json()["error"])
        except (KeyError, TypeError, ValueError):
            return f"the engine answered {answer.status_code}: {answer.text[:200]}"

    async def counters(self, model: str) -> Counters | None:
        """Return what the metrics say, None when they are not to be had."""
        try:
            answer = await self._http.get(self._metrics)
            if answer.status_code != httpx.codes.OK or len(answer.content) > METRICS_LIMIT_BYTES:
                return None
            return read_counters(answer.text, model)
        except (httpx.HTTPError, ValueError):
            return None


def read_counters(text: str, model: str) -> Counters:
    """Return the counters of a metrics page. Raises ValueError when it is none."""
    successes = backend = flight = gpu = 0.0
    for name, labels, value in samples(text):
        if name == "nv_inference_request_success":
            successes += value
        elif name == "nv_inference_request_failure" and labels.get("reason") == "BACKEND":
            backend += value
        elif name in IN_FLIGHT_GAUGES:
            flight += value
        elif name == "nv_gpu_memory_used_bytes":
            gpu += value
    return Counters(successes, backend, flight, gpu, read_page(text, model))
