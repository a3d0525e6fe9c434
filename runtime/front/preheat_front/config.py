"""The front's configuration: the JSON in PREHEAT_FRONT_CONFIG, read once (contract: ../README.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VARIABLE = "PREHEAT_FRONT_CONFIG"
HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
"""What Kubernetes tells every pod of its API server."""
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class ConfigError(ValueError):
    """The configuration cannot work. The message names the field."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the front is told. Times in seconds."""

    api_server: str
    """URL without a slash at its end."""
    account: str
    """The folder with our token and the API server's certificate; what is not there is not used."""
    control_port: int
    first_port: int
    last_port: int
    """A deployment's port lies between the two, both included. A slice that names another is not listened to."""
    connections: int
    """The most that are held open; one more, and the oldest is cut off."""
    head_seconds: float
    """How long a client may take to say what it wants."""
    linger_seconds: float
    """How long what a client still sends is read and dropped, so that it gets to read its answer."""
    drain_seconds: float
    """How long it goes on answering when it is told to end: by then no slice has its address."""


def from_environment(environment: Mapping[str, str]) -> Config:
    """Return the configuration. Raises ConfigError with the field that is missing or wrong."""
    try:
        given = json.loads(environment.get(VARIABLE) or "{}")
    except ValueError as error:
        raise ConfigError(f"{VARIABLE} is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{VARIABLE} must be a JSON object")
    try:
        return _config(given, environment)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{VARIABLE}: {error}") from error


def _config(given: Mapping[str, Any], environment: Mapping[str, str]) -> Config:
    first, last = _whole(given, "firstPort", 20000), _whole(given, "lastPort", 23999)
    if not 1024 <= first <= last <= 65535:
        raise ConfigError(
            f"firstPort and lastPort must lie in order between 1024 and 65535, not {first}, {last}"
        )
    return Config(
        api_server=str(given.get("apiServer") or _in_cluster(environment)).rstrip("/"),
        account=str(given.get("account", ACCOUNT)),
        control_port=_whole(given, "controlPort", 9083),
        first_port=first,
        last_port=last,
        connections=max(1, _whole(given, "connections", 512)),
        head_seconds=float(given.get("headSeconds", 5)),
        linger_seconds=float(given.get("lingerSeconds", 2)),
        drain_seconds=float(given.get("drainSeconds", 5)),
    )


def _in_cluster(environment: Mapping[str, str]) -> str:
    host, port = environment.get(HOST), environment.get(PORT)
    if not host or not port:
        raise ConfigError(f"apiServer is missing, and so are {HOST} and {PORT}: it runs in no cluster")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _whole(given: Mapping[str, Any], field: str, default: int) -> int:
    value = given.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{field} is {value!r}: it must be a whole number")
    return value
