"""Starts and ends the cluster's processes. Each carries a mark in its environment, so that all of them are
found again after a crash, children and shims included, whatever pid files say."""

import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
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


def marked(mark: str, cgroups: Collection[str] = ()) -> Iterator[int]:
    """Return the pids of every process with this mark, or in one of these cgroups (what runs in pods has no mark)."""
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            found = wanted in (folder / "environ").read_bytes().split(b"\0")
            found = found or is_in_cgroup((folder / "cgroup").read_text(), cgroups)
        except OSError:
            continue
        if found:
            yield int(folder.name)


def is_in_cgroup(membership: str, cgroups: Collection[str]) -> bool:
    """Tell whether /proc/PID/cgroup names one of these cgroups, or one below it.

    Whole names: cluster `x` must not end what belongs to cluster `x-a`.
    """
    paths = (line.split(":", 2)[-1] for line in membership.splitlines())
    return any(name in cgroups for path in paths for name in path.split("/"))


def end_all(mark: str, cgroups: Collection[str] = (), seconds: float = 20.0) -> None:
    """Kill every process of this mark. What they wrote is thrown away, so there is nothing for them to finish.

    It looks again until there are none: a kubelet may start one more while it is being killed.
    Raises TimeoutError if one remains.
    """
    deadline = time.monotonic() + seconds
    ended: set[int] = set()
    while pids := {*marked(mark, cgroups), *filter(_is_running, ended)}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(pids)} of cluster {mark} do not end")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= pids
        time.sleep(0.05)
    _reap(ended)


def _is_running(pid: int) -> bool:
    """Tell whether a process still holds anything: one that is ending has lost its mark, but not its namespaces."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _reap(pids: Collection[int]) -> None:
    """Collect those that were our children. Only those: somebody else's child is for them to wait for."""
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
