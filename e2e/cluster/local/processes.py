"""Starts and ends the cluster's processes. Each carries a mark in its environment, so that all of them are
found again after a crash, children and shims included, whatever pid files say."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

MARK = "PREHEAT_CLUSTER"


def start(mark: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> int:
    """Start a process in a session of its own, with its output in a file; return its pid. It outlives us."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            list(command),
            env={**os.environ, **(environment or {}), MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    process.returncode = 0  # nobody waits for it: without this, Python warns that it still runs
    return process.pid


def marked(mark: str, cgroup: str | None = None) -> Iterator[int]:
    """Return the pids of every process with this mark, or in a cgroup below this name."""
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            found = wanted in (folder / "environ").read_bytes().split(b"\0")
            if not found and cgroup is not None:
                found = f"/{cgroup}" in (folder / "cgroup").read_text()
        except OSError:
            continue
        if found and int(folder.name) != os.getpid():
            yield int(folder.name)


def end_all(mark: str, cgroup: str | None = None, patience: float = 3.0) -> None:
    """End every marked process: SIGTERM, and SIGKILL to those that stay. Raises TimeoutError if one remains."""
    deadline = time.monotonic() + patience
    kind = signal.SIGTERM
    last_word = deadline + 20
    while pids := list(marked(mark, cgroup)):
        if time.monotonic() > deadline:
            kind = signal.SIGKILL
        if time.monotonic() > last_word:
            raise TimeoutError(f"processes {pids} of cluster {mark} do not end")
        for pid in pids:
            try:
                os.kill(pid, kind)
            except ProcessLookupError:
                continue
        _reap()
        time.sleep(0.1)


def _reap() -> None:
    """Collect children that ended, so that they do not look alive."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
