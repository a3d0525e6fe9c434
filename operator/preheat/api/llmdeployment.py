"""LLMDeployment: what a user applies to have a model served. Field docs are what ``kubectl explain`` prints."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from preheat.api.base import (
    EXTENDED_RESOURCE,
    APIModel,
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
from preheat.api.modelcache import ModelSource, Toleration
from preheat.api.template import REFUSED_GPU, REFUSED_SELECTOR, PodTemplate


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


class RolloutStrategy(StrEnum):
    """How a new revision takes over."""

    AUTO = "Auto"


class CacheMode(StrEnum):
    """Where the weights wait."""

    NODE = "Node"


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
_OURS = r"^--?(model-control-mode|http-port|grpc-port|metrics-port|allow-http|allow-grpc)(=|$)"


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
                    f"!self.exists(a, a.matches('{_OURS}'))",
                    "must not set --model-control-mode, --http-port, --grpc-port, --metrics-port, --allow-http or "
                    "--allow-grpc: Preheat sets them, and the agent and the Service rely on them",
                )
            ),
        ),
    ] = []
    options: Annotated[
        dict[
            Annotated[
                str,
                worded(
                    "^[A-Za-z_][A-Za-z0-9_.-]*$",
                    "names must be made of A-Z, a-z, 0-9, '_', '.' and '-', and begin with a letter: an option is "
                    "written as the backend names it, for example max_num_seqs",
                    max_length=64,
                ),
            ],
            Annotated[str, Field(max_length=1024)],
        ],
        Field(
            max_length=64,
            description="Options of the backend by their own names, for VLLM its engine arguments "
            "(gpu_memory_utilization, max_num_seqs, ...). They win over what Preheat would set.",
        ),
    ] = {}
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
            "is used when the earlier ones have no room left.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ]
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
    node_selector: Annotated[Labels, Field(description="Labels that a node must have as well.")] = {}
    tolerations: Annotated[
        list[Toleration],
        Field(
            max_length=16,
            description="Taints to tolerate besides the one named like the GPU resource, which is always tolerated.",
        ),
    ] = []
    parallelism: Annotated[
        Parallelism | None,
        Field(
            description="How a replica is split over its GPUs. Left out: tensor parallel over all of them."
        ),
    ] = None


class CacheSpec(APIModel):
    """Where the weights wait, so that no pod ever downloads them."""

    mode: Annotated[
        CacheMode, Field(description="Node: on the disks of the nodes where replicas will run.")
    ] = CacheMode.NODE
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


class ScalingSpec(APIModel):
    """Who decides the number of replicas, and within which bounds.

    External: you do, through spec.replicas or the /scale subresource (``kubectl scale``, a
    HorizontalPodAutoscaler, KEDA). What is asked for is held within minReplicas and maxReplicas.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                "`minReplicas` must be less than or equal to `maxReplicas`: raise `maxReplicas` or lower `minReplicas`",
                ".minReplicas",
            )
        )
    )

    mode: Annotated[
        ScalingMode,
        Field(
            description="External: spec.replicas, written by you or by an autoscaler through /scale, decides."
        ),
    ] = ScalingMode.EXTERNAL
    min_replicas: Annotated[
        int, Field(ge=0, le=1000, description="Never fewer replicas than this, whatever spec.replicas says.")
    ] = 0
    max_replicas: Annotated[
        int, Field(ge=0, le=1000, description="Never more replicas than this, whatever spec.replicas says.")
    ] = 1000


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


class HealthSpec(APIModel):
    """How it is known that a replica works."""

    canary: Annotated[CanarySpec, Field(description="The real inference that proves health.")] = CanarySpec()
    stall_seconds: Annotated[
        int,
        Field(
            ge=10,
            le=86_400,
            description="A load is given up when it has made no progress (bytes read, CPU time, GPU memory) "
            "for this long, in seconds. A load that makes progress is never given up, however long it takes.",
        ),
    ] = 300


class RolloutSpec(APIModel):
    """How a new revision takes over from the old one."""

    strategy: Annotated[
        RolloutStrategy,
        Field(
            description="Auto: new replicas beside the old where GPUs are free; where none is free, one old "
            "replica at a time makes room."
        ),
    ] = RolloutStrategy.AUTO
    revision_history_limit: Annotated[
        int,
        Field(ge=0, le=20, description="How many old revisions are kept, with their weights, to go back to."),
    ] = 2


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
                "or set `runtime.backend` to LlamaCpp for GGUF, or to Repository for what Triton loads itself",
                ".model.format",
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
            "0 stops the model and keeps its weights warm.",
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
    children: Annotated[
        list[ChildStatus],
        Field(
            max_length=64,
            description="The Deployments, one per revision and GPU type.",
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
    spec: LLMDeploymentSpec
    status: LLMDeploymentStatus = LLMDeploymentStatus()


__all__ = [
    "Backend",
    "CacheMode",
    "CacheSpec",
    "CacheStatus",
    "CanarySpec",
    "ChildStatus",
    "EngineName",
    "GPUSpec",
    "HardwareSpec",
    "HealthSpec",
    "LLMDeployment",
    "LLMDeploymentSpec",
    "LLMDeploymentStatus",
    "LabelValue",
    "LoadingStatus",
    "ModelSpec",
    "Parallelism",
    "Precision",
    "Resources",
    "RolloutSpec",
    "RolloutStrategy",
    "RuntimeSpec",
    "ScalingMode",
    "ScalingSpec",
]
