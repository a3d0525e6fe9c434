"""Random objects that the API server may accept, as nasty as it lets them be.

Made from the schemas of the CRDs themselves: every field may appear, with values at its bounds, unicode, control
characters, quotes, ``$(X)`` and endless expressions. What the CEL rules ask for is mended most of the time, so
that most objects are accepted; the rest shows that the API server refuses them.
"""

import json
import random
from collections.abc import Callable
from typing import Any

from preheat.api.crd import definitions

Schema = dict[str, Any]
Body = dict[str, Any]

NASTY = (
    "$(HOSTNAME)", "$$(X)", "${X}", "`id`", "'; rm -rf /", '"quoted"', "line\nline", "tab\there", "\x01\x02\x7f", "nul-free \x1b[31m",
    "{{ .Values }}", "%s%n", "\u202eright to left", "\U0001f525" * 8, "e\u0301" * 20, "\ufeffbom", "- yaml: [", "~", "null", "true", "0x10",
    "../../etc/passwd", "\\\\server", " leading", "trailing ", "a" * 63, "\u00df\u0130\u0131", "--", "=", ",", "#", "\u2028",
)  # fmt: skip
EXPRESSIONS = (
    "(a+)+$", "(a|aa)+$", "(.*)*x", "(?:a?){60}a{60}", r"(\w+\s?)*!", "(?i)" + "[\x01-\uffff]" * 50, "(?i)\u0130", ".", "(?s).*",
    "(?=(a+)+$)b", "a{1000}", "(" * 90 + ")" * 90, "[[:alpha:]]", "^$", "\\", "(", "*",
)  # fmt: skip
URIS = (
    "hf://a/b", "http://store.example/m/", "https://[::1]/x", "pvc://claim/x", "http://store.example/" + "x" * 900, "http://\u00fc.example/",
    "http://user:pw@store.example/m/", "http://169.254.169.254/latest/", "hf://" + "o" * 80 + "/" + "n" * 80, "http://store.example/$(X)/",
)  # fmt: skip
QUANTITIES = ("1", "500m", "0.5", "64Mi", "4Gi", "1024", "64Ti", "9" * 20, "0", "0.000000000000000001")
PATHS = (
    "model.gguf",
    "a/b/c.gguf",
    "x" * 250 + ".gguf",
    "\u00fc\U0001f525.gguf",
    "$(X).gguf",
    "a b.gguf",
    "'q'.gguf",
    "*.gguf",
)
GPU_TYPES = ("nvidia-l4", "nvidia-a10g", "nvidia-h100-80gb", "nvidia-t4")


class Poison:
    """A seeded maker of objects."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._schemas = {
            body["spec"]["names"]["kind"]: body["spec"]["versions"][0]["schema"]["openAPIV3Schema"][
                "properties"
            ]
            for body in definitions().values()
        }
        self._special: dict[str, Callable[[], Any]] = {
            "uri": lambda: self._pick(URIS),
            "expect": lambda: self._pick(EXPRESSIONS),
            "cpu": lambda: self._pick(QUANTITIES),
            "memory": lambda: self._pick(QUANTITIES),
            "sharedMemory": lambda: self._pick(("64Mi", "1Gi", "1Mi")),
            "image": lambda: self._pick(("example.com/i:1", "x" * 200, "example.com/a@sha256:" + "0" * 64)),
            "sha256": lambda: f"{self._random.getrandbits(256):064x}",
            "path": lambda: f"{self._random.getrandbits(32):08x}-{self._pick(PATHS)}",
            "revision": lambda: self._pick(("main", "0" * 40, "x" * 128, "a/b")),
            "endpoint": lambda: self._pick(("https://hub.example", "http://hub.example/$(X)")),
            "secretName": lambda: self._pick(("token", "x" * 253, "a.b")),
            "resourceName": lambda: self._pick(("nvidia.com/gpu", "example.com/odd", "amd.com/gpu")),
            "options": lambda: {self._name(): self._nasty(1024) for _ in range(self._pick((0, 1, 64)))},
            "nodeSelector": self._labels,
            "include": lambda: [f"{number}*.gguf" for number in range(self._pick((0, 1, 32)))],
            "operator": lambda: self._pick(("Exists", "Equal")),
            "effect": lambda: self._pick(("", "NoSchedule", "NoExecute")),
            "key": lambda: self._pick(("example.com/taint", "a", "x" * 63)),
            "value": lambda: "",
            "claimName": lambda: self._pick(("weights", "x" * 253, "a.b")),
            "verifyIntervalSeconds": lambda: self._pick((0, 60, 31_536_000)),
            "start": lambda: self._pick(("00:00", "07:30", "23:59")),
            "end": lambda: self._pick(("00:01", "12:00", "23:58")),
            "timeZone": lambda: self._pick(("UTC", "Europe/Berlin", "Nowhere/At_All")),
            "template": self._template,
        }

    def objects(self, count: int, namespace: str) -> list[Body]:
        """Return so many objects, each with another name."""
        return [self._object(number, namespace) for number in range(count)]

    def status(self, kind: str) -> Body:
        """Return a status as somebody may write it by hand."""
        made: Body = self._value(self._schemas[kind]["status"], "status")
        if kind == "ModelCache" and self._chance(0.3):
            made["nodes"] = [{"name": f"ghost-{n}", "state": "Ready", "percent": 100} for n in range(1000)]
        for field in ("conditions", "nodes", "children"):
            named = "type" if field == "conditions" else "name"
            if field in made:
                made[field] = list({item[named]: item for item in made[field]}.values())
        return made

    def _object(self, number: int, namespace: str) -> Body:
        kind = self._pick(("LLMDeployment", "LLMDeployment", "ModelCache"))
        spec = self._value(self._schemas[kind]["spec"], "spec")
        if self._chance(0.95):
            _mend(spec, self._random)
        length = self._pick((0, 0, 40))
        name = f"p{number}-{'x' * 40}"[:length] if length else f"p{number}"
        return {
            "apiVersion": "preheat.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name.rstrip("-"), "namespace": namespace, **self._metadata()},
            "spec": spec,
        }

    def _metadata(self) -> Body:
        made: Body = {}
        if self._chance(0.2):
            made["annotations"] = {f"example.com/a{n}": self._nasty(4000) for n in range(self._pick((1, 10)))}
        if self._chance(0.2):
            made["labels"] = {f"team.preheat.dev/l{n}": "x" * 63 for n in range(self._pick((1, 500)))}
        if self._chance(0.1):
            made["finalizers"] = ["example.com/stranger"]
        if self._chance(0.1):
            made["labels"] = {"preheat.dev/llmdeployment": "other", "app.kubernetes.io/managed-by": "preheat"}
        return made

    def _value(self, schema: Schema, name: str) -> Any:
        if name in self._special and self._chance(0.97):
            return self._special[name]()
        if "enum" in schema:
            return self._pick(schema["enum"])
        kind = schema.get("type")
        if kind == "object" and "properties" in schema:
            required = set(schema.get("required", ()))
            return {
                field: self._value(child, field)
                for field, child in schema["properties"].items()
                if field in required or self._chance(0.45)
            }
        if kind == "object":
            if "additionalProperties" not in schema:
                return {}
            return {
                self._name(): self._value(schema["additionalProperties"], "")
                for _ in range(self._pick((0, 3)))
            }
        if kind == "array":
            return self._list(schema, name)
        if kind == "integer":
            low, high = schema.get("minimum", 0), schema.get("maximum", 2**31 - 1)
            return self._pick((low, high, low, self._random.randint(low, high), min(low + 1, high)))
        if kind == "boolean":
            return self._chance(0.5)
        return self._nasty(schema.get("maxLength", 64), schema.get("minLength", 0))

    def _list(self, schema: Schema, name: str) -> list[Any]:
        most = schema.get("maxItems", 8)
        count = self._pick((schema.get("minItems", 0), 1, min(2, most), most if self._chance(0.3) else 1))
        items = [self._value(schema["items"], f"{name}[]") for _ in range(count)]
        if schema.get("x-kubernetes-list-type") == "set":
            items = list({json.dumps(item): item for item in items}.values())
        return items

    def _nasty(self, most: int, least: int = 0) -> str:
        text = self._pick(NASTY)
        if self._chance(0.2):
            text *= 1 + most // max(1, len(text))
        return (
            (text[:most] + "x" * least)[: max(most, least)] if len(text) < least or len(text) > most else text
        )

    def _template(self) -> Body:
        """Return an overlay over the model pod."""
        environment = [
            {"name": f"E{number}", "value": self._nasty(1000)} for number in range(self._pick((1, 64)))
        ]
        return self._pick(
            (
                {},
                {"metadata": {"annotations": {"example.com/a": self._nasty(4000)}}},
                {"spec": {"nodeSelector": self._labels(), "schedulerName": "nobody"}},
                {"spec": {"containers": [{"name": "engine", "env": environment}]}},
                {"spec": {"containers": [{"name": "engine", "resources": {"requests": {"cpu": "1e9"}}}]}},
                {"spec": {"priorityClassName": "no-such-class", "serviceAccountName": "nobody"}},
            )
        )

    def _labels(self) -> dict[str, str]:
        return {f"example.com/l{number}": "x" * 63 for number in range(self._pick((0, 1, 31)))}

    def _name(self) -> str:
        return f"k{self._random.getrandbits(40):010x}"

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _pick(self, choices: Any) -> Any:
        return self._random.choice(choices)


def _mend(spec: Body, chooser: random.Random) -> None:
    """Make a spec keep the rules over several fields, as far as they are easily kept."""
    source = spec.get("model") or spec.get("source") or {}
    _mend_source(source, chooser)
    for part in (spec, spec.get("placement", {}), spec.get("hardware", {})):
        for toleration in part.get("tolerations", []):
            toleration.setdefault("key", "example.com/taint")
    _mend_storage(spec, spec.get("storage") or spec.get("cache") or {})
    if "hardware" not in spec:
        return
    runtime = spec.setdefault("runtime", {})
    backend = chooser.choice(("VLLM", "LlamaCpp", "TensorRTLLM", "Repository"))
    runtime["backend"] = backend
    source["format"] = {"LlamaCpp": "GGUF", "Repository": "ONNX"}.get(backend, "Safetensors")
    if backend == "LlamaCpp":
        runtime["options"] = {"n_ctx": "1"}
    if backend == "Repository":
        runtime["options"] = {"models": chooser.choice(("a", "a,b", "$(X)"))}
    unread = {"LlamaCpp": ("precision",), "Repository": ("precision", "contextLengthTokens", "maxBatchSize")}
    for field in unread.get(backend, ()):
        source.pop(field, None)
    hardware = spec["hardware"]
    hardware["gpu"]["types"] = chooser.sample(GPU_TYPES, chooser.choice((1, 1, len(GPU_TYPES))))
    hardware.pop("parallelism", None)
    _mend_types(runtime, backend, hardware["gpu"]["types"])
    _mend_scaling(spec.get("scaling", {}))
    if runtime.get("resources"):
        runtime["resources"] = {
            "cpu": chooser.choice(QUANTITIES[:3]),
            "memory": chooser.choice(("4Gi", "64Ti")),
        }
    if not str(spec.get("health", {}).get("canary", {}).get("prompt", "x")).strip():
        spec["health"]["canary"]["prompt"] = "x"


def _mend_types(runtime: Body, backend: str, types: list[str]) -> None:
    """One entry for a type that is listed, with options that the backend takes."""
    own = {one["type"]: one for one in runtime.get("perType", []) if one["type"] in types}
    for one in own.values():
        if backend == "LlamaCpp" and "options" in one:
            one["options"] = {"n_ctx": "1"}
        if backend == "Repository":
            one.pop("options", None)
    if "perType" in runtime:
        runtime["perType"] = list(own.values())


def _mend_storage(spec: Body, storage: Body) -> None:
    if storage.get("mode") == "Image":
        storage["mode"] = "Node"  # its weights are in an image: most sources are not
    if storage.get("mode") == "Shared":
        storage.setdefault("claimName", "weights")
        storage.pop("warmNodes", None)
        spec.get("placement", {}).pop("nodes", None)
    else:
        storage.pop("claimName", None)


def _mend_scaling(scaling: Body) -> None:
    if scaling.get("mode", "External") == "External":
        for field in ("targetConcurrency", "lateAfterSeconds", "scaleToZero", "schedules"):
            scaling.pop(field, None)
    else:
        scaling["maxReplicas"] = min(999, scaling.get("maxReplicas", 999))
    if scaling.get("scaleToZero") or scaling.get("minReplicas", 0) > scaling.get("maxReplicas", 1000):
        scaling.pop("minReplicas", None)
    for schedule in scaling.get("schedules", []):
        schedule["minReplicas"] = min(schedule["minReplicas"], max(1, scaling["maxReplicas"]))
    if scaling.get("maxReplicas") == 0:
        scaling.pop("schedules", None)


def _mend_source(source: Body, chooser: random.Random) -> None:
    if str(source["uri"]).startswith("hf://"):
        source["revision"] = source.get("revision") or "main"
    else:
        source.pop("revision", None)
        source.pop("endpoint", None)
    if str(source["uri"]).startswith("pvc://"):
        source.pop("credentials", None)
    files = source.get("files", [])
    source["files"] = list({file["path"]: file for file in files}.values())
    if chooser.random() < 0.1:
        source["files"] = [{"path": f"{n:03d}-{'x' * 200}.gguf", "sha256": "0" * 64} for n in range(256)]
    if source["files"]:
        source.pop("include", None)
