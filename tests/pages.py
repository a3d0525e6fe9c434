"""The pages of the documentation: what people copy must work, and what they look up must be there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_FOLDERS = ("charts", "crds", "docs", "e2e", "examples", "operator", "requirements", "runtime", "tests")


def pages() -> list[Path]:
    """Return every page of the repository, in the order of their paths."""
    inside = (page for folder in _FOLDERS for page in (ROOT / folder).rglob("*.md"))
    return sorted([*ROOT.glob("*.md"), *inside])


def blocks(page: Path) -> Iterator[tuple[int, list[Any]]]:
    """Yield each YAML block of a page: its line, and the documents in it."""
    text = page.read_text()
    for found in re.finditer(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, found.start()) + 1, list(yaml.safe_load_all(found[1]))


def manifests(page: str) -> dict[str, dict[str, Any]]:
    """Return every whole object in the YAML blocks of a page of docs/, by its name."""
    bodies = (body for _, found in blocks(DOCS / page) for body in found)
    return {body["metadata"]["name"]: body for body in bodies if "apiVersion" in body}


def section(page: Path, title: str) -> str:
    """Return the text below a heading, up to the next one of its level."""
    return page.read_text().split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return what a link may name behind its `#`: the headings, as GitHub writes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
