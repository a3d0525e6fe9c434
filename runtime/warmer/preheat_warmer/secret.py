"""The mounted Secret: which keys of it are read, and that they hold what they should."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KEYS = (
    "token", "username", "password", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION",
    "AWS_ENDPOINT_URL",
)  # fmt: skip
KEYS_OF = {
    "s3": frozenset({"AWS_ACCESS_KEY_ID"}),
    "gs": frozenset({"AWS_ACCESS_KEY_ID", "token"}),
    "oci": frozenset({"username"}),
    "mlflow": frozenset({"token", "username", "AWS_ACCESS_KEY_ID"}),
}
"""Scheme -> the keys of which one must be there. A Secret with none of them is the wrong one."""
_PAIRS = (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("username", "password"))
_ONE_WORD = re.compile(r"[\x21-\x7e]+")
_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f\ufffd]+")
"""A password may hold spaces and letters of any alphabet."""


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


def read_secret(folder: Path, scheme: str) -> tuple[str, Secret]:
    """Return the token and the rest. Raises WrongSecret."""
    given = {name: text for name in KEYS if (text := _read(folder / name)) is not None}
    _check(given, scheme, mounted=folder.is_dir())
    return given.get("token", ""), Secret(
        username=given.get("username", ""),
        password=given.get("password", ""),
        access_key_id=given.get("AWS_ACCESS_KEY_ID", ""),
        secret_access_key=given.get("AWS_SECRET_ACCESS_KEY", ""),
        session_token=given.get("AWS_SESSION_TOKEN", ""),
        region=given.get("AWS_REGION", ""),
        endpoint=given.get("AWS_ENDPOINT_URL", ""),
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:  # no Secret was named, or it has no such key
        return None


def _check(given: Mapping[str, str], scheme: str, *, mounted: bool) -> None:
    for name, text in given.items():
        pattern = _ONE_LINE if name in {"username", "password"} else _ONE_WORD
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
