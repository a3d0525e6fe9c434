"""The API server's own account of who asked for what: its audit log, as values."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

OPERATOR, BARE, CREATOR = "preheat-operator", "bare-client", "creator"
WRITES = ("create", "update", "patch", "delete", "deletecollection")

RULES = (
    {"level": "Request", "users": [OPERATOR, BARE], "verbs": list(WRITES)},
    {"level": "Metadata", "users": [OPERATOR, BARE]},
    {"level": "Metadata", "users": [CREATOR], "verbs": ["create"]},
    {"level": "None"},
)
"""What of whom is logged: everything that the operator asks for, with the bodies of its writes."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call. ``at``: when it was answered, in seconds since 1970 by the API server's clock."""

    user: str
    at: float
    verb: str
    resource: str
    """With its subresource: ``llmdeployments/status``."""
    namespace: str
    name: str
    code: int
    uri: str
    body: dict[str, Any] | None

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES

    @property
    def is_watch(self) -> bool:
        return self.verb == "watch"


def calls(log: Path, since_byte: int = 0, until_byte: int | None = None) -> list[Call]:
    """Return every call in a part of the log, in the order of their answers."""
    return sorted(_read(log, since_byte, until_byte), key=lambda call: call.at)


def _read(log: Path, position: int, until_byte: int | None) -> Iterator[Call]:
    with log.open("rb") as lines:
        lines.seek(position)
        for line in lines:
            position += len(line)
            if not line.endswith(b"\n") or (until_byte is not None and position > until_byte):
                return
            entry = json.loads(line)
            # A watch is one call: when it is answered, not when it ends.
            if entry["verb"] == "watch" and entry["stage"] != "ResponseStarted":
                continue
            about = entry.get("objectRef") or {}
            sub = about.get("subresource")
            yield Call(
                user=entry["user"]["username"],
                at=datetime.fromisoformat(entry["stageTimestamp"]).timestamp(),
                verb=entry["verb"],
                resource=about.get("resource", "") + (f"/{sub}" if sub else ""),
                namespace=about.get("namespace", ""),
                name=about.get("name", ""),
                code=(entry.get("responseStatus") or {}).get("code", 0),
                uri=entry["requestURI"],
                body=entry.get("requestObject"),
            )


def subject_of(call: Call) -> tuple[str, str] | None:
    """Return (namespace, name) of the LLMDeployment that a write is for, None where it is for several."""
    text = f"{call.uri} {json.dumps(call.body)}"
    namespace, name = re.search(r"\bbench-\d+\b", text), re.search(r"\bm-\d{4}\b", text)
    return (namespace[0], name[0]) if namespace and name and call.resource != "nodes" else None


def of(user: str, found: Sequence[Call]) -> list[Call]:
    """Return one user's calls."""
    return [call for call in found if call.user == user]
