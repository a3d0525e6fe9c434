"""The warmer's configuration: the JSON in PREHEAT_WARMER_CONFIG, read once (contract: ../README.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preheat_warmer.errors import Hopeless, Reason
from preheat_warmer.manifest import File, checked_path

VARIABLE = "PREHEAT_WARMER_CONFIG"
CREDENTIALS = Path("/var/run/secrets/preheat/credentials")


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
    max_bytes_per_second: float | None
    parallelism: int
    token: str | None


def from_environment(environment: Mapping[str, str], credentials: Path = CREDENTIALS) -> Config:
    """Return the configuration. Raises Hopeless, naming the field that is missing or wrong."""
    text = environment.get(VARIABLE)
    if not text:
        raise Hopeless(Reason.INVALID_CONFIG, f"{VARIABLE} is not set: it holds the configuration as JSON")
    try:
        given = json.loads(text)
        return _config(given, _token(environment, credentials))
    except KeyError as error:
        raise Hopeless(Reason.INVALID_CONFIG, f"{VARIABLE}: field {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise Hopeless(Reason.INVALID_CONFIG, f"{VARIABLE}: {error}") from error


def _config(given: Mapping[str, Any], token: str | None) -> Config:
    limit = given.get("maxBytesPerSecond")
    return Config(
        uri=str(given["source"]["uri"]),
        revision=str(given["source"].get("revision") or ""),
        hf_endpoint=str(given.get("hfEndpoint") or "https://huggingface.co").rstrip("/"),
        files=tuple(
            File(checked_path(str(f["path"])), f.get("sizeBytes"), str(f["sha256"]).lower())
            for f in given.get("files") or ()
        ),
        include=tuple(str(pattern) for pattern in given.get("include") or ()),
        allow_pickle=bool(given.get("allowPickle", False)),
        destination=Path(str(given["destination"])),
        source_directory=Path(str(given.get("sourceDirectory") or "/source")),
        listen_port=int(given.get("listenPort", 9081)),
        max_bytes_per_second=float(limit) if limit else None,
        parallelism=max(1, int(given.get("parallelism", 4))),
        token=token,
    )


def _token(environment: Mapping[str, str], credentials: Path) -> str | None:
    try:
        return (credentials / "token").read_text().strip() or None
    except OSError:
        return environment.get("HF_TOKEN") or None
