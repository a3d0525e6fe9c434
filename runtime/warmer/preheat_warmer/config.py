"""The warmer's configuration: the JSON in PREHEAT_WARMER_CONFIG, read once (contract: ../README.md)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import File, checked_path, is_sha256
from preheat_warmer.secret import Secret, WrongSecret, read_secret

VARIABLE = "PREHEAT_WARMER_CONFIG"
CREDENTIALS = Path("/var/run/secrets/preheat/credentials")
HUB = "https://huggingface.co"
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

    @property
    def scheme(self) -> str:
        """Return what kind of source the URI names: hf, http, https, pvc, s3, gs, oci or mlflow."""
        return self.uri.partition("://")[0]


class _Wrong(Exception):  # noqa: N818 - private; the text goes into InvalidConfig
    """A field is missing or wrong."""


def from_environment(environment: Mapping[str, str], credentials: Path = CREDENTIALS) -> Config:
    """Return the configuration. Raises Hopeless, naming the field that is missing or wrong."""
    text = environment.get(VARIABLE)
    if not text:
        raise Hopeless(Reason.INVALID_CONFIG, f"{VARIABLE} is not set: it holds the configuration as JSON")
    try:
        given = json.loads(text)
        if not isinstance(given, dict):
            raise _Wrong("must be a JSON object")  # noqa: TRY301 - one door for everything wrong
        return _config(given, environment, credentials)
    except (ValueError, RecursionError) as error:
        raise Hopeless(Reason.INVALID_CONFIG, f"{VARIABLE} is no JSON: {error}") from error
    except (_Wrong, WrongSecret) as error:
        raise Hopeless(Reason.INVALID_CONFIG, f"{VARIABLE}: {error}") from error


def _config(given: Mapping[str, Any], environment: Mapping[str, str], credentials: Path) -> Config:
    source = _get(given, "source", dict, None)
    uri = _uri(_get(source, "uri", str, None, "source."))
    mounted = Path(_get(given, "credentialsDirectory", str, str(credentials)))
    token, secret = read_secret(mounted, uri.partition("://")[0])
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
    )


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
