"""The definitions against those of the last release: whoever upgrades keeps what works, or is told why not."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.releases.changes import breaking_changes
from tests.releases.last import RELEASES, last_release

ROOT = Path(__file__).parents[3]


def acknowledged(release: Path) -> dict[str, str]:
    """Return the changes that were decided, with the reason for each."""
    entries = yaml.safe_load((release / "allowed.yaml").read_text()) or ()
    return {entry["change"]: entry["reason"] for entry in entries}


def changes(release: Path) -> list[str]:
    found: list[str] = []
    for path in sorted((release / "crds").glob("*.yaml")):
        new = ROOT / "crds" / path.name
        assert new.exists(), f"the definition {path.name} of release {release.name} is gone"
        found += breaking_changes(_read(path), _read(new))
    return found


def test_nothing_that_works_with_the_last_release_breaks() -> None:
    release = last_release()
    unknown = [change for change in changes(release) if change not in acknowledged(release)]
    assert not unknown, (
        f"These changes of crds/ could break users of release {release.name}:\n\n"
        + "\n".join(f"  {change}" for change in unknown)
        + "\n\nChange the API types so that they allow what they allowed. Where nothing that is refused now could "
        f"ever have worked, acknowledge the change in {release.relative_to(ROOT)}/allowed.yaml, with the reason:\n\n"
        + "\n".join(f"- change: {change!r}\n  reason: …" for change in unknown)
    )


def test_every_acknowledged_change_is_there_and_has_a_reason() -> None:
    release = last_release()
    found = changes(release)
    for change, reason in acknowledged(release).items():
        assert change in found, f"{change} is not a change any more: remove it from allowed.yaml"
        assert len(reason.split()) >= 4, f"{change}: say why it breaks nobody"


@pytest.mark.parametrize("name", ["llmdeployments", "modelcaches"])
def test_a_kept_release_is_the_release(name: str) -> None:
    """A definition differs from itself in nothing, and the check reads all of it."""
    body = _read(RELEASES / "0.1.0" / "crds" / f"{name}.yaml")
    assert body["metadata"]["name"] == f"{name}.preheat.dev"
    assert breaking_changes(body, body) == []


def _read(path: Path) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load(path.read_text())
    return body
