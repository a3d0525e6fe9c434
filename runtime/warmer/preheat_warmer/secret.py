"""The mounted Secret: which keys of it are read, and that they hold what they should."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KEYS = (
    "token", "username", "password", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION",
    "AWS_ENDPOINT_URL", "key.json",
)  # fmt: skip
DOCKER_CONFIG = ".dockerconfigjson"
"""The one key of a docker-registry Secret: what a node's container runtime shows a registry."""
KEYS_OF = {
    "s3": frozenset({"AWS_ACCESS_KEY_ID"}),
    "gs": frozenset({"AWS_ACCESS_KEY_ID", "token", "key.json"}),
    "oci": frozenset({"username"}),
    "mlflow": frozenset({"token", "username", "AWS_ACCESS_KEY_ID", "key.json"}),
}
"""Scheme -> the keys of which one must be there. A Secret with none of them is the wrong one."""
_PAIRS = (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("username", "password"))
_ONE_WORD = re.compile(r"[\x21-\x7e]+")
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f\ufffd]+")
"""A password may hold spaces and letters of any alphabet."""
_LINES = re.compile(r"[^\x00-\x08\x0e-\x1f\x7f\ufffd]+")
_SHAPES = {"username": _ONE_LINE, "password": _ONE_LINE, "key.json": _LINES}


class WrongSecret(Exception):  # noqa: N818 - private to config; the text goes into InvalidConfig
    """The Secret does not hold what it should. The text never repeats what it holds."""


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """What proves who asks; empty where the Secret has no such key."""

    username: str = ""
    password: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""
    region: str = ""
    endpoint: str = ""
    google_key: str = ""
    """A service account's key, as the JSON that Google gives out."""


def read_secret(folder: Path, uri: str) -> tuple[str, Secret]:
    """Return the token and the rest, for the source that a URI names. Raises WrongSecret."""
    scheme = uri.partition("://")[0]
    given = {name: text for name in KEYS if (text := _read(folder / name)) is not None}
    pull_secret = _read(folder / DOCKER_CONFIG)
    if scheme == "oci" and pull_secret is not None:
        given |= _login(pull_secret, uri.removeprefix("oci://").partition("/")[0])
    _check(given, scheme, mounted=folder.is_dir())
    return given.get("token", ""), Secret(
        username=given.get("username", ""),
        password=given.get("password", ""),
        access_key_id=given.get("AWS_ACCESS_KEY_ID", ""),
        secret_access_key=given.get("AWS_SECRET_ACCESS_KEY", ""),
        session_token=given.get("AWS_SESSION_TOKEN", ""),
        region=given.get("AWS_REGION", ""),
        endpoint=given.get("AWS_ENDPOINT_URL", ""),
        google_key=given.get("key.json", ""),
    )


def _login(pull_secret: str, registry: str) -> dict[str, str]:
    """Return the user name and the password that a docker-registry Secret has for a registry."""
    try:
        known = {_host(name): entry for name, entry in json.loads(pull_secret)["auths"].items()}
        entry = known[registry]
        both = base64.b64decode(entry["auth"]).decode() if entry.get("auth") else ""
        name, _, password = both.partition(":")
        return {
            "username": str(entry.get("username") or name),
            "password": str(entry.get("password") or password),
        }
    except KeyError as error:
        raise WrongSecret(
            f"the Secret of spec.model.credentials knows nothing of the registry {registry}: make it with kubectl "
            f"create secret docker-registry NAME --docker-server={registry} ..."
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise WrongSecret(
            f"{DOCKER_CONFIG} in the Secret of spec.model.credentials cannot be read: make it with kubectl create secret "
            "docker-registry"
        ) from error


def _host(address: str) -> str:
    """Return the registry that an address in a docker-registry Secret means.

    >>> _host("https://index.docker.io/v1/"), _host("r.example:5000")
    ('docker.io', 'r.example:5000')
    """
    host = address.partition("://")[2] or address
    host = host.partition("/")[0]
    return "docker.io" if host == "index.docker.io" else host


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:  # no Secret was named, or it has no such key
        return None


def _check(given: Mapping[str, str], scheme: str, *, mounted: bool) -> None:
    for name, text in given.items():
        pattern = _SHAPES.get(name, _ONE_WORD)
        if text and not pattern.fullmatch(text):
            raise WrongSecret(
                f"{name} in the Secret of spec.model.credentials holds characters that it cannot have: is it a "
                "binary, or a whole line of a file?"
            )
    for first, second in _PAIRS:
        if bool(given.get(first)) != bool(given.get(second)):
            raise WrongSecret(
                f"the Secret of spec.model.credentials must have both keys or none: {first} and {second}"
            )
    wanted = KEYS_OF.get(scheme, frozenset())
    if mounted and wanted and not any(given.get(name) for name in wanted):
        raise WrongSecret(
            f"the Secret of spec.model.credentials has none of the keys that {scheme}:// reads: "
            f"{', '.join(sorted(wanted))}"
        )
