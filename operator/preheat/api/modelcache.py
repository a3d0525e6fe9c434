"""ModelCache: the exact, verified weights of one model revision on a set of nodes, or on a volume."""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from preheat.api.base import DNS_NAME, KEY, APIModel, LabelKey, LabelValue, Name, Rule, Sha256, rules, worded
from preheat.api.conditions import Condition
from preheat.api.gpu import GPUType
from preheat.api.template import NOT_A_LABEL_OF_WEIGHTS


class ModelFormat(StrEnum):
    """The file format of the weights."""

    SAFETENSORS = "Safetensors"
    GGUF = "GGUF"
    ONNX = "ONNX"
    TENSORRT = "TensorRT"
    PICKLE = "Pickle"


class ModelFile(APIModel):
    """One file of the model, with the digest that it must have."""

    path: Annotated[
        str,
        worded(
            r"^[^/\\\x00-\x1f\x7f][^\\\x00-\x1f\x7f]*$",
            "must be relative to the model's root, without a backslash or control characters",
            (
                "!self.split('/').exists(p, p == '..' || p == '.' || p == '')",
                "must be relative to the model's root and must not contain '.', '..' or empty parts",
            ),
            (
                "!self.startsWith('.preheat') && !self.matches('^[.](partial|lock)(/|$)')",
                "must not begin with .preheat, .partial or .lock: the warmer keeps its own files there",
            ),
            (
                "self.split('/').all(p, p.size() <= 250)",
                "each part must be at most 250 characters: file systems take no longer names",
            ),
            min_length=1,
            max_length=512,
            description="Path relative to the model's root.",
        ),
    ]
    sha256: Annotated[Sha256, Field(description="SHA-256 of the content, 64 hex digits.")]
    size_bytes: Annotated[
        int | None, Field(ge=0, le=10_000_000_000_000, description="Size in bytes, where known.")
    ] = None


class SecretReference(APIModel):
    """A Secret in the same namespace. It is mounted where it is needed and never read by the operator."""

    secret_name: Annotated[
        Name,
        Field(
            description="Name of the Secret. Its keys: `token` (hf, http, gs, mlflow); AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, and where needed AWS_SESSION_TOKEN and AWS_REGION (s3, gs with HMAC keys); "
            "`key.json`, the key of a Google service account (gs); "
            "`username` and `password` (oci, mlflow); or, for oci, a docker-registry Secret "
            "(kubectl create secret docker-registry), which mode Image needs: it is the pull secret there."
        ),
    ]


_HUB_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_HF = rf"hf://{_HUB_PART}/{_HUB_PART}"
_HTTP = r"https?://[^\s/?#]+/[^\s?#]*"
_PVC = rf"pvc://{DNS_NAME}(/[^\s?#]*)?"
_BUCKET = r"(s3|gs)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[^\s?#]*)?"
_OCI = (
    r"oci://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})"
)
_MLFLOW = r"mlflow://[^\s/@:?#]+(/[0-9]{1,9}|@[A-Za-z0-9_-]{1,255})"
_PICKLE = r"(?i)[.](bin|pt|pth|ckpt|pkl|pickle|dill|joblib|npy|npz|mar)$"
"""What a warmer refuses without ``format: Pickle`` (PICKLE_SUFFIXES in preheat_warmer/manifest.py)."""


class ModelSource(APIModel):
    """Where the weights come from, and what they must be."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!self.uri.startsWith('hf://') || self.revision != ''",
                "`revision` must be set for an hf:// URI: name a commit, so that every node gets the same weights",
                ".revision",
            ),
            (
                "self.revision == '' || self.uri.startsWith('hf://')",
                "`revision` is only known to hf:// URIs: leave it out, and put the version into the URI: a folder of "
                "its own, a tag or a digest of oci://, a version or an alias of mlflow://",
                ".revision",
            ),
            (
                "!has(self.endpoint) || self.uri.matches('^(hf|s3|gs|oci|mlflow)://')",
                "`endpoint` is not used for http(s):// and pvc:// URIs: leave it out",
                ".endpoint",
            ),
            (
                "has(self.endpoint) || !self.uri.startsWith('mlflow://')",
                "`endpoint` must be set for an mlflow:// URI: the address of the tracking server, for example "
                "http://mlflow.team.svc:5000",
                ".endpoint",
            ),
            (
                "!has(self.credentials) || !self.uri.startsWith('pvc://')",
                "`credentials` are not used for pvc:// URIs: leave them out",
                ".credentials",
            ),
            (
                "self.files.size() == 0 || self.include.size() == 0",
                "`include` must be left out when `files` names the files: only those are fetched",
                ".include",
            ),
            (
                f"self.format == 'Pickle' || !self.files.exists(f, f.path.matches(r'{_PICKLE}'))",
                "`files` names a file that can run code when it is loaded (.bin, .pt, .pkl, ...): use a "
                "safetensors version of the model, or set `format: Pickle` if you trust the source",
                ".files",
            ),
            (
                f"self.format == 'Pickle' || !self.include.exists(p, p.matches(r'{_PICKLE}'))",
                "`include` asks for files that can run code when they are loaded (.bin, .pt, .pkl, ...): use a "
                "safetensors version of the model, or set `format: Pickle` if you trust the source",
                ".include",
            ),
        )
    )

    uri: Annotated[
        str,
        Field(
            min_length=1,
            max_length=1024,
            pattern=rf"^({_HF}|{_HTTP}|{_PVC}|{_BUCKET}|{_OCI}|{_MLFLOW})$",
            json_schema_extra=rules(
                (
                    "self.matches('^(hf|https?|pvc|s3|gs|oci|mlflow)://')",
                    "must begin with hf://, https://, http://, s3://, gs://, oci://, mlflow:// or pvc://, in small "
                    "letters: hf://ORG/NAME, https://HOST/FOLDER/, s3://BUCKET/PREFIX (gs:// likewise), "
                    "oci://REGISTRY/REPOSITORY@sha256:DIGEST, mlflow://MODEL/VERSION or pvc://CLAIM/PATH",
                ),
                (
                    f"!self.startsWith('hf://') || self.matches(r'^{_HF}$')",
                    "must be hf://ORG/NAME and no more: the revision goes into `revision`, a mirror's address "
                    "into `endpoint`, the names of files into `include`",
                ),
                (
                    f"!self.startsWith('http') || self.matches(r'^{_HTTP}$')",
                    "must be http(s)://HOST/PATH without spaces, '?' and '#'; end it in '/' for a folder with a "
                    "SHA256SUMS file, a token goes into a Secret named in `credentials`",
                ),
                (
                    f"!self.startsWith('pvc://') || self.matches(r'^{_PVC}$')",
                    "must be pvc://CLAIM/PATH: the name of a PersistentVolumeClaim in the same namespace, "
                    "then a path on it without spaces, '?' and '#'",
                ),
                (
                    f"!self.matches('^(s3|gs)://') || self.matches(r'^{_BUCKET}$')",
                    "must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, the bucket in small letters, without spaces, "
                    "'?' and '#'; the address of a service other than AWS or Google goes into `endpoint`, keys go "
                    "into a Secret named in `credentials`",
                ),
                (
                    f"!self.startsWith('oci://') || self.matches(r'^{_OCI}$')",
                    "must be oci://REGISTRY/REPOSITORY:TAG or, better, oci://REGISTRY/REPOSITORY@sha256:DIGEST, the "
                    "repository in small letters: without a tag or a digest nobody knows which weights are meant",
                ),
                (
                    f"!self.startsWith('mlflow://') || self.matches(r'^{_MLFLOW}$')",
                    "must be mlflow://MODEL/VERSION with the number of a version, or mlflow://MODEL@ALIAS; write "
                    "spaces in a name as %20",
                ),
                (
                    "!self.split('/').exists(p, p == '..')",
                    "must not contain '..': write the path as it is",
                ),
            ),
            description="hf://ORG/NAME (Hugging Face or a mirror that speaks its API), http(s)://HOST/FOLDER/ "
            "(with a SHA256SUMS file in it) or http(s)://HOST/FILE, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX (with "
            "a SHA256SUMS object in it, or S3's own SHA-256 checksums), oci://REGISTRY/REPOSITORY:TAG or @DIGEST "
            "(files pushed as an artifact, as ORAS does), mlflow://MODEL/VERSION or mlflow://MODEL@ALIAS (a "
            "version in the model registry at `endpoint`), or pvc://CLAIM/PATH (a claim in the same namespace).",
        ),
    ]
    revision: Annotated[
        str,
        worded(
            "^([A-Za-z0-9_][A-Za-z0-9._/-]*)?$",
            "must be a commit, a tag or a branch: A-Z, a-z, 0-9, '.', '_', '/' and '-'",
            ("!self.contains('..')", "must not contain '..': no branch or tag does"),
            max_length=128,
            description="For hf://: a commit (best), or a tag or branch, which each warmer resolves when it starts: nodes may "
            "get different weights when it moves in between.",
        ),
    ] = ""
    format: Annotated[
        ModelFormat,
        Field(
            description="File format of the weights. Pickle files can run code when they are loaded: they "
            "are refused unless this is set to Pickle, and then looked into: one that imports anything but what weights are "
            "made of is refused all the same."
        ),
    ] = ModelFormat.SAFETENSORS
    files: Annotated[
        list[ModelFile],
        Field(
            max_length=256,
            description="The exact files with their digests. Left out: the manifest of the source is used "
            "(the hub's or the registry's digests, S3's SHA-256 checksums, or SHA256SUMS beside the files). A file without a digest is refused.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["path"]},
        ),
    ] = []
    include: Annotated[
        list[
            Annotated[
                str,
                worded(
                    r"^[^/\\\x00-\x1f\x7f][^\\\x00-\x1f\x7f]*$",
                    "must be a pattern of paths relative to the model's root, such as '*.safetensors': "
                    "no '/' in front, no backslash",
                    ("!self.split('/').exists(p, p == '..')", "must not contain '..'"),
                    min_length=1,
                    max_length=128,
                ),
            ]
        ],
        Field(
            max_length=32,
            description="Shell patterns of the files to fetch. Left out: what the format needs.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = []
    endpoint: Annotated[
        str | None,
        worded(
            r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
            "must be the base URL of a hub, for example https://huggingface.co, or of another service: "
            "http(s)://HOST, without spaces, '?' and '#'",
            max_length=512,
            description="Base URL of the service: the hub for hf:// (left out: the one the operator was installed "
            "with), an S3-compatible service for s3://, Google's or another for gs://, the registry for oci:// "
            "(left out: https:// and the one that the URI names), the tracking server for mlflow:// (must be set).",
        ),
    ] = None
    credentials: Annotated[
        SecretReference | None, Field(description="What proves to the source who asks.")
    ] = None


class Toleration(APIModel):
    """A taint to tolerate, as in a pod."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.operator != 'Exists' || self.value == ''",
                "`value` must be left out where `operator` is Exists: it tolerates every value",
                ".value",
            ),
            (
                "self.key != '' || self.operator == 'Exists'",
                "`key` must be set where `operator` is Equal; to tolerate every taint set `operator: Exists`",
                ".key",
            ),
        )
    )

    key: Annotated[
        str,
        worded(
            f"^({KEY})?$",
            "must be the key of a taint: at most 63 characters of A-Z, a-z, 0-9, '-', '_' and '.', "
            "optionally after a domain and '/', for example nvidia.com/gpu",
            max_length=316,
            description="Taint key; empty matches all keys.",
        ),
    ] = ""
    operator: Annotated[Literal["Exists", "Equal"], Field(description="Exists or Equal.")] = "Equal"
    value: Annotated[LabelValue, Field(description="Taint value for Equal.")] = ""
    effect: Annotated[
        Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"],
        Field(description="Taint effect; empty matches all."),
    ] = ""


MOST_NODES = 1000
"""On no more nodes than this can one cache be."""


class PlacementSpec(APIModel):
    """On which nodes the weights are kept."""

    gpu_types: Annotated[
        list[GPUType],
        Field(
            max_length=8,
            description="Nodes with one of these GPU types. Left out: with any or none.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = []
    # A service's own cache is placed by its hardware and by its pod template: both have room here.
    node_selector: Annotated[
        dict[LabelKey, LabelValue],
        Field(
            max_length=64,
            description="Labels that a node must have.",
            json_schema_extra=rules(NOT_A_LABEL_OF_WEIGHTS),
        ),
    ] = {}
    tolerations: Annotated[
        list[Toleration],
        Field(
            max_length=64,
            description="Taints to tolerate besides those of GPU nodes, which are always tolerated.",
        ),
    ] = []
    nodes: Annotated[
        int | None,
        Field(
            ge=0,
            le=MOST_NODES,
            description="On how many of the matching nodes. Left out: on all of them, 1000 at most.",
        ),
    ] = None


class CacheMode(StrEnum):
    """Where the weights wait."""

    NODE = "Node"
    SHARED = "Shared"
    IMAGE = "Image"


STORAGE_RULES: tuple[Rule, ...] = (
    # has(): the API server judges the default {} before it has filled in what is below it.
    (
        "!has(self.claimName) || (has(self.mode) && self.mode == 'Shared')",
        "`claimName` is only used with `mode: Shared`: set the mode, or leave the claim out",
        ".claimName",
    ),
    (
        "!has(self.mode) || self.mode != 'Shared' || has(self.claimName)",
        "`claimName` must be set with `mode: Shared`: the name of a PersistentVolumeClaim in the same namespace "
        "that every node with a replica can mount",
        ".claimName",
    ),
    (
        "!has(self.claimName) || !self.claimName.matches('^preheat-[0-9a-f]{16}-')",
        "`claimName` must be a claim of your own: those that begin with preheat- and a key are Preheat's, for node disks",
        ".claimName",
    ),
)


def image_rules(mode: str, source: str, limit: str) -> tuple[Rule, ...]:
    """Return what mode Image asks for. The paths of the mode, the source and the speed limit differ by kind."""
    other = f"self.{mode} != 'Image'"
    return (
        (
            f"{other} || self.{source}.uri.startsWith('oci://')",
            f"`uri` must be oci:// where `{mode}` is Image: push the weights as a container image, or choose another "
            "mode",
            f".{source}.uri",
        ),
        (
            f"{other} || self.{source}.include.size() == 0",
            f"`include` must be left out where `{mode}` is Image: pods see all that is in the image; leave the files "
            "out of the image",
            f".{source}.include",
        ),
        (
            f"{other} || !has(self.{source}.endpoint) || !self.{source}.uri.contains('@')",
            f"`endpoint` must be left out where `{mode}` is Image and the URI names a digest: the nodes' container "
            "runtime fetches the image, and has mirrors of its own",
            f".{source}.endpoint",
        ),
        (
            f"{other} || !has(self.{limit})",
            f"`maxBytesPerSecond` must be left out where `{mode}` is Image: the nodes' container runtime fetches the "
            "image, and takes no limit",
            f".{limit}",
        ),
    )


class StorageSpec(APIModel):
    """Where the weights are kept: on the disks of nodes, on a volume that all share, or as an image."""

    model_config = ConfigDict(json_schema_extra=rules(*STORAGE_RULES))

    mode: Annotated[
        CacheMode,
        Field(
            description="Node: on the disks of nodes. Shared: once, on the volume of a claim. Image: an oci:// image "
            "that the nodes' container runtime pulls and pods mount; Kubernetes 1.35 or newer, or 1.33 with the "
            "feature gate ImageVolume."
        ),
    ] = CacheMode.NODE
    claim_name: Annotated[
        Name | None,
        Field(
            description="For mode Shared: a PersistentVolumeClaim in the same namespace. Weights lie in its folder "
            ".preheat; nothing else on it is touched."
        ),
    ] = None


class ModelCacheSpec(APIModel):
    """Which weights, and where they are kept."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.source == oldSelf.source",
                "`source` must not change: weights of another source are another ModelCache; create a new one",
                ".source",
            ),
            (
                "self.storage == oldSelf.storage",
                "`storage` must not change: weights in another place are another ModelCache; create a new one",
                ".storage",
            ),
            (
                "self.storage.mode != 'Shared' || !has(self.placement.nodes)",
                "`nodes` must be left out where `storage.mode` is Shared: the weights lie on the volume, once",
                ".placement.nodes",
            ),
            *image_rules("storage.mode", "source", "maxBytesPerSecond"),
        )
    )

    source: Annotated[ModelSource, Field(description="Where the weights come from. Cannot be changed.")]
    storage: Annotated[StorageSpec, Field(description="Where the weights are kept. Cannot be changed.")] = (
        StorageSpec()
    )
    placement: Annotated[PlacementSpec, Field(description="On which nodes.")] = PlacementSpec()
    max_bytes_per_second: Annotated[
        int | None,
        Field(
            ge=1024,
            le=1_000_000_000_000,
            description="Limit of the download speed per node, in bytes per second. Left out: no limit.",
        ),
    ] = None
    verify_interval_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=31_536_000,
            description="After how many seconds weights are hashed again; those on a node also after every start of "
            "the node. What is not what it should be is put aside and fetched anew. 0: never by itself; the annotation "
            "preheat.dev/verify-requested-at asks for it.",
            json_schema_extra=rules(
                (
                    "self == 0 || self >= 60",
                    "must be 0 (never) or at least 60: hashing reads all the weights from the disk",
                )
            ),
        ),
    ] = 604_800


class NodeCacheState(StrEnum):
    """How far one node is."""

    PENDING = "Pending"
    LISTING = "Listing"
    FETCHING = "Fetching"
    VERIFYING = "Verifying"
    READY = "Ready"
    FAILED = "Failed"
    EVICTING = "Evicting"


class NodeFailure(APIModel):
    """How the last warmer that gave up on a node ended. Another one may be at work by now."""

    reason: Annotated[str, Field(max_length=64, description="Why, in the warmer's word.")]
    time: Annotated[str, Field(max_length=32, description="When its Job failed, RFC 3339, UTC.")]
    times: Annotated[
        int, Field(ge=1, description="How many Jobs in a row failed here with this reason, this one counted.")
    ] = 1


class NodeCacheStatus(APIModel):
    """The weights on one node."""

    name: Annotated[
        str,
        Field(
            max_length=253,
            description="Name of the node; Shared: the volume of the claim; Registry: who knows what a tag stands for.",
        ),
    ]
    state: Annotated[NodeCacheState, Field(description="How far this node is.")]
    percent: Annotated[int, Field(ge=0, le=100, description="Share of the bytes that are there.")]
    reason: Annotated[str | None, Field(max_length=64, description="Why it failed or waits.")] = None
    message: Annotated[str | None, Field(max_length=512, description="What happened and what to do.")] = None
    last_failure: Annotated[
        NodeFailure | None,
        Field(description="How the last warmer that gave up here ended. Gone once the weights are there."),
    ] = None


class QuarantinedNode(APIModel):
    """A node on which pods still mount weights that were found wrong and put aside."""

    name: Annotated[str, Field(max_length=253, description="Name of the node.")]
    time: Annotated[
        str,
        Field(
            max_length=32,
            description="When that was known, RFC 3339, UTC: pods there that are no younger run on those weights.",
        ),
    ]


class ModelCacheStatus(APIModel):
    """What is on the nodes."""

    observed_generation: Annotated[
        int | None, Field(ge=0, description="The metadata.generation that this status was computed from.")
    ] = None
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            description="Ready, and Reconciling and Stalled for kstatus.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []
    key: Annotated[
        str | None,
        Field(max_length=32, description="Nodes that are ready carry the label cache.preheat.dev/KEY=ready."),
    ] = None
    resolved_revision: Annotated[
        str | None,
        Field(
            max_length=128,
            description="What the source stood for: a commit, the digest of a manifest, a version.",
        ),
    ] = None
    manifest_sha256: Annotated[
        str | None, Field(max_length=64, description="SHA-256 of the manifest of all files.")
    ] = None
    total_bytes: Annotated[int | None, Field(ge=0, description="Size of the model in bytes.")] = None
    percent: Annotated[
        int | None, Field(ge=0, le=100, description="Share of the bytes that are on the desired nodes.")
    ] = None
    speed: Annotated[
        str | None, Field(max_length=16, description='Download speed over all nodes: "220 MB/s".')
    ] = None
    eta: Annotated[str | None, Field(max_length=16, description='Time left: "40s", "3m20s".')] = None
    in_use: Annotated[
        bool | None,
        Field(description="Whether a Deployment with replicas mounts them: then they leave no disk."),
    ] = None
    last_used_time: Annotated[
        str | None,
        Field(
            max_length=32,
            description="When they were last in use, RFC 3339, UTC: where a node's budget is short, the least recently "
            "used leave first.",
        ),
    ] = None
    last_verified_time: Annotated[
        str | None,
        Field(
            max_length=32,
            description="Mode Shared: when the weights on the volume were last hashed and right, RFC 3339, UTC.",
        ),
    ] = None
    ready_nodes: Annotated[int | None, Field(ge=0, description="Nodes that hold the verified weights.")] = (
        None
    )
    desired_nodes: Annotated[int | None, Field(ge=0, description="Nodes that should.")] = None
    node_summary: Annotated[
        str | None,
        Field(max_length=16, description='Ready nodes of desired ones, for people; "shared" for a volume.'),
    ] = None
    nodes: Annotated[
        list[NodeCacheStatus],
        Field(
            max_length=MOST_NODES,
            description="Each node that holds the weights or is getting them.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = []
    quarantined: Annotated[
        list[QuarantinedNode] | None,
        Field(
            max_length=1000,
            description="Nodes with pods that run on weights that were found wrong since. They are replaced one by one.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ] = None


class ModelCache(APIModel):
    """The exact, verified weights of one model revision, put in place before any pod needs them.

    An LLMDeployment makes the one it needs; make one yourself to have weights on nodes ahead of time.
    """

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "self.metadata.name.size() <= 63",
                "metadata.name must be at most 63 characters: the labels of volumes and warmers hold it",
            )
        )
    )

    PLURAL: ClassVar[str] = "modelcaches"

    name: Name
    namespace: Name
    uid: str
    generation: int
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    spec: ModelCacheSpec
    status: ModelCacheStatus = ModelCacheStatus()
