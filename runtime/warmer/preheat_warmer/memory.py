"""How much memory may be filled with pages of files: what the machine has, and what this container may have."""

from collections.abc import Mapping
from pathlib import Path

SPARE_PART = 20
"""One part in so many of the machine's memory stays free for others: no load is made faster by swapping."""
_UNLIMITED_FROM = 1 << 60
"""The first version of cgroups writes a very large number where there is no limit."""
_FILE_PAGES = ("inactive_file", "active_file")


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes of files may still come into memory without pushing out anything but files."""
    machine = machine_bytes((proc / "meminfo").read_text("ascii"))
    limits = [
        container_bytes(folder) for folder in _folders((proc / "self/cgroup").read_text("utf-8"), cgroups)
    ]
    return max(0, min([machine, *(limit for limit in limits if limit is not None)]))


def machine_bytes(meminfo: str) -> int:
    r"""Return what the machine has left of its memory, the spare part taken off.

    >>> machine_bytes("MemTotal: 2000 kB\nMemFree: 1 kB\nMemAvailable: 1000 kB")
    921600
    """
    found = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    total, available = (int(found[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return available - total // SPARE_PART


def container_bytes(folder: Path) -> int | None:
    """Return what a cgroup's limit leaves besides what is no file's; None where there is no limit.

    Pages of files that it holds already make room for others.
    """
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            most = (folder / limit).read_text("ascii").strip()
            now = int((folder / used).read_text("ascii"))
            held = _stat((folder / "memory.stat").read_text("ascii"))
        except (OSError, ValueError):
            continue
        if most == "max" or int(most) >= _UNLIMITED_FROM:
            return None
        return int(most) - now + sum(held.get(f"total_{name}", held.get(name, 0)) for name in _FILE_PAGES)
    return None


def _folders(membership: str, cgroups: Path) -> list[Path]:
    """Return the folders of the cgroups that this process is in, outer ones too.

    In a container its own cgroup is at the top, whatever the membership says.
    """
    found = []
    for line in membership.splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        top = cgroups if number == "0" else cgroups / "memory"
        inner = Path(path.lstrip("/"))
        found += [top, *(top / part for part in [inner, *inner.parents] if part != Path())]
    return found


def _stat(text: str) -> Mapping[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}
