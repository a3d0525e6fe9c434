"""LLMDeployment: what a user applies to have a model served. Field docs are what ``kubectl explain`` prints."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, field_validator

from preheat.api.base import (
    EXTENDED_RESOURCE,
    APIModel,
    DNSLabel,
    Hostname,
    Labels,
    LabelValue,
    Name,
    Rule,
    quantity,
    rules,
    worded,
)
from preheat.api.conditions import Condition
from preheat.api.gpu import GPUType
from preheat.api.modelcache import STORAGE_RULES, CacheMode, ModelSource, StorageSpec, Toleration, image_rules
from preheat.api.template import NOT_A_LABEL_OF_WEIGHTS, REFUSED_GPU, REFUSED_SELECTOR, PodTemplate


class Precision(StrEnum):
    """The number format of the weights in GPU memory."""

    FP32 = "FP32"
    BF16 = "BF16"
    FP16 = "FP16"
    FP8 = "FP8"
    INT8 = "INT8"
    INT4 = "INT4"


class EngineName(StrEnum):
    """The server that speaks KServe v2."""

    TRITON = "Triton"


class Backend(StrEnum):
    """What runs the model inside the engine."""

    VLLM = "VLLM"
    TENSORRT_LLM = "TensorRTLLM"
    LLAMA_CPP = "LlamaCpp"
    REPOSITORY = "Repository"


class ScalingMode(StrEnum):
    """Who decides the number of replicas."""

    EXTERNAL = "External"
    PREDICTIVE = "Predictive"
    REACTIVE = "Reactive"


class Day(StrEnum):
    """A day of the week."""

    MONDAY = "Monday"
    TUESDAY = "Tuesday"
    WEDNESDAY = "Wednesday"
    THURSDAY = "Thursday"
    FRIDAY = "Friday"
    SATURDAY = "Saturday"
    SUNDAY = "Sunday"


class RolloutStrategy(StrEnum):
    """How a new revision takes over."""

    AUTO = "Auto"
    SURGE = "Surge"
    IN_PLACE = "InPlace"
    BLUE_GREEN = "BlueGreen"
    CANARY = "Canary"


class PreflightPolicy(StrEnum):
    """What follows when a new revision cannot run anywhere, as far as is known before it is tried."""

    ENFORCE = "Enforce"
    REPORT = "Report"


class ModelSpec(ModelSource):
    """Which model, exactly: where it comes from, which revision, and how it is to be run."""

    precision: Annotated[
        Precision | None,
        Field(
            description="Number format of the weights on the GPU. Left out: as the model's own config says."
        ),
    ] = None
    context_length_tokens: Annotated[
        int | None,
        Field(
            ge=1,
            le=16_777_216,
            description="Longest prompt plus answer, in tokens. Left out: as the model's own config says.",
        ),
    ] = None
    max_batch_size: Annotated[
        int | None,
        Field(
            ge=1,
            le=65_536,
            description="Most sequences that run at once in one replica. Left out: the backend's default.",
        ),
    ] = None


class Resources(APIModel):
    """CPU and memory of the engine's container. GPUs are asked for in spec.hardware."""

    cpu: Annotated[str, quantity("1m", "1024", description='CPU request, for example "4" or "500m".')] = "1"
    memory: Annotated[
        str,
        quantity(
            "64Mi",
            "64Ti",
            description='Memory request and limit, for example "16Gi". /dev/shm counts into it.',
        ),
    ] = "4Gi"


_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]+)?"
_PATH = r"[a-z0-9]+([._-]+[a-z0-9]+)*"
IMAGE = (
    rf"({_HOST}/)?{_PATH}(/{_PATH})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(@[a-z0-9]+:[a-f0-9]{{32,128}})?"
)
"""The reference of an image, as container runtimes read it. Without anchors."""
_OUR_ARGUMENTS = (
    "allow-grpc", "allow-http", "allow-metrics", "exit-timeout-secs", "grpc-address", "grpc-port",
    "grpc-restricted-protocol", "grpc-use-ssl", "grpc-use-ssl-mutual", "http-address", "http-port",
    "http-restricted-api", "load-model", "metrics-address", "metrics-port", "model-control-mode", "model-repository",
    "model-store",
)  # fmt: skip
"""Arguments of tritonserver that Preheat sets, or that would make agent, Service or weights others."""


def _beginnings(words: Iterable[str]) -> str:
    """Return a pattern of these words and of every beginning of one: getopt_long takes either for the option."""
    by_letter: dict[str, list[str]] = {}
    for word in filter(None, words):
        by_letter.setdefault(word[0], []).append(word[1:])
    branches = [letter + _beginnings(rest) for letter, rest in by_letter.items()]
    return f"({'|'.join(branches)})?" if branches else ""


_OURS = f"^--?{_beginnings(_OUR_ARGUMENTS)}(=|$)"
_EXPANDED = "^[^=]*[$][(]"
"""An argument whose option, and not only its value, Kubernetes takes from a variable: `$(NAME)`."""
_OUR_OPTIONS = {
    Backend.VLLM: ("model", "tokenizer", "load_format"),
    Backend.TENSORRT_LLM: ("model", "tokenizer", "load_format", "triton_config"),
}
"""Options of a backend that say which weights it loads, or that Preheat alone can set."""


def _without_options(backend: Backend, names: tuple[str, ...]) -> Rule:
    """Return the rule that options leave alone what is Preheat's. An object that has one already keeps it."""
    listed = ", ".join(f"'{name}'" for name in names)
    return (
        f"!has(self.backend) || self.backend != '{backend}' || self.options.all(k, !(k in [{listed}])"
        " || (oldSelf.hasValue() && has(oldSelf.value().options) && k in oldSelf.value().options))",
        f"`options` of backend {backend} must not set {', '.join(names[:-1])} or {names[-1]}: Preheat sets them, so that "
        "the verified weights of `spec.model` are served and no others; leave them out",
        ".options",
    )


_OWN_ARGUMENTS = (
    f"must not set, in full or shortened, --{', --'.join(_OUR_ARGUMENTS)}: Preheat sets them, and the "
    "agent and the Service rely on them; leave them out"
)

_WRITTEN_OUT = (
    "must not take an option's name from a variable, as it could be one that Preheat sets: write the name out, and the "
    "variable after '=', for example --log-verbose=$(LEVEL)"
)


def _per_type(backend: Backend, condition: str, message: str) -> Rule:
    """Return a rule on the options of every entry of ``perType``, for one backend. ``k`` is an option, ``p`` its entry."""
    return (
        f"!has(self.perType) || !has(self.backend) || self.backend != '{backend}'"
        f" || self.perType.all(p, !has(p.options) || p.options.all(k, {condition}))",
        message,
        ".perType",
    )


def _per_type_without(backend: Backend, names: tuple[str, ...]) -> Rule:
    listed = ", ".join(f"'{name}'" for name in names)
    return _per_type(
        backend,
        f"!(k in [{listed}])",
        f"`options` of backend {backend} must not set {', '.join(names[:-1])} or {names[-1]}, on no GPU type either: "
        "Preheat sets them; leave them out",
    )


OptionName = Annotated[
    str,
    worded(
        "^[A-Za-z_][A-Za-z0-9_.-]*$",
        "names must be made of A-Z, a-z, 0-9, '_', '.' and '-', and begin with a letter: an option is "
        "written as the backend names it, for example max_num_seqs",
        max_length=64,
    ),
]


class TypeRuntime(APIModel):
    """What the engine is told besides on one GPU type."""

    type: Annotated[GPUType, Field(description="The GPU type, one of hardware.gpu.types.")]
    args: Annotated[
        list[Annotated[str, Field(max_length=1024)]],
        Field(
            max_length=16,
            description="More command-line arguments for the engine on this type, after those of runtime.args.",
            json_schema_extra=rules(
                (f"!self.exists(a, a.matches('{_OURS}'))", _OWN_ARGUMENTS),
                (f"!self.exists(a, a.matches('{_EXPANDED}'))", _WRITTEN_OUT),
            ),
        ),
    ] = []
    options: Annotated[
        dict[OptionName, Annotated[str, Field(max_length=1024)]],
        Field(
            max_length=16,
            description="Options of the backend on this type. They win over those of runtime.options.",
        ),
    ] = {}


class RuntimeSpec(APIModel):
    """The server that runs the model. Every engine speaks KServe v2 over HTTP (8000) and gRPC (8001)."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # has(): the API server judges the default {} before it has filled in what is below it.
            (
                # 1Gi is the default: nobody asked for it, and Kubernetes holds it within the memory limit.
                "!has(self.sharedMemory) || !has(self.resources) || !has(self.resources.memory)"
                " || self.sharedMemory == '1Gi' || !isQuantity(self.sharedMemory) || !isQuantity(self.resources.memory)"
                " || quantity(self.sharedMemory).compareTo(quantity(self.resources.memory)) <= 0",
                "`sharedMemory` counts into `resources.memory` and must not be larger: lower `sharedMemory` or "
                "raise `resources.memory`",
                ".sharedMemory",
            ),
            (
                "!has(self.backend) || self.backend != 'LlamaCpp' || self.options.all(k, "
                "k in ['n_ctx', 'n_parallel', 'n_threads', 'load_bytes_per_second'])",
                "`options` of backend LlamaCpp are n_ctx, n_parallel, n_threads and load_bytes_per_second, and no others",
                ".options",
            ),
            (
                "!has(self.backend) || self.backend != 'LlamaCpp' || self.options.all(k, self.options[k].matches('^[0-9]{1,12}$'))",
                '`options` of backend LlamaCpp must be whole numbers in quotes, for example n_ctx: "8192"',
                ".options",
            ),
            (
                "!has(self.backend) || self.backend != 'Repository' || self.options.all(k, k == 'models')",
                "`options` of backend Repository is `models`, and no other",
                ".options",
            ),
            (
                "!has(self.backend) || self.backend != 'Repository' || ('models' in self.options && self.options['models'].matches('[^ ,]'))",
                "`options.models` must be set for backend Repository: the models to load, in order, separated by "
                "commas; the last one is asked the canary's question",
                ".options",
            ),
            *(_without_options(backend, names) for backend, names in _OUR_OPTIONS.items()),
            *(_per_type_without(backend, names) for backend, names in _OUR_OPTIONS.items()),
            _per_type(
                Backend.LLAMA_CPP,
                "k in ['n_ctx', 'n_parallel', 'n_threads', 'load_bytes_per_second'] && p.options[k].matches('^[0-9]{1,12}$')",
                "`options` of backend LlamaCpp are n_ctx, n_parallel, n_threads and load_bytes_per_second, whole numbers in "
                "quotes, on every GPU type",
            ),
            _per_type(
                Backend.REPOSITORY,
                "false",
                "`options` must be left out in `perType` for backend Repository: what is served is the same on every GPU type",
            ),
        )
    )

    engine: Annotated[EngineName, Field(description="The inference server.")] = EngineName.TRITON
    backend: Annotated[
        Backend,
        Field(
            description="What runs the model inside Triton. VLLM: Triton's vLLM backend. TensorRTLLM: the "
            "TensorRT-LLM backend (LLM API). LlamaCpp: GGUF models on CPU or GPU through a Python backend. "
            "Repository: the weights are a complete Triton model repository and are served as they are."
        ),
    ] = Backend.VLLM
    image: Annotated[
        str | None,
        worded(
            f"^{IMAGE}$",
            "must be the reference of an image, for example registry.example.com/team/triton:25.10: no spaces, "
            "no https://, no capitals in the path",
            min_length=1,
            max_length=512,
            description="Container image with tritonserver and the backend. Left out: the image that the "
            "operator was installed with for this backend.",
        ),
    ] = None
    args: Annotated[
        list[Annotated[str, Field(max_length=1024)]],
        Field(
            max_length=64,
            description="More command-line arguments for the engine, after ours.",
            json_schema_extra=rules(
                (
                    # An object that has them already keeps them, as long as its list stays as it is.
                    f"!self.exists(a, a.matches('{_OURS}')) || (oldSelf.hasValue() && oldSelf.value() == self)",
                    _OWN_ARGUMENTS,
                ),
                (
                    f"!self.exists(a, a.matches('{_EXPANDED}')) || (oldSelf.hasValue() && oldSelf.value() == self)",
                    _WRITTEN_OUT,
                ),
            ),
        ),
    ] = []
    options: Annotated[
        dict[OptionName, Annotated[str, Field(max_length=1024)]],
        Field(
            max_length=64,
            description="Options of the backend by their own names, for VLLM its engine arguments "
            "(gpu_memory_utilization, max_num_seqs, ...). They win over what Preheat would set, but for what says "
            "which weights are loaded: that is refused.",
        ),
    ] = {}
    per_type: Annotated[
        list[TypeRuntime],
        Field(
            max_length=8,
            description="What the engine is told besides on a GPU type of hardware.gpu.types: a smaller GPU may need a "
            "shorter context, or fewer sequences at once. A change is a new revision.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []
    resources: Annotated[Resources, Field(description="CPU and memory of the engine's container.")] = (
        Resources()
    )
    shared_memory: Annotated[
        str,
        quantity("1Mi", "64Ti", description="Size of /dev/shm. Triton's Python backends need at least 64Mi."),
    ] = "1Gi"
    drain_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=3600,
            description="How long a replica that must go may finish running requests, in seconds.",
        ),
    ] = 60


class GPUSpec(APIModel):
    """Which GPUs one replica needs."""

    types: Annotated[
        list[GPUType],
        Field(
            min_length=1,
            max_length=8,
            description="GPU types in order of preference. Each gets a Deployment of its own; a later type "
            "is used when the earlier ones have no room left. A replica that has its GPU stays on its type.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ]
    patience_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=86_400,
            description="How long a replica waits for a GPU of one type before the next type of the list takes it, in "
            "seconds. Where no node has the type, it is taken at once.",
        ),
    ] = 300
    count: Annotated[int, Field(ge=1, le=16, description="GPUs per replica, all on one node.")] = 1
    resource_name: Annotated[
        str,
        worded(
            f"^{EXTENDED_RESOURCE}$",
            "must be an extended resource with its domain, as the node's device plugin offers it, for example "
            "nvidia.com/gpu",
            (
                "!self.matches('^(.*[.])?kubernetes[.]io/') && !self.startsWith('requests.')",
                "must not be of kubernetes.io: that is no device plugin's; for example nvidia.com/gpu",
            ),
            min_length=1,
            max_length=128,
            description="The extended resource that the node's device plugin offers.",
        ),
    ] = "nvidia.com/gpu"


class Parallelism(APIModel):
    """How one replica is split over its GPUs."""

    tensor: Annotated[int, Field(ge=1, le=16, description="Tensor parallel size.")] = 1
    pipeline: Annotated[int, Field(ge=1, le=16, description="Pipeline parallel size.")] = 1


class HardwareSpec(APIModel):
    """Where replicas may run."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.parallelism) || self.parallelism.tensor * self.parallelism.pipeline == self.gpu.count",
                "`parallelism.tensor` times `parallelism.pipeline` must equal `gpu.count`: "
                "leave `parallelism` out to split over all GPUs by tensor parallelism",
                ".parallelism",
            )
        )
    )

    gpu: Annotated[GPUSpec, Field(description="Which GPUs one replica needs.")]
    node_selector: Annotated[
        Labels,
        Field(
            description="Labels that a node must have as well.",
            json_schema_extra=rules(NOT_A_LABEL_OF_WEIGHTS),
        ),
    ] = {}
    tolerations: Annotated[
        list[Toleration],
        Field(
            max_length=16,
            description="Taints to tolerate besides nvidia.com/gpu and the one named like the GPU resource, which are "
            "always tolerated.",
        ),
    ] = []
    parallelism: Annotated[
        Parallelism | None,
        Field(
            description="How a replica is split over its GPUs. Left out: tensor parallel over all of them."
        ),
    ] = None


class PageCache(StrEnum):
    """Whether weights on a node's disk are read into memory ahead of a load."""

    NEVER = "Never"
    AHEAD = "Ahead"


class CacheSpec(StorageSpec):
    """Where the weights wait, so that no pod ever downloads them."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *STORAGE_RULES,
            (
                "!has(self.mode) || self.mode != 'Shared' || !has(self.warmNodes) || self.warmNodes == 0",
                "`warmNodes` must be left out with `mode: Shared`: every node reaches the volume",
                ".warmNodes",
            ),
            (
                "!has(self.pageCache) || self.pageCache != 'Ahead' || !has(self.mode) || self.mode == 'Node'",
                "`pageCache: Ahead` must be left out with a `mode` other than Node: only weights on a node's own disk are read ahead",
                ".pageCache",
            ),
        )
    )

    warm_nodes: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="On how many nodes more than replicas the weights are kept, ready for the next replica.",
        ),
    ] = 0
    max_bytes_per_second: Annotated[
        int | None,
        Field(
            ge=1024,
            le=1_000_000_000_000,
            description="Limit of the download speed per node, in bytes per second. Left out: no limit.",
        ),
    ] = None
    page_cache: Annotated[
        PageCache,
        Field(
            description="Ahead: weights are read from a node's disk into its memory when a load is near, "
            "where memory allows. Nothing waits for it. Never: the engine reads them from the disk."
        ),
    ] = PageCache.NEVER


_CLOCK = worded(
    "^([01][0-9]|2[0-3]):[0-5][0-9]$",
    'must be a time of day from "00:00" to "23:59", in quotes',
    min_length=5,
    max_length=5,
)


class ScheduleSpec(APIModel):
    """Replicas that are there at times that are known ahead, whatever is asked."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.start != self.end",
                "`start` and `end` must differ: a window that ends before it starts ends on the next day",
                ".end",
            )
        )
    )

    days: Annotated[
        list[Day],
        Field(
            max_length=7,
            description="The days on which it starts. Left out: every day.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = []
    start: Annotated[
        str, _CLOCK, Field(description="When the replicas must be Ready: they start to load before.")
    ]
    end: Annotated[str, _CLOCK, Field(description="When they may go. At or before start: on the next day.")]
    time_zone: Annotated[
        str,
        worded(
            "^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$",
            "must be the name of a time zone, for example Europe/Berlin or UTC",
            min_length=1,
            max_length=64,
            description="Name of the time zone of start and end.",
        ),
    ] = "UTC"
    min_replicas: Annotated[
        int, Field(ge=1, le=1000, description="Never fewer replicas than this from start to end.")
    ]


def _unread_when_external(field: str, is_set: str = "has({})") -> Rule:
    """Return the rule that a field is left out in mode External: nothing is silently ignored.

    An object that has it already keeps it: taking over by hand must not need more than the mode.
    """
    now, before = is_set.format(f"self.{field}"), is_set.format(f"oldSelf.value().{field}")
    return (
        f"!has(self.mode) || self.mode != 'External' || !has(self.{field}) || !({now})"
        f" || (oldSelf.hasValue() && has(oldSelf.value().{field}) && {before})",
        f"`{field}` is not read with `mode: External`: leave it out, or set `mode` to Predictive or Reactive",
        f".{field}",
    )


class ScalingSpec(APIModel):
    """Who decides the number of replicas, and within which bounds.

    External: you do, through spec.replicas or the /scale subresource (``kubectl scale``, a
    HorizontalPodAutoscaler, KEDA). What is asked for is held within minReplicas and maxReplicas.
    Predictive: Preheat does, one load time ahead of what is expected. Reactive: Preheat does, by what is
    asked now. In both, spec.replicas is only the number to begin with.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                "`minReplicas` must be less than or equal to `maxReplicas`: raise `maxReplicas` or lower `minReplicas`",
                ".minReplicas",
            ),
            (
                "!has(self.mode) || self.mode == 'External' || (has(self.maxReplicas) && self.maxReplicas < 1000)",
                "`maxReplicas` must be set, to less than 1000, with `mode: Predictive` or `Reactive`: it is the budget",
                ".maxReplicas",
            ),
            (
                "!has(self.scaleToZero) || !self.scaleToZero || !has(self.minReplicas) || self.minReplicas == 0",
                "`minReplicas` must be left out, or be 0, with `scaleToZero`: leave one of them out",
                ".scaleToZero",
            ),
            (
                "!has(self.schedules) || !has(self.maxReplicas) || self.schedules.all(s, s.minReplicas <= self.maxReplicas)",
                "`minReplicas` of a schedule must be less than or equal to `maxReplicas`: raise `maxReplicas` or lower "
                "what the schedule asks for",
                ".schedules",
            ),
            _unread_when_external("targetConcurrency"),
            _unread_when_external("lateAfterSeconds"),
            _unread_when_external("scaleToZero", "{}"),
            _unread_when_external("schedules", "{}.size() > 0"),
        )
    )

    mode: Annotated[
        ScalingMode,
        Field(
            description="External: spec.replicas, written by you or by an autoscaler through /scale, decides. "
            "Predictive: Preheat decides, one load time ahead of what is expected. Reactive: Preheat decides, by what "
            "is asked now."
        ),
    ] = ScalingMode.EXTERNAL
    min_replicas: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="Never fewer replicas than this, whatever spec.replicas says. Where Preheat decides, the last "
            "one goes only with scaleToZero.",
        ),
    ] = 0
    max_replicas: Annotated[
        int, Field(ge=0, le=1000, description="Never more replicas than this, whatever spec.replicas says.")
    ] = 1000
    scale_to_zero: Annotated[
        bool,
        Field(
            description="Whether the last replica may go when nothing was asked for longer than bringing it back "
            "takes. It comes back ahead of times at which something is expected, for a schedule, and for a request: the "
            "front, where there is one, tells who asks when to come again."
        ),
    ] = False
    target_concurrency: Annotated[
        int | None,
        Field(
            ge=1,
            le=65_536,
            description="How many requests one replica serves at once at full speed. Left out: model.maxBatchSize, or "
            "as many slots as the engine says it has, or 8.",
        ),
    ] = None
    late_after_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=3600,
            description="A request that waits longer than this to be served is late, in seconds. Left out: 10.",
        ),
    ] = None
    schedules: Annotated[
        list[ScheduleSpec],
        Field(max_length=16, description="Replicas that must be there at times that are known ahead."),
    ] = []


class CanarySpec(APIModel):
    """The real question that a replica must answer before it gets traffic, and again and again after."""

    prompt: Annotated[
        str,
        Field(
            min_length=1,
            max_length=4096,
            description="What the model is asked.",
            json_schema_extra=rules(
                ("self.trim() != ''", "must say something: a model that is asked nothing answers nothing")
            ),
        ),
    ] = "Say hello in one word."
    max_tokens: Annotated[int, Field(ge=1, le=1024, description="Length limit of the answer, in tokens.")] = 8
    expect: Annotated[
        str | None,
        Field(
            max_length=256,
            description="Regular expression that the answer must contain. Left out: any non-empty answer will do.",
            json_schema_extra=rules(
                (
                    # CEL speaks RE2, the agent Python: what only one of them knows is not judged here. A
                    # pattern that does not compile is an error of the rule, which is told with this message.
                    r"self.matches(r'\(\?|\\|\{|[*+?]\+') || ''.matches(self) in [true, false]",
                    "must be a regular expression: put a backslash before what stands for itself",
                )
            ),
        ),
    ] = None
    timeout_seconds: Annotated[
        int, Field(ge=1, le=600, description="An answer that takes longer counts as a failure, in seconds.")
    ] = 30
    period_seconds: Annotated[
        int, Field(ge=1, le=3600, description="Time between two questions, in seconds.")
    ] = 10
    failure_threshold: Annotated[
        int, Field(ge=1, le=10, description="Failures in a row after which the model is healed.")
    ] = 2


FORMER_STALL_SECONDS = 300


class HealthSpec(APIModel):
    """How it is known that a replica works."""

    canary: Annotated[CanarySpec, Field(description="The real inference that proves health.")] = CanarySpec()
    stall_seconds: Annotated[
        int | None,
        Field(
            ge=10,
            le=86_400,
            description="A load is given up when it has made no progress (bytes read, CPU time, GPU memory) "
            "for this long, in seconds. A load that makes progress is never given up, however long it takes. "
            "Left out: by the time that loads of this model take, 300 at least. 300, which an object of an "
            "earlier release has by default, counts as left out.",
        ),
    ] = None

    @field_validator("stall_seconds")
    @classmethod
    def _derived(cls, seconds: int | None) -> int | None:
        """Take the former default for what it is: the API server wrote it into every object that left it out."""
        return None if seconds == FORMER_STALL_SECONDS else seconds


class RolloutStep(APIModel):
    """A step of a canary: so many replicas are new, for so long."""

    percent: Annotated[int, Field(ge=1, le=100, description="Share of new replicas, rounded up.")]
    pause_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=604_800,
            description="How long they must be ready before the next step, in seconds.",
        ),
    ] = 0
    weight: Annotated[
        int | None,
        Field(
            ge=0,
            le=100,
            description="Share of the requests that come through the gateway for the new replicas, in percent, once "
            "they are ready; left out, it is `percent`. Only with `rollout.gateway`.",
        ),
    ] = None


class ParentReference(APIModel):
    """A Gateway that the route is attached to, in the words of Gateway API's parentRefs."""

    name: Annotated[Name, Field(description="The Gateway.")]
    namespace: Annotated[
        DNSLabel | None,
        Field(
            description="Its namespace; left out, the LLMDeployment's. Its listeners must allow routes from here."
        ),
    ] = None
    section_name: Annotated[
        Name | None, Field(description="One of its listeners; left out, all that allow the route.")
    ] = None
    port: Annotated[
        int | None,
        Field(ge=1, le=65_535, description="Its listeners on this port; left out, on any."),
    ] = None


class GatewaySpec(APIModel):
    """Where requests come in through Gateway API: an HTTPRoute that gives each revision its share."""

    parent_refs: Annotated[
        list[ParentReference],
        Field(
            min_length=1,
            max_length=8,
            description="The Gateways that the HTTPRoute is attached to.",
            json_schema_extra=rules(
                (
                    "self.all(p, self.exists_one(q, q.name == p.name "
                    "&& (has(q.__namespace__) ? q.__namespace__ : '') == (has(p.__namespace__) ? p.__namespace__ : '') "
                    "&& (!has(q.sectionName) || !has(p.sectionName) || q.sectionName == p.sectionName)))",
                    "must name each Gateway once, or each of its listeners once by `sectionName`: Gateway API takes no "
                    "other references to one Gateway",
                ),
            ),
        ),
    ]
    hostnames: Annotated[
        list[Hostname],
        Field(
            max_length=16,
            description="Of the Host header: requests for others are not for this model. Empty: whatever the listeners take.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = []


class AnalysisSpec(APIModel):
    """How much worse than its predecessor a new revision may serve while it soaks."""

    max_error_percent: Annotated[
        int,
        Field(
            ge=1,
            le=100,
            description="Of a hundred requests so many more may fail than fail with the predecessor.",
        ),
    ] = 5
    max_slowdown_percent: Annotated[
        int,
        Field(
            ge=10,
            le=1000,
            description="A request may take so much longer than with the predecessor, in per cent. A tenth of a second more is "
            "never held against a revision.",
        ),
    ] = 100


class RolloutSpec(APIModel):
    """How a new revision takes over from the old one."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "(has(self.strategy) && self.strategy == 'Canary') == (has(self.steps) && self.steps.size() > 0)",
                "`steps` and `strategy: Canary` go together: set both, or leave `steps` out",
                ".steps",
            ),
            (
                "has(self.gateway) || !has(self.steps) || self.steps.all(s, !has(s.weight))",
                "`weight` needs `gateway`: without one a Service gives every ready replica as much as any other",
                ".steps",
            ),
        )
    )

    strategy: Annotated[
        RolloutStrategy,
        Field(
            description="Auto: Surge while a GPU is free; where none is, old replicas make room, one new one at a time. "
            "Surge: an old one goes when a new one answers. InPlace: an old one goes first, then a new one comes. "
            "BlueGreen: all new ones come beside the old, which then go at once. Canary: in steps."
        ),
    ] = RolloutStrategy.AUTO
    steps: Annotated[
        list[RolloutStep],
        Field(
            max_length=16,
            description="The steps of a Canary, the last with 100 percent.",
            json_schema_extra=rules(
                (
                    "self.all(s, self.exists_one(t, t.percent == s.percent)) && self.map(s, s.percent).isSorted()",
                    "must go up, each `percent` once",
                ),
                (
                    "self.size() == 0 || self[self.size() - 1].percent == 100",
                    "must end with `percent: 100`: add it, or the rollout never ends",
                ),
                (
                    "self.all(s, s.percent < 100 || !has(s.pauseSeconds) || s.pauseSeconds == 0)",
                    "must have no `pauseSeconds` with `percent: 100`: nothing comes after it",
                ),
                (
                    "self.all(s, s.percent < 100 || !has(s.weight) || s.weight == 100)",
                    "must have no `weight` but 100 with `percent: 100`: no old replica is left then",
                ),
            ),
        ),
    ] = []
    paused: Annotated[
        bool,
        Field(
            description="Leaves old and new replicas as they are. What serves is healed and grows. Going back is not held up."
        ),
    ] = False
    gateway: Annotated[
        GatewaySpec | None,
        Field(
            description="Requests come through Gateway API: Preheat keeps an HTTPRoute of the LLMDeployment's name, by which "
            "each revision gets its share. Left out, or where Gateway API is not installed, the Service gives every "
            "ready replica as much as any other."
        ),
    ] = None
    revision_history_limit: Annotated[
        int,
        Field(ge=0, le=20, description="How many old revisions are kept, with their weights, to go back to."),
    ] = 2
    auto_rollback: Annotated[
        bool,
        Field(
            description="Whether a new revision that fails, or serves worse than its predecessor, is gone back from "
            "without a person. False: nothing moves any more, and a condition says what failed."
        ),
    ] = True
    soak_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=86_400,
            description="For so long all replicas of a new revision must serve before it is known to be good, in "
            "seconds. Until then it is compared with its predecessor, whose weights stay.",
        ),
    ] = 600
    progress_limit_factor: Annotated[
        int,
        Field(
            ge=2,
            le=100,
            description="A replica that neither loads nor answers fails its revision after so many times what a "
            "replica needs nearly always, by measurement. A load that makes progress fails nothing.",
        ),
    ] = 10
    preflight: Annotated[
        PreflightPolicy,
        Field(
            description="What follows when no node could ever take a replica of a new revision, or the weights cannot fit. "
            "Enforce: nothing of it is fetched or started while the revision before it can serve. Report: it is told, and "
            "tried all the same, for clusters that add nodes of a new kind only when a pod waits for one."
        ),
    ] = PreflightPolicy.ENFORCE
    analysis: Annotated[
        AnalysisSpec,
        Field(description="How much worse than its predecessor a new revision may serve while it soaks."),
    ] = AnalysisSpec()


def _unread(field: str, *backends: Backend) -> Rule:
    """Return the rule that a field is left out where the backend does not read it: nothing is silently ignored.

    An object that has the field already keeps it: 0.1.0 let it in, and it must not stand in the way of scaling.
    """
    names = ", ".join(f"'{backend}'" for backend in backends)
    return (
        f"!has(self.{field}) || !(self.runtime.backend in [{names}])"
        f" || (oldSelf.hasValue() && has(oldSelf.value().{field}))",
        f"`{field}` is not read by the backend in `runtime.backend`: leave it out, or choose another backend",
        f".{field}",
    )


def _without_gpu(containers: str) -> str:
    """Return the rule that no container of the template asks for the GPU resource."""
    path = f"self.template.spec.{containers}"
    asked = " && ".join(
        f"(!has(c.resources.{kind}) || !(self.hardware.gpu.resourceName in c.resources.{kind}))"
        for kind in ("limits", "requests")
    )
    return (
        f"!has(self.template) || !has(self.template.spec) || !has({path}) || "
        f"{path}.all(c, !has(c.resources) || ({asked}))"
    )


class LLMDeploymentSpec(APIModel):
    """What you want served, on what, and how it is kept alive."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.runtime.backend != 'LlamaCpp' || self.model.format == 'GGUF'",
                "`model.format` must be GGUF for backend LlamaCpp: set it, with a GGUF version of the model, or "
                "choose another `runtime.backend`",
                ".model.format",
            ),
            (
                "self.runtime.backend != 'VLLM' || self.model.format in ['Safetensors', 'Pickle']",
                "`model.format` must be Safetensors (or Pickle) for backend VLLM: use such a version of the model, "
                "or set `runtime.backend` to LlamaCpp for GGUF, or to Repository for what Triton loads itself",
                ".model.format",
            ),
            (
                "self.runtime.backend != 'TensorRTLLM' || self.model.format == 'Safetensors'",
                "`model.format` must be Safetensors for backend TensorRTLLM: use such a version of the model, "
                "or set `runtime.backend` to VLLM for Pickle, to LlamaCpp for GGUF, or to Repository for what Triton loads itself",
                ".model.format",
            ),
            (
                "!has(self.runtime.perType) || self.runtime.perType.all(p, p.type in self.hardware.gpu.types)",
                "`type` in `runtime.perType` must be one of `hardware.gpu.types`: correct it, or add it there",
                ".runtime.perType",
            ),
            _unread("model.precision", Backend.LLAMA_CPP, Backend.REPOSITORY),
            _unread("model.contextLengthTokens", Backend.REPOSITORY),
            _unread("model.maxBatchSize", Backend.REPOSITORY),
            _unread("hardware.parallelism", Backend.LLAMA_CPP, Backend.REPOSITORY),
            (_without_gpu("containers"), REFUSED_GPU, ".template.spec.containers"),
            (_without_gpu("initContainers"), REFUSED_GPU, ".template.spec.initContainers"),
            (
                "!has(self.template) || !has(self.template.spec) || !has(self.template.spec.nodeSelector) || "
                "!has(self.hardware.nodeSelector) || self.template.spec.nodeSelector.all(k, "
                "!(k in self.hardware.nodeSelector) || "
                "self.hardware.nodeSelector[k] == self.template.spec.nodeSelector[k])",
                REFUSED_SELECTOR,
                ".template.spec.nodeSelector",
            ),
            *image_rules("cache.mode", "model", "cache.maxBytesPerSecond"),
        )
    )

    model: Annotated[ModelSpec, Field(description="Which model, exactly.")]
    hardware: Annotated[HardwareSpec, Field(description="Where replicas may run.")]
    runtime: Annotated[RuntimeSpec, Field(description="The server that runs the model.")] = RuntimeSpec()
    template: Annotated[
        PodTemplate | None,
        Field(
            description="What is laid over the model pods: labels, variables, volumes, placement, containers of "
            "your own. A change is a new revision."
        ),
    ] = None
    cache: Annotated[CacheSpec, Field(description="Where the weights wait.")] = CacheSpec()
    replicas: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="How many replicas, held within scaling.minReplicas and scaling.maxReplicas. "
            "0 stops the model and keeps its weights warm. Only the number to begin with where scaling.mode is "
            "Predictive or Reactive.",
        ),
    ] = 1
    scaling: Annotated[ScalingSpec, Field(description=(ScalingSpec.__doc__ or "").strip())] = ScalingSpec()
    health: Annotated[HealthSpec, Field(description="How it is known that a replica works.")] = HealthSpec()
    rollout: Annotated[RolloutSpec, Field(description="How a new revision takes over.")] = RolloutSpec()


class LoadingStatus(APIModel):
    """How far the stage named by the Ready condition's reason is."""

    percent: Annotated[int, Field(ge=0, le=100, description="Share of the bytes that are done.")]
    bytes_done: Annotated[int, Field(ge=0, description="Bytes fetched or loaded so far.")]
    bytes_total: Annotated[int, Field(ge=0, description="Bytes to fetch or to load.")]
    eta: Annotated[
        str | None, Field(max_length=16, description='Time left as people read it: "40s", "3m20s".')
    ] = None


class CacheStatus(APIModel):
    """Where the weights of the current revision are."""

    name: Annotated[str, Field(max_length=253, description="The ModelCache in use.")]
    ready_nodes: Annotated[int, Field(ge=0, description="Nodes that hold the verified weights.")]
    desired_nodes: Annotated[int, Field(ge=0, description="Nodes that should.")]


class ChildStatus(APIModel):
    """One Deployment: the replicas of one revision on one GPU type."""

    name: Annotated[str, Field(max_length=253, description="Name of the Deployment.")]
    revision: Annotated[str, Field(max_length=63, description="The revision that it runs.")]
    gpu_type: Annotated[str, Field(max_length=63, description="The GPU type that it runs on.")]
    replicas: Annotated[int, Field(ge=0, description="Replicas asked for.")]
    ready_replicas: Annotated[int, Field(ge=0, description="Replicas that answered a real question.")]


class StorageTier(StrEnum):
    """Where the weights were when a replica was asked for."""

    COLD = "Cold"
    ON_DISK = "OnDisk"
    IN_PAGE_CACHE = "InPageCache"


MOST_SECONDS = 31_536_000
_Seconds = Annotated[int, Field(ge=0, le=MOST_SECONDS)]


class ObservedLoad(APIModel):
    """What one load took, from asking for the replica to its first good answer."""

    total_seconds: Annotated[_Seconds, Field(description="All of it.")]
    gpu_wait_seconds: Annotated[_Seconds, Field(description="Until it had a node, less the weights.")]
    weights_seconds: Annotated[_Seconds, Field(description="Until the weights were on its node.")]
    image_seconds: Annotated[
        _Seconds, Field(description="Until the load began: images, containers, the engine's start.")
    ]
    load_seconds: Annotated[_Seconds, Field(description="The engine's load.")]
    first_answer_seconds: Annotated[_Seconds, Field(description="From there to the first good answer.")]


class LoadKindStatus(APIModel):
    """What loads of one revision, on one GPU type, from one storage tier took."""

    revision: Annotated[str, Field(max_length=63, description="The revision that was loaded.")]
    gpu_type: Annotated[str, Field(max_length=63, description="The GPU type that it was loaded on.")]
    tier: Annotated[
        StorageTier,
        Field(
            description="Where the weights were. Cold: not on the node; OnDisk; InPageCache: less than a tenth came from "
            "the disk."
        ),
    ]
    count: Annotated[int, Field(ge=0, description="Loads that were observed.")]
    p50_seconds: Annotated[_Seconds, Field(description="Median of the recent ones.")]
    p90_seconds: Annotated[_Seconds, Field(description="90 % quantile of the recent ones.")]
    recent: Annotated[list[ObservedLoad], Field(max_length=8, description="The last ones, the newest last.")]


class LoadTimesStatus(APIModel):
    """How long loads took. It is what is expected of the next one."""

    observed_until: Annotated[
        str, Field(max_length=32, description="Loads that ended later are not in it yet, RFC 3339, UTC.")
    ]
    kinds: Annotated[
        list[LoadKindStatus],
        Field(max_length=6, description="By revision, GPU type and storage tier, the last seen first."),
    ]


class ScalingDecision(APIModel):
    """One change of the number of replicas."""

    time: Annotated[str, Field(max_length=32, description="When, RFC 3339, UTC.")]
    previous_replicas: Annotated[int, Field(ge=0, description="The number before.")]
    replicas: Annotated[int, Field(ge=0, description="The number that was decided.")]
    reason: Annotated[str, Field(max_length=64, description="Why, CamelCase, for programs.")]
    message: Annotated[str, Field(max_length=512, description="Why, with numbers, for people.")]


class ScalingStatus(APIModel):
    """What Preheat decided for the number of replicas, and why. Only there where it decides."""

    mode: Annotated[ScalingMode, Field(description="The mode in which it was decided.")]
    wanted_replicas: Annotated[
        int, Field(ge=0, description="Replicas that should be there, loading ones included.")
    ]
    asked_replicas: Annotated[
        int | None,
        Field(
            ge=0, description="What spec.replicas says. It decides nothing here; a change of it is an Event."
        ),
    ] = None
    forecast_replicas: Annotated[
        int | None,
        Field(
            ge=0,
            description="The most that are expected within one load time: so many nodes get the weights.",
        ),
    ] = None
    reason: Annotated[str, Field(max_length=64, description="Why, CamelCase, for programs.")]
    message: Annotated[str, Field(max_length=512, description="Why, with numbers, for people.")]
    inputs: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=32)]],
        Field(max_length=48, description="The numbers from which it was decided, at that time."),
    ] = {}
    rejected_replicas: Annotated[int | None, Field(ge=0, description="The number that was not chosen.")] = (
        None
    )
    rejected_message: Annotated[str | None, Field(max_length=512, description="Why it was not.")] = None
    learnt: Annotated[
        str | None,
        Field(
            max_length=256,
            description="What was learnt of the time before Preheat looked at this deployment, and from where.",
        ),
    ] = None
    decisions: Annotated[
        list[ScalingDecision], Field(max_length=10, description="The last changes, the newest first.")
    ] = []


class RolloutStatus(APIModel):
    """The rollout that is under way: which way it goes, why, and how far it is."""

    strategy: Annotated[RolloutStrategy, Field(description="What spec.rollout.strategy asks for.")]
    chosen: Annotated[
        str | None,
        Field(
            max_length=32,
            description="Surge, OneByOne, DrainFirst, InPlace, BlueGreen or Canary; not there while it is not decided.",
        ),
    ] = None
    reason: Annotated[str, Field(max_length=512, description="Why it goes this way, with numbers.")]
    step: Annotated[str, Field(max_length=32, description="What is done now, for programs.")]
    step_number: Annotated[int, Field(ge=1, le=16, description="Which step it is.")] = 1
    step_count: Annotated[int, Field(ge=1, le=16, description="How many there are.")] = 1
    message: Annotated[str, Field(max_length=512, description="The same for people.")]
    from_revision: Annotated[str, Field(max_length=63, description="The revision that served before.")]
    to_revision: Annotated[str, Field(max_length=63, description="The revision that takes over.")]
    old_replicas: Annotated[int, Field(ge=0, description="Replicas that old revisions are asked for.")]
    updated_replicas: Annotated[int, Field(ge=0, description="Replicas that the new one is asked for.")]
    ready_updated_replicas: Annotated[int, Field(ge=0, description="Those of them that answer.")]
    started_at: Annotated[str, Field(max_length=32, description="When it began.")]
    eta_time: Annotated[
        str | None,
        Field(
            max_length=32,
            description="When it should end by what loads took, if that is known.",
        ),
    ] = None


class TrafficStatus(APIModel):
    """What a revision gets of the requests that come through the gateway."""

    revision: Annotated[str, Field(max_length=63, description="The revision.")]
    weight: Annotated[int, Field(ge=0, le=100, description="Its share, in percent.")]


class GPUTypeStatus(APIModel):
    """The replicas of the wanted revision on one GPU type."""

    type: Annotated[str, Field(max_length=63, description="The GPU type.")]
    replicas: Annotated[int, Field(ge=0, description="Replicas that it is asked for.")]
    ready_replicas: Annotated[int, Field(ge=0, description="Those of them that answer.")]
    message: Annotated[
        str | None,
        Field(max_length=512, description="Why replicas went to another type, where they did."),
    ] = None


class AvoidedNodeStatus(APIModel):
    """A node that new replicas keep off, because one that was healed there to the end does not answer."""

    name: Annotated[str, Field(max_length=253, description="The node.")]
    key: Annotated[
        str,
        Field(max_length=63, description="The weights whose replicas keep off it, as in the node's label."),
    ]
    pod_uid: Annotated[
        str, Field(max_length=64, description="The pod that did not answer. It is deleted once.")
    ]
    until: Annotated[str, Field(max_length=32, description="Until when, RFC 3339, UTC.")]
    message: Annotated[str, Field(max_length=512, description="Why.")]


MOST_CHILDREN = 64
"""So many Deployments a status tells of."""


class LLMDeploymentStatus(APIModel):
    """What is, with the numbers it was decided from."""

    observed_generation: Annotated[
        int | None, Field(ge=0, description="The metadata.generation that this status was computed from.")
    ] = None
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            description="Ready, Available, WeightsReady, Accepted, and Reconciling and Stalled for kstatus.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []
    desired_replicas: Annotated[int | None, Field(ge=0, description="Replicas that should serve.")] = None
    replicas: Annotated[int | None, Field(ge=0, description="Pods that exist.")] = None
    ready_replicas: Annotated[
        int | None, Field(ge=0, description="Pods that answered a real question and take traffic.")
    ] = None
    replica_summary: Annotated[
        str | None, Field(max_length=16, description="Ready replicas of desired ones, for people.")
    ] = None
    selector: Annotated[
        str | None, Field(max_length=512, description="Label selector of the pods, for /scale.")
    ] = None
    revision: Annotated[str | None, Field(max_length=63, description="The revision that is wanted.")] = None
    serving_revision: Annotated[
        str | None, Field(max_length=63, description="The newest revision with a ready replica.")
    ] = None
    gpu_type: Annotated[
        str | None, Field(max_length=256, description="GPU types in use, joined by a comma.")
    ] = None
    url: Annotated[
        str | None,
        Field(
            max_length=512, alias="url", description="Where the model answers KServe v2 inside the cluster."
        ),
    ] = None
    cache: Annotated[CacheStatus | None, Field(description="Where the weights are.")] = None
    loading: Annotated[LoadingStatus | None, Field(description="Progress of what is under way.")] = None
    scaling: Annotated[
        ScalingStatus | None,
        Field(description="What Preheat decided for the number of replicas, and why. Not in mode External."),
    ] = None
    load_times: Annotated[
        LoadTimesStatus | None, Field(description="How long loads took, by kind and phase.")
    ] = None
    rollout: Annotated[RolloutStatus | None, Field(description="The rollout under way.")] = None
    traffic: Annotated[
        list[TrafficStatus] | None,
        Field(
            max_length=16,
            description="What each revision gets through the gateway. Not there without `rollout.gateway`, without Gateway "
            "API, or while no replica is ready.",
        ),
    ] = None
    gpu_types: Annotated[
        list[GPUTypeStatus] | None,
        Field(
            max_length=8,
            description="How many replicas each GPU type has, and why. Only there with several types.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = None
    avoided_nodes: Annotated[
        list[AvoidedNodeStatus] | None,
        Field(
            max_length=64,
            description="Nodes that new replicas keep off for a while.",
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name", "podUid"],
            },
        ),
    ] = None
    children: Annotated[
        list[ChildStatus],
        Field(
            max_length=MOST_CHILDREN,
            description="The Deployments, one per revision and GPU type; of more than 64 those with replicas first.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = []


class LLMDeployment(APIModel):
    """A large language model that is to be up when the traffic comes.

    The operator puts its verified weights on GPU nodes first, starts replicas only there, watches them
    load, lets them answer a real question, and keeps the Service pointed at those that do.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "metadata.name must be at most 40 characters of a-z, 0-9 and '-', and start with a letter: "
                "the Service and the pods are named after it",
            )
        )
    )

    PLURAL: ClassVar[str] = "llmdeployments"

    name: Name
    namespace: Name
    uid: str
    generation: int
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    scaled_by: str = ""  # who set spec.replicas, where that was through /scale; empty where it was not
    spec: LLMDeploymentSpec
    status: LLMDeploymentStatus = LLMDeploymentStatus()


__all__ = [
    "AnalysisSpec",
    "Backend",
    "CacheMode",
    "CacheSpec",
    "CacheStatus",
    "CanarySpec",
    "ChildStatus",
    "Day",
    "EngineName",
    "GPUSpec",
    "GPUTypeStatus",
    "GatewaySpec",
    "HardwareSpec",
    "HealthSpec",
    "LLMDeployment",
    "LLMDeploymentSpec",
    "LLMDeploymentStatus",
    "LabelValue",
    "LoadKindStatus",
    "LoadTimesStatus",
    "LoadingStatus",
    "ModelSpec",
    "ObservedLoad",
    "PageCache",
    "Parallelism",
    "ParentReference",
    "Precision",
    "PreflightPolicy",
    "Resources",
    "RolloutSpec",
    "RolloutStatus",
    "RolloutStep",
    "RolloutStrategy",
    "RuntimeSpec",
    "ScalingDecision",
    "ScalingMode",
    "ScalingSpec",
    "ScalingStatus",
    "ScheduleSpec",
    "StorageTier",
    "TrafficStatus",
    "TypeRuntime",
]
