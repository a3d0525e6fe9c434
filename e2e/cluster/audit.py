"""What somebody asked of an API server, read from its audit log, in the words of RBAC."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.provider import ROOT

OPERATOR = "system:serviceaccount:preheat-system:preheat"
"""Who the operator is for the API server, installed as the README says."""
CALLS = ROOT / "build" / "calls"
"""Where each session of tests leaves the calls that the operator made in it."""
DISCOVERY = ("/api", "/apis", "/version", "/openapi")
"""What everybody who is known may read: which kinds there are, not what is in them."""
PATHS = ("/openid/v1/jwks",)
"""What is no object and has rights of its own."""


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """One kind of call: what a right in a role allows."""

    verb: str
    group: str
    resource: str
    subresource: str = ""

    @property
    def words(self) -> str:
        """As a person would say it: `patch preheat.dev llmdeployments/status`."""
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return f"{self.verb} {self.group or 'core'} {resource}"


def requests(log: Path, user: str = OPERATOR) -> Iterator[dict[str, Any]]:
    """Return what a user asked, in order: entries of the log and of those that it was rotated into.

    What others asked in a user's name (impersonation) is not the user's.
    """
    for path in sorted(log.parent.glob(f"{log.stem}*{log.suffix}"), key=lambda path: path.stat().st_mtime):
        with path.open() as lines:
            for line in lines:
                entry: dict[str, Any] = json.loads(line) if f'"{user}"' in line else {}
                if entry.get("user", {}).get("username") == user and "impersonatedUser" not in entry:
                    yield entry


def calls(log: Path, user: str = OPERATOR) -> set[Call]:
    """Return every kind of call that a user made. Raises ValueError for one outside the API of objects."""
    found: set[Call] = set()
    for entry in requests(log, user):
        target = entry.get("objectRef")
        if target is None:
            path = entry["requestURI"].split("?")[0]
            if path in PATHS:
                found.add(Call(entry["verb"], "", path))
                continue
            if entry["verb"] != "get" or not path.startswith(DISCOVERY):
                raise ValueError(f"{user} asked for {entry['verb']} {path}")
            continue
        if "resource" not in target:  # discovery of a group's kinds
            continue
        where = target.get("apiGroup", ""), target["resource"], target.get("subresource", "")
        found.add(Call(entry["verb"], *where))
        if entry["verb"] == "patch" and entry.get("responseStatus", {}).get("code") == 201:
            found.add(Call("create", *where))  # an apply that made the object: RBAC asks for both
    return found


def keep_calls(session: str, made: set[Call]) -> None:
    """Leave a session's calls for `make test-rbac`: each of pytest's workers its own."""
    CALLS.mkdir(parents=True, exist_ok=True)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    session = f"{session}-{worker}" if worker else session
    rows = [[call.verb, call.group, call.resource, call.subresource] for call in sorted(made)]
    text = ",\n ".join(json.dumps(row) for row in rows)
    (CALLS / f"{session}.json").write_text(f"[{text}]\n")


def kept_calls() -> dict[str, set[Call]]:
    """Return what the sessions left, by session."""
    return {
        path.stem: {Call(*row) for row in json.loads(path.read_text())}
        for path in sorted(CALLS.glob("*.json"))
    }
