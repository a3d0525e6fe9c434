"""The task that reads published weights into the page cache, as its Job runs it."""

import os
from pathlib import Path

from tests.runtime.warmer.origin import Origin
from tests.runtime.warmer.run import Start
from tests.runtime.warmer.test_sources import some_bytes


def test_published_weights_are_read_into_memory(origin: Origin, start: Start, cache: Path) -> None:
    content = some_bytes(5 << 20)
    origin.folder("m", {"a.gguf": content})
    start(f"{origin.url}/m/").published()
    with (cache / "model/a.gguf").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    run = start("", task="page")
    assert run.end() == 0, run.log
    words = run.words
    assert words.pop("seconds") < 10
    assert words == {
        "state": "Paged", "residentBytes": len(content), "residentBytesBefore": 0, "bytesRead": len(content),
        "bytesTotal": len(content),
    }  # fmt: skip


def test_where_nothing_is_published(start: Start) -> None:
    start("", task="page").failed(2, "NotFound")
    start("", task="pages").failed(2, "InvalidConfig")
