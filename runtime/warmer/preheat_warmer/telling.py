"""What a run tells: log lines, and the last words that outlive its process."""

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LAST_WORDS = "/dev/termination-log"
LAST_WORDS_LIMIT_BYTES = 4000
"""The kubelet cuts at 4096 bytes, and half a JSON says nothing."""
SHORTENED = ("young", "inUse", "stuck", "corrupt", "message")
"""What is cut from its end when the words do not fit, the least important first; counts beside it stay right."""


def log(message: str, **fields: Any) -> None:
    """Write a line."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "message": message, **fields}
    print(json.dumps(line, default=str), file=sys.stderr, flush=True)


def say_last(words: Mapping[str, Any]) -> None:
    """Leave the last words where the kubelet looks for them."""
    path = Path(os.environ.get("PREHEAT_TERMINATION_LOG", LAST_WORDS))
    try:
        path.write_text(last_words(words))
    except OSError as error:
        log("last words not written", detail=str(error))


def last_words(words: Mapping[str, Any]) -> str:
    """Return them as JSON that fits; messages and lists are shortened for it."""
    text = json.dumps(words)
    while len(text) > LAST_WORDS_LIMIT_BYTES:
        name = next(name for name in SHORTENED if words.get(name))
        words = {**words, name: _shorter(words[name])}
        text = json.dumps(words)
    return text


def _shorter(value: Any) -> Any:
    """Return the first three quarters of a text, a list or an object."""
    end = len(value) * 3 // 4
    return dict(list(value.items())[:end]) if isinstance(value, Mapping) else value[:end]
