"""The warmer's configuration: the JSON in PREHEAT_WARMER_CONFIG, read once (contract: ../README.md)."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import File, checked_path, is_sha256
from preheat_warmer.secret import Secret, WrongSecret, read_secret

Parsed = TypeVar("Parsed")

VARIABLE = "PREHEAT_WARMER_CONFIG"
ROOM_VARIABLE = "PREHEAT_ROOM_BYTES"
CREDENTIALS = Path("/var/run/secrets/preheat/credentials")
PEER_TOKEN = Path("/var/run/secrets/preheat/peer/token")
HUB = "https://huggingface.co"
TASKS = ("warm", "resolve", "verifyImage", "serve", "keep", "page", "pull")
"""What a run is for: to fetch weights, to ask what a tag stands for, to verify an image that is mounted, to serve, to keep,
to read ahead, to see that images were pulled."""
_HUB_NAME = re.compile(r"hf://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_SHAPES = {
    "hf": (_HUB_NAME, "hf://ORG/NAME"),
    "s3": (re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]*(/.*)?"), "s3://BUCKET/PREFIX"),
    "gs": (re.compile(r"gs://[A-Za-z0-9][A-Za-z0-9._-]*(/.*)?"), "gs://BUCKET/PREFIX"),
    "oci": (
        re.compile(
            r"oci://[A-Za-z0-9.\[\]:-]+(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
            r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})"
        ),
        "oci://REGISTRY/REPOSITORY:TAG or oci://REGISTRY/REPOSITORY@sha256:DIGEST",
    ),
    "mlflow": (
        re.compile(r"mlflow://[^/@:]+(/[0-9]+|@[A-Za-z0-9_-]+)"),
        "mlflow://MODEL/VERSION or mlflow://MODEL@ALIAS",
    ),
    "http": (re.compile(".*"), ""),
    "https": (re.compile(".*"), ""),
    "pvc": (re.compile(".*"), ""),
}
"""Scheme -> what a URI of it looks like, and how it is told."""
_KEY = re.compile(r"[0-9a-f]{16}")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_REVISION = re.compile(r"[A-Za-z0-9._/-]*")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_NO_URI = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass(frozen=True, slots=True)
class Config:
    """What to fetch, and where to put it. Sizes in bytes."""

    uri: str
    revision: str
    hf_endpoint: str
    files: tuple[File, ...]
    include: tuple[str, ...]
    allow_pickle: bool
    destination: Path
    source_directory: Path
    listen_port: int
    max_bytes_per_second: int | None
    parallelism: int
    node_name: str
    token: str | None
    endpoint: str
    """Where the bucket's service, the registry or the tracking server is; empty: where the URI says."""
    secret: Secret
    task: str = "warm"
    resolved: str = ""
    """The digest of the image that is mounted, for the task verifyImage."""
    peers: tuple[str, ...] = ()
    """Neighbours that serve these weights: base URLs."""
    manifest_sha256: str = ""
    """What the manifest of the neighbours must be; there whenever ``peers`` are."""
    peer_token: Path = PEER_TOKEN
    room_bytes: int | None = None
    """The most that the weights may take on this node; None: whatever the disk has."""

    @property
    def scheme(self) -> str:
        """Return what kind of source the URI names: hf, http, https, pvc, s3, gs, oci or mlflow."""
        return self.uri.partition("://")[0]


@dataclass(frozen=True, slots=True)
class SeederConfig:
    """What to serve, and to whom."""

    destination: Path
    listen_port: int
    namespace: str
    """Whose pods may have it."""
    audience: str
    """What their tokens must be for."""
    issuer_keys: Mapping[str, Any]
    """The public keys that sign the cluster's tokens: a JSON Web Key Set."""
    node_name: str


Keys = Mapping[str, frozenset[str]]
"""Namespace -> keys of caches."""
Moments = Mapping[str, datetime]
"""Key of a cache -> a time."""


@dataclass(frozen=True, slots=True)
class KeepConfig:
    """Which caches stay on this node, and which of them are verified now (``keep.py``)."""

    root: Path
    keep: Keys
    older_than: datetime
    """Younger folders are left alone: they may be of a cache that whoever wrote this had not heard of yet."""
    verify: Keys
    max_bytes_per_second: int | None
    node_name: str
    listen_port: int
    fresh_since: Moments = field(default_factory=dict)
    """What was verified at that time or later, and since the machine started, is not hashed again."""
    removes: bool = True
    """Whether what is not to be kept goes. Not where others write to the same volume."""


@dataclass(frozen=True, slots=True)
class PageConfig:
    """Which published weights to read into the page cache (``page.py``)."""

    destination: Path
    room_bytes: int | None
    """The most bytes to read; None: all."""
    parallelism: int
    node_name: str
    listen_port: int


@dataclass(frozen=True, slots=True)
class PullConfig:
    """Where the kubelet has mounted the images that it was to pull (``image.py``)."""

    images: tuple[Path, ...]
    node_name: str


class _Wrong(Exception):  # noqa: N818 - private; the text goes into InvalidConfig
    """A field is missing or wrong."""


def task_of(environment: Mapping[str, str]) -> str:
    """Return what is to be done. Raises Hopeless."""
    return _read(environment, lambda given: _known(_get(given, "task", str, "warm")))


def seeder_from_environment(environment: Mapping[str, str]) -> SeederConfig:
    """Return the configuration of a seeder. Raises Hopeless, naming the field that is missing or wrong."""
    return _read(
        environment,
        lambda given: SeederConfig(
            destination=Path(_get(given, "destination", str, None)),
            listen_port=_number(given, "listenPort", 9082, 0, 65535),
            namespace=_get(given, "namespace", str, None),
            audience=_get(given, "audience", str, None),
            issuer_keys=_get(given, "issuerKeys", dict, None),
            node_name=_get(given, "nodeName", str, ""),
        ),
    )


def from_environment(
    environment: Mapping[str, str], credentials: Path = CREDENTIALS
) -> Config | KeepConfig | PageConfig | PullConfig:
    """Return the configuration of the task that is asked for. Raises Hopeless, naming the field that is missing or wrong."""

    def parse(given: Mapping[str, Any]) -> Config | KeepConfig | PageConfig | PullConfig:
        match given.get("task"):
            case "keep":
                return _keep_config(given)
            case "page":
                return _page_config(given)
            case "pull":
                return _pull_config(given)
            case _:
                return _config(given, environment, credentials)

    return _read(environment, parse)


def _read(environment: Mapping[str, str], parse: Callable[[Mapping[str, Any]], Parsed]) -> Parsed:
    text = environment.get(VARIABLE)
    if not text:
        raise Hopeless(Reason.INVALID_CONFIG, f"{VARIABLE} is not set: it holds the configuration as JSON")
    try:
        given = json.loads(text)
        if not isinstance(given, dict):
            raise _Wrong("must be a JSON object")  # noqa: TRY301 - one door for everything wrong
        return parse(given)
    except (ValueError, RecursionError) as error:
        raise Hopeless(Reason.INVALID_CONFIG, f"{VARIABLE} is no JSON: {error}") from error
    except (_Wrong, WrongSecret) as error:
        raise Hopeless(Reason.INVALID_CONFIG, f"{VARIABLE}: {error}") from error


def _config(given: Mapping[str, Any], environment: Mapping[str, str], credentials: Path) -> Config:
    source = _get(given, "source", dict, None)
    uri = _uri(_get(source, "uri", str, None, "source."))
    mounted = Path(_get(given, "credentialsDirectory", str, str(credentials)))
    token, secret = read_secret(mounted, uri)
    return Config(
        uri=uri,
        revision=_revision(_get(source, "revision", str, "", "source.")),
        hf_endpoint=_endpoint("hfEndpoint", _get(given, "hfEndpoint", str, HUB)),
        files=tuple(_file(entry, n) for n, entry in enumerate(_get(given, "files", list, []))),
        include=tuple(_pattern(entry) for entry in _get(given, "include", list, [])),
        allow_pickle=_get(given, "allowPickle", bool, False),
        destination=Path(_get(given, "destination", str, None)),
        source_directory=Path(_get(given, "sourceDirectory", str, "/source")),
        listen_port=_number(given, "listenPort", 9081, 0, 65535),
        max_bytes_per_second=_number(given, "maxBytesPerSecond", 0, 1, 1 << 50) or None,
        parallelism=_number(given, "parallelism", 4, 1, 64),
        node_name=_get(given, "nodeName", str, ""),
        token=token or _hub_token(uri, environment),
        endpoint=_where(uri, _get(given, "endpoint", str, ""), secret),
        secret=secret,
        task=_task(_get(given, "task", str, "warm"), uri),
        resolved=_get(given, "resolvedRevision", str, ""),
        **_neighbours(given),
        room_bytes=_room(given, environment),
    )


def _task(task: str, uri: str) -> str:
    if _known(task) != "warm" and not uri.startswith("oci://"):
        raise _Wrong(f"task {task} is about images: source.uri must begin with oci://")
    return task


def _known(task: str) -> str:
    if task not in TASKS:
        raise _Wrong(f"task {task[:80]!r} is none of {', '.join(TASKS)}")
    return task


def _neighbours(given: Mapping[str, Any]) -> dict[str, Any]:
    peers = tuple(_endpoint("peers", _peer(entry)) for entry in _get(given, "peers", list, []))
    manifest = _get(given, "manifestSHA256", str, "")
    if peers and not is_sha256(manifest):
        raise _Wrong("manifestSHA256 must be 64 hexadecimal digits where there are peers")
    token = Path(_get(given, "peerTokenFile", str, str(PEER_TOKEN)))
    return {"peers": peers, "manifest_sha256": manifest, "peer_token": token}


def _peer(entry: Any) -> str:
    if not isinstance(entry, str):
        raise _Wrong("peers must be a list of URLs")
    return entry


def _room(given: Mapping[str, Any], environment: Mapping[str, str]) -> int | None:
    """Return the room for the weights. The variable wins: what it says may be newer than the configuration."""
    told = environment.get(ROOM_VARIABLE, "").strip()
    if not told:
        return None if given.get("roomBytes") is None else _number(given, "roomBytes", 0, 0, 1 << 60)
    if not (told.isascii() and told.isdigit() and len(told) <= 18):
        raise _Wrong(f"the variable {ROOM_VARIABLE} must be a whole number of bytes, not {told[:80]!r}")
    return int(told)


def _keep_config(given: Mapping[str, Any]) -> KeepConfig:
    keep, verify = _keys(given, "keep"), _keys(given, "verify")
    for namespace, keys in verify.items():
        stray = sorted(keys - keep.get(namespace, frozenset()))
        if stray:
            raise _Wrong(
                f"verify names {namespace}/{stray[0]}, which is not in keep: it would be removed first"
            )
    return KeepConfig(
        root=Path(_get(given, "root", str, None)),
        keep=keep,
        older_than=_moment("olderThan", _get(given, "olderThan", str, None)),
        verify=verify,
        fresh_since=_moments(given, "freshSince"),
        removes=_get(given, "removes", bool, True),
        max_bytes_per_second=_number(given, "maxBytesPerSecond", 0, 1, 1 << 50) or None,
        node_name=_get(given, "nodeName", str, ""),
        listen_port=_number(given, "listenPort", 9081, 0, 65535),
    )


def _page_config(given: Mapping[str, Any]) -> PageConfig:
    return PageConfig(
        destination=Path(_get(given, "destination", str, None)),
        room_bytes=None if given.get("roomBytes") is None else _number(given, "roomBytes", 0, 0, 1 << 60),
        parallelism=_number(given, "parallelism", 4, 1, 64),
        node_name=_get(given, "nodeName", str, ""),
        listen_port=_number(given, "listenPort", 9081, 0, 65535),
    )


def _pull_config(given: Mapping[str, Any]) -> PullConfig:
    folders = _get(given, "images", list, None)
    if not folders or not all(isinstance(folder, str) and folder for folder in folders):
        raise _Wrong("images must be a list of folders")
    return PullConfig(
        images=tuple(map(Path, folders)),
        node_name=_get(given, "nodeName", str, ""),
    )


def _keys(given: Mapping[str, Any], name: str) -> Keys:
    """Return keys by namespace. ``keep`` left out would mean that nothing stays: it must be there."""
    found = _get(given, name, dict, None if name == "keep" else {})
    for namespace, keys in found.items():
        if not is_namespace(namespace):
            raise _Wrong(f"{name}: {namespace[:80]!r} is no namespace")
        if not isinstance(keys, list):
            raise _Wrong(f"{name}.{namespace} must be a list of keys")
        for key in keys:
            _check_key(f"{name}.{namespace}", key)
    return {namespace: frozenset(keys) for namespace, keys in found.items()}


def _moments(given: Mapping[str, Any], name: str) -> Moments:
    """Return times by key."""
    found: dict[str, Any] = _get(given, name, dict, {})
    for key in found:
        _check_key(name, key)
    return {key: _moment(f"{name}.{key}", _get(found, key, str, None, f"{name}.")) for key in found}


def _check_key(where: str, key: Any) -> None:
    if not isinstance(key, str) or not is_key(key):
        raise _Wrong(f"{where}: {json.dumps(key)[:80]} is no key: 16 hexadecimal digits")


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _Wrong(f"{name} {text[:80]!r} is no time such as 2026-01-01T12:00:00Z") from None
    if moment.tzinfo is None:
        raise _Wrong(f"{name} {text[:80]!r} has no time zone: end it with Z")
    return moment


def is_key(name: str) -> bool:
    """Tell whether a name may be the folder of a cache."""
    return _KEY.fullmatch(name) is not None


def is_namespace(name: str) -> bool:
    """Tell whether a name may be the folder of a namespace."""
    return _NAMESPACE.fullmatch(name) is not None


def _get(given: Mapping[str, Any], name: str, kind: type, default: Any, where: str = "") -> Any:
    """Return a field of a type; ``default`` None means that it must be there."""
    value = given.get(name)
    if value is None:
        if default is None:
            raise _Wrong(f"{where}{name} is missing")
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _Wrong(f"{where}{name} must be {_WORDS[kind]}, not {json.dumps(value)[:80]}")
    if value == "" and default is None:
        raise _Wrong(f"{where}{name} is empty")
    return value


_WORDS = {str: "a string", int: "a whole number", bool: "true or false", dict: "an object", list: "a list"}


def _number(given: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """Return a whole number within bounds, or the default where none is given."""
    if given.get(name) is None:
        return default
    value: int = _get(given, name, int, default)
    if not low <= value <= high:
        raise _Wrong(f"{name} must lie between {low} and {high}, not {value}")
    return value


def _uri(uri: str) -> str:
    """Return a URI that is one of the known kinds. Never repeats a password it may hold."""
    try:
        parts = urlsplit(uri)
        user = parts.scheme != "mlflow" and (parts.username is not None or parts.password is not None)
    except ValueError:
        raise _Wrong("source.uri is no URI") from None
    if user:
        raise _Wrong(
            "source.uri holds a user name or password: put it into the Secret of spec.model.credentials"
        )
    if _NO_URI.search(uri):
        raise _Wrong(f"source.uri {uri!r} holds a space, a backslash or a control character")
    if parts.scheme not in _SHAPES:
        raise _Wrong(f"source.uri {uri!r}: the scheme must be one of {', '.join(_SHAPES)}")
    shape, words = _SHAPES[parts.scheme]
    if not shape.fullmatch(uri):
        raise _Wrong(f"source.uri {uri!r} must read {words}")
    if not parts.netloc:
        raise _Wrong(f"source.uri {uri!r} names no host or claim")
    return uri


def _revision(revision: str) -> str:
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise _Wrong(f"source.revision {revision[:80]!r} is no commit, tag or branch")
    return revision


def _endpoint(name: str, endpoint: str) -> str:
    if not endpoint.startswith(("http://", "https://")) or _NO_URI.search(endpoint) or "@" in endpoint:
        raise _Wrong(f"{name} must be an http or https URL without credentials")
    return endpoint.rstrip("/")


def _where(uri: str, endpoint: str, secret: Secret) -> str:
    """Return the endpoint of a source that may or must have one."""
    if uri.startswith("mlflow://") and not endpoint:
        raise _Wrong("endpoint is missing: for mlflow:// it is the address of the tracking server")
    if secret.endpoint:
        _endpoint("AWS_ENDPOINT_URL in the Secret", secret.endpoint)
    return _endpoint("endpoint", endpoint) if endpoint else ""


def _file(entry: Any, number: int) -> File:
    where = f"files[{number}]."
    if not isinstance(entry, dict):
        raise _Wrong(f"files[{number}] must be an object")
    path = checked_path(_get(entry, "path", str, None, where))
    size = entry.get("sizeBytes")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise _Wrong(f"{where}sizeBytes must be a whole number of bytes")
    digest = _get(entry, "sha256", str, "", where).lower()
    if not digest:
        raise Hopeless(
            Reason.NO_DIGEST, f"{path} has no sha256 in spec.model.files: weights are verified before use"
        )
    if not is_sha256(digest):
        raise _Wrong(f"{where}sha256 must be 64 hexadecimal digits")
    return File(path, size, digest)


def _pattern(entry: Any) -> str:
    if not isinstance(entry, str) or not entry:
        raise _Wrong("include must be a list of shell patterns")
    return entry


def _hub_token(uri: str, environment: Mapping[str, str]) -> str | None:
    """Return HF_TOKEN, which is only for hubs."""
    given = environment.get("HF_TOKEN", "").strip() if uri.startswith("hf://") else ""
    if given and not _TOKEN.fullmatch(given):
        raise _Wrong("HF_TOKEN holds characters that no token has")
    return given or None
