"""The warmer as its Job runs it: a process with a configuration, a folder and a termination log."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.warmer.origin import Origin
from tests.runtime.warmer.run import Run, Start, launched


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Callable[[dict[str, str]], str]:
    """Mount a Secret with these keys; return where."""

    def mount(keys: dict[str, str]) -> str:
        folder = tmp_path / f"secret-{len(list(tmp_path.glob('secret-*')))}"
        folder.mkdir()
        for name, text in keys.items():
            (folder / name).write_text(text)
        return str(folder)

    return mount


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Start]:
    """Start a process with this very configuration."""
    runs: list[Run] = []

    def starter(
        config: dict[str, Any], *, environment: dict[str, str] | None = None, file_limit: int | None = None
    ) -> Run:
        last_words = tmp_path / f"last-words-{len(runs)}"
        run = launched(config, last_words, environment)
        if file_limit is not None:
            resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (file_limit, file_limit))
        runs.append(run)
        return run

    yield starter
    for run in runs:
        if run.process.poll() is None:
            run.kill()


@pytest.fixture
def start(cache: Path, task: Start) -> Start:
    """Start a warmer."""

    def starter(
        uri: str,
        revision: str = "",
        *,
        environment: dict[str, str] | None = None,
        file_limit: int | None = None,
        **more: Any,
    ) -> Run:
        source = {"uri": uri, "revision": revision}
        config = {"source": source, "destination": str(cache), "listenPort": 0, **more}
        return task(config, environment=environment, file_limit=file_limit)

    return starter


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin().running() as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[Origin]:
    """Another host."""
    with Origin("127.0.0.2").running() as running:
        yield running
