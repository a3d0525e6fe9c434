"""The manifests on a page of the documentation: what people copy must work."""

import re
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).parents[1] / "docs"


def manifests(page: str) -> dict[str, dict[str, Any]]:
    """Return every whole object in the YAML blocks of a page, by its name."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    bodies = [body for block in blocks for body in yaml.safe_load_all(block)]
    return {body["metadata"]["name"]: body for body in bodies if "apiVersion" in body}
