"""Compares text with files that are read in review. ``make golden`` writes them anew."""

import os
from pathlib import Path


def check(path: Path, text: str) -> None:
    """Fail when a file does not hold this text; write it when PREHEAT_GOLDEN=write."""
    if os.environ.get("PREHEAT_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path.name} is not there: make golden"
    assert path.read_text() == text, f"{path} is not what is made now: make golden, and look at the diff"
