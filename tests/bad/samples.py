"""Applies samples to a real API server and judges its answers. Shared by the table and by pytest."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent

Kubectl = Callable[..., subprocess.CompletedProcess[str]]
"""Runs kubectl with these arguments, and a text as its ``stdin``."""

_ANSWER_IS_A_PATTERN = re.compile(r"should match '")


@dataclass(frozen=True, slots=True)
class Sample:
    """A file below tests/bad. ``bodies``: the bad object, after a good one where the change is what is bad."""

    name: str
    wrong: str
    field: str
    words: str
    bodies: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer that a user sees, and what it lacks (empty when it is as it should be)."""

    sample: Sample
    answer: str
    lacks: str

    @property
    def good(self) -> bool:
        return not self.lacks


def read_all() -> list[Sample]:
    """Return every sample, by name."""
    return [read(path) for path in sorted(FOLDER.glob("*/*.yaml"))]


def read(path: Path) -> Sample:
    """Return one sample. Raises ValueError for a file without its three lines of expectation."""
    text = path.read_text()
    name = str(path.relative_to(FOLDER))
    said = dict(re.findall(r"^# (Wrong|Field|Answer): (.+)$", text, re.MULTILINE))
    if said.keys() != {"Wrong", "Field", "Answer"}:
        raise ValueError(f"{name}: needs the comments Wrong, Field and Answer, see tests/bad/README.md")
    bodies = tuple(body for body in yaml.safe_load_all(text) if body is not None)
    return Sample(name, said["Wrong"], said["Field"], said["Answer"], bodies)


def judge(sample: Sample, kubectl: Kubectl, namespace: str) -> Verdict:
    """Apply a sample; say what the answer lacks. Nothing of it is left afterwards."""
    *good, bad = sample.bodies
    try:
        for body in good:
            accepted = _apply(kubectl, namespace, body)
            if accepted.returncode:
                return Verdict(sample, accepted.stderr.strip(), "the good object before it is refused")
        result = _apply(kubectl, namespace, bad, *([] if good else ["--dry-run=server"]))
    finally:
        for body in good:
            kind, name = body["kind"], body["metadata"]["name"]
            kubectl("-n", namespace, "delete", kind, name, "--ignore-not-found", "--wait=false")
    if result.returncode == 0:
        return Verdict(sample, result.stdout.strip(), "it was accepted")
    answer = result.stderr.strip()
    return Verdict(sample, answer, _lacks(sample, answer))


def _apply(
    kubectl: Kubectl, namespace: str, body: dict[str, Any], *flags: str
) -> subprocess.CompletedProcess[str]:
    return kubectl("-n", namespace, "apply", *flags, "-f", "-", stdin=json.dumps(body))


def _lacks(sample: Sample, answer: str) -> str:
    """Say what keeps an answer from helping: it must name the field, say what to do, and not in a pattern."""
    if sample.field not in answer:
        return f"it does not name {sample.field}"
    if sample.words not in answer:
        return f"it does not say {sample.words!r}"
    if _ANSWER_IS_A_PATTERN.search(answer):
        return "it shows a regular expression"
    return ""
