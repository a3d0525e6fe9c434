"""Triton's side: requests come in, llama.cpp generates, answers go out token by token.

    execute() --> todo --> one worker thread per slot --> events --> ONE responder thread --> Triton

Only the responder talks to the server (send, is_cancelled, metrics): with calls from several threads
tritonserver 2.51 crashed or hung. The workers only generate.
"""

import json
import queue
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils

from .settings import InvalidSettingsError, Settings, parse_settings
from .weights import find_weights, read_at_pace

CANCEL_CHECK_SECONDS: Final = 0.2
"""How often the server is asked whether somebody hung up; a slot is free again one token later."""
STOP_SECONDS: Final = 10.0

LATENCY_BUCKETS: Final = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
PER_TOKEN_BUCKETS: Final = [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64]


class InvalidRequestError(Exception):
    """The caller must change the request; the message says what."""


@dataclass(slots=True, eq=False)
class Generation:
    """One request on its way. The responder owns every field but ``stopped``, which workers read."""

    sender: Any  # pb_utils publishes no types
    prompt: str
    stream: bool
    chat: bool
    max_tokens: int
    temperature: float
    accepted_at: float
    first_token_at: float | None = None
    running: bool = False
    text: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Accepted:
    """Triton handed a request over; it waits for a slot."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class Started:
    """A slot took the request."""

    generation: Generation


@dataclass(frozen=True, slots=True)
class Generated:
    """llama.cpp made some text; the counts are totals of the request so far."""

    generation: Generation
    text: str
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The slot is free again; ``error`` is None when all went well."""

    generation: Generation
    error: Exception | None


Event = Accepted | Started | Generated | Finished


class TritonPythonModel:
    """What Triton creates, calls and ends."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model. What is wrong with the configuration becomes the reason in Triton's index."""
        started_seconds = time.monotonic()
        try:
            settings = parse_settings(json.loads(args["model_config"]))
            engine = _load_engine(settings)
        except InvalidSettingsError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        load_seconds = time.monotonic() - started_seconds
        pb_utils.Logger.log_info(
            f"{settings.gguf_path} loaded in {load_seconds:.1f} s, {settings.slots} slots"
        )
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._metrics = Metrics(labels, settings, load_seconds)
        self._todo: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._workers = [
            threading.Thread(
                target=_work, args=(engine, self._todo, self._events), daemon=True, name=f"slot-{n}"
            )
            for n in range(settings.slots)
        ]
        responder = Responder(self._events, self._metrics)
        self._responder = threading.Thread(target=responder.run, daemon=True, name="responder")
        for thread in (*self._workers, self._responder):
            thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests and return at once: the model is decoupled, answers follow when they are made."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                generation = _read_request(request, sender, time.monotonic())
            except InvalidRequestError as error:
                generation = Generation(sender, "", False, False, 0, 0.0, time.monotonic())
                self._events.put(Accepted(generation))
                self._events.put(Finished(generation, error))
                continue
            self._events.put(Accepted(generation))
            self._todo.put(generation)

    def finalize(self) -> None:
        """Stop the threads; Triton calls it when no request is left."""
        for _ in self._workers:
            self._todo.put(None)
        for worker in self._workers:
            worker.join(STOP_SECONDS)
        self._events.put(None)
        self._responder.join(STOP_SECONDS)


def _load_engine(settings: Settings) -> Any:
    """Return llama.cpp with the model in it. Raises InvalidSettingsError.

    The import is here because Triton starts this file twice: the first time only to complete the configuration.
    """
    import xllamacpp  # noqa: PLC0415

    path = find_weights(settings.gguf_path)
    if settings.load_bytes_per_second:
        read_at_pace(path, settings.load_bytes_per_second, clock=time.monotonic, wait=time.sleep)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = settings.context_tokens
    parameters.n_parallel = settings.slots
    parameters.cpuparams.n_threads = settings.threads
    parameters.cpuparams_batch.n_threads = settings.threads
    parameters.warmup = False
    parameters.verbosity = 1  # errors; it tells of every request otherwise
    parameters.cache_ram_mib = 0  # else finished prompts stay in memory, up to 8 GiB: a pod has a limit
    # The library always opens an HTTP server of its own on the loopback; without this key anyone in the pod's
    # network could use it past Triton.
    parameters.api_keys = [secrets.token_hex(32)]
    parameters.ui = False
    parameters.n_threads_http = 1
    try:
        return xllamacpp.Server(parameters)
    except (RuntimeError, ValueError) as error:
        raise InvalidSettingsError(
            f"llama.cpp cannot load {path} ({error}): is it whole, and is there memory?"
        ) from error


def _read_request(request: Any, sender: Any, now: float) -> Generation:
    generation = Generation(
        sender=sender,
        prompt=_input(request, "text_input", b"").decode(errors="replace"),
        stream=bool(_input(request, "stream", False)),
        chat=bool(_input(request, "chat", False)),
        max_tokens=int(_input(request, "max_tokens", 16)),
        temperature=float(_input(request, "temperature", 0.0)),
        accepted_at=now,
    )
    if not generation.prompt:
        raise InvalidRequestError("text_input is empty: send a prompt")
    if generation.max_tokens < 1:
        raise InvalidRequestError(f"max_tokens must be at least 1, was {generation.max_tokens}")
    if not 0.0 <= generation.temperature <= 10.0:
        raise InvalidRequestError(f"temperature must lie between 0 and 10, was {generation.temperature:g}")
    return generation


def _input(request: Any, name: str, default: Any) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().reshape(-1)[0]


def _work(
    engine: Any, todo: "queue.SimpleQueue[Generation | None]", events: "queue.SimpleQueue[Event | None]"
) -> None:
    """Generate one request after the other until None comes."""
    while (generation := todo.get()) is not None:
        error: Exception | None = None
        if not generation.stopped.is_set():
            events.put(Started(generation))
            try:
                _generate(engine, generation, events)
            except Exception as problem:  # noqa: BLE001 - whatever it is, the caller must hear of it and the slot go on
                error = problem
        events.put(Finished(generation, error))


def _generate(engine: Any, generation: Generation, events: "queue.SimpleQueue[Event | None]") -> None:
    """Run one request through llama.cpp. Raises InvalidRequestError and RuntimeError."""
    errors: list[Mapping[str, Any]] = []

    def take(chunk: Mapping[str, Any]) -> bool:
        """Hand one piece on. Returning true makes llama.cpp stop."""
        if "error" in chunk:
            errors.append(chunk["error"])
            return True
        text = "".join(_text(choice) for choice in chunk.get("choices", ()))
        timings = chunk.get("timings", {})
        prompt_tokens = int(timings.get("cache_n", 0)) + int(timings.get("prompt_n", 0))
        if text:
            events.put(Generated(generation, text, prompt_tokens, int(timings.get("predicted_n", 0))))
        return generation.stopped.is_set()

    body: dict[str, Any] = {
        "stream": True,
        "timings_per_token": True,
        "max_tokens": generation.max_tokens,
        "temperature": generation.temperature,
    }
    if generation.chat:
        body["messages"] = [{"role": "user", "content": generation.prompt}]
        engine.handle_chat_completions(body, take)
    else:
        body["prompt"] = generation.prompt
        engine.handle_completions(body, take)
    if errors:
        message = str(errors[0].get("message", errors[0]))
        raise InvalidRequestError(message) if errors[0].get("code") == 400 else RuntimeError(message)


def _text(choice: Mapping[str, Any]) -> str:
    return choice.get("text") or choice.get("delta", {}).get("content") or ""


class Responder:
    """The only one that talks to Triton while requests run."""

    def __init__(self, events: "queue.SimpleQueue[Event | None]", metrics: "Metrics") -> None:
        self._events = events
        self._metrics = metrics
        self._live: set[Generation] = set()
        self._checked_at = 0.0

    def run(self) -> None:
        """Answer until None comes."""
        while True:
            try:
                event = self._events.get(timeout=CANCEL_CHECK_SECONDS)
            except queue.Empty:
                pass
            else:
                if event is None:
                    return
                self._answer_safely(event)
            now = time.monotonic()
            if now - self._checked_at >= CANCEL_CHECK_SECONDS:
                self._checked_at = now
                self._stop_cancelled()
                self._metrics.show(self._live)

    def _answer_safely(self, event: Event) -> None:
        try:
            self._answer(event)
        except Exception as problem:  # noqa: BLE001 - one broken request must not silence all others
            event.generation.stopped.set()
            pb_utils.Logger.log_error(f"answering failed: {problem!r}")

    def _answer(self, event: Event) -> None:
        generation = event.generation
        match event:
            case Accepted():
                self._live.add(generation)
                self._metrics.show(self._live)
            case Started():
                generation.running = True
                self._metrics.show(self._live)
            case Generated():
                self._hand_out(event)
            case Finished():
                self._live.discard(generation)
                self._metrics.show(self._live)
                self._finish(generation, event.error)

    def _hand_out(self, event: Generated) -> None:
        generation = event.generation
        now = time.monotonic()
        if generation.first_token_at is None:
            generation.first_token_at = now
            self._metrics.time_to_first_token.observe(now - generation.accepted_at)
            self._metrics.prompt_tokens.increment(event.prompt_tokens)
        self._metrics.generated_tokens.increment(max(event.output_tokens - generation.output_tokens, 0))
        generation.prompt_tokens = event.prompt_tokens
        generation.output_tokens = event.output_tokens
        if generation.stopped.is_set():
            return
        if generation.stream:
            generation.sender.send(_response(event.text, event.output_tokens))
        else:
            generation.text.append(event.text)

    def _finish(self, generation: Generation, error: Exception | None) -> None:
        if generation.stopped.is_set():
            response = _failure("the request was cancelled", pb_utils.TritonError.CANCELLED)
            self._metrics.cancelled.increment(1)
        elif error is not None:
            bad_request = isinstance(error, InvalidRequestError)
            code = pb_utils.TritonError.INVALID_ARG if bad_request else pb_utils.TritonError.INTERNAL
            response = _failure(str(error) if bad_request else f"llama.cpp failed: {error}", code)
            self._metrics.failed.increment(1)
        else:
            response = (
                None if generation.stream else _response("".join(generation.text), generation.output_tokens)
            )
            self._metrics.finished(generation, time.monotonic())
        if response is not None:
            generation.sender.send(response)
        generation.sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _stop_cancelled(self) -> None:
        for generation in self._live:
            if not generation.stopped.is_set() and generation.sender.is_cancelled():
                generation.stopped.set()


def _response(text: str, output_tokens: int) -> Any:
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("text_output", np.array([text.encode()], dtype=object)),
            pb_utils.Tensor("output_tokens", np.array([output_tokens], dtype=np.int32)),
        ]
    )


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


class Metrics:
    """The backend's own series on Triton's metrics port; all names begin with preheat_llm_.

    Triton's nv_inference_pending_request_count stays 0 for a model that queues inside itself, so a scaler reads
    the waiting and running requests here.
    """

    def __init__(self, labels: Mapping[str, str], settings: Settings, load_seconds: float) -> None:
        self._families: list[Any] = []  # a series lives as long as its family
        kinds = pb_utils.MetricFamily
        self._running = self._add("running_requests", "Requests in a slot", kinds.GAUGE, labels)
        self._waiting = self._add("waiting_requests", "Requests waiting for a slot", kinds.GAUGE, labels)
        self._kv_tokens = self._add(
            "kv_tokens", "Tokens of running requests in the KV cache", kinds.GAUGE, labels
        )
        slots = self._add("slots", "Requests that can run at once", kinds.GAUGE, labels)
        slots.set(settings.slots)
        capacity = self._add(
            "kv_capacity_tokens", "Tokens the KV cache holds, all slots", kinds.GAUGE, labels
        )
        capacity.set(settings.context_tokens)
        load = self._add("load_seconds", "How long the model took to load", kinds.GAUGE, labels)
        load.set(load_seconds)
        self.prompt_tokens = self._add("prompt_tokens_total", "Prompt tokens", kinds.COUNTER, labels)
        self.generated_tokens = self._add("generated_tokens_total", "Generated tokens", kinds.COUNTER, labels)
        self._succeeded = self._add("requests_finished_total", "Requests answered", kinds.COUNTER, labels)
        self.failed = self._add(
            "requests_failed_total", "Requests answered with an error", kinds.COUNTER, labels
        )
        self.cancelled = self._add("requests_cancelled_total", "Requests given up", kinds.COUNTER, labels)
        self.time_to_first_token = self._add(
            *("time_to_first_token_seconds", "From acceptance to the first token", kinds.HISTOGRAM, labels),
            buckets=LATENCY_BUCKETS,
        )
        self._request_seconds = self._add(
            *("request_seconds", "From acceptance to the last token", kinds.HISTOGRAM, labels),
            buckets=LATENCY_BUCKETS,
        )
        self._per_token = self._add(
            *(
                "time_per_output_token_seconds",
                "Mean time of a token after the first",
                kinds.HISTOGRAM,
                labels,
            ),
            buckets=PER_TOKEN_BUCKETS,
        )

    def show(self, live: set[Generation]) -> None:
        """Set the gauges to what is true now."""
        running = [generation for generation in live if generation.running]
        self._running.set(len(running))
        self._waiting.set(len(live) - len(running))
        self._kv_tokens.set(
            sum(generation.prompt_tokens + generation.output_tokens for generation in running)
        )

    def finished(self, generation: Generation, now: float) -> None:
        """Count a request that was answered whole."""
        self._succeeded.increment(1)
        self._request_seconds.observe(now - generation.accepted_at)
        if generation.first_token_at is not None and generation.output_tokens > 1:
            self._per_token.observe((now - generation.first_token_at) / (generation.output_tokens - 1))

    def _add(self, name: str, description: str, kind: Any, labels: Mapping[str, str], **options: Any) -> Any:
        family = pb_utils.MetricFamily(name=f"preheat_llm_{name}", description=description, kind=kind)
        self._families.append(family)
        return family.Metric(labels=dict(labels), **options)
