"""Makes a small Debian with Python 3.11: the stand-in for the official Python image where no registry is reached."""

import shutil
import subprocess
import tempfile
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "libgomp1", "libpython3.11", "python3")
UNUSED = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data",
)


class BaseError(Exception):
    """Debian could not be fetched; the message has debootstrap's last lines."""


def make_base(cache: Path) -> Path:
    """Return a tar of the root file system, made on first use. Needs root and debootstrap. Raises BaseError."""
    archive = cache / f"images/base-{SUITE}.tar"
    if archive.exists():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        root = Path(folder) / "root"
        _run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root))
        _shrink(root)
        # The byte code must not look at file times: images set them all to 0.
        compile_all = ("python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
        _run("chroot", str(root), *compile_all, "-x", "/test", "/usr/lib/python3.11")
        partial = archive.with_suffix(".partial")
        _run(
            "tar",
            "-C",
            str(root),
            "--numeric-owner",
            "--sort=name",
            "--exclude=./dev/*",
            "-cf",
            str(partial),
            ".",
        )
        partial.rename(archive)
    return archive


def _shrink(root: Path) -> None:
    for name in UNUSED:
        shutil.rmtree(root / name, ignore_errors=True)
    (root / "var/log").mkdir()
    for file in (root / "usr/share/doc").rglob("*"):
        if file.is_file() and file.name != "copyright":
            file.unlink()
    for cache in [*root.rglob("__pycache__")]:
        shutil.rmtree(cache)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        lines = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise BaseError(f"{command[0]} ended with {done.returncode}:\n{lines}")
