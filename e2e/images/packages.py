"""Fetches Python packages, pinned by hash, and lays them out for an image."""

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON = "3.11"
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (36, 35, 34, 31, 28, 27, 26, 24, 17)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
)
"""What runs on the images' C library (glibc 2.36), newest first; pip does not work this out by itself."""
UNUSED_FOLDERS = ("tests", "__pycache__", "bin")
UNUSED_FILES = ("*.pyi", "*.pyx", "*.pxd", "*.c", "*.h", "*.a")
"""Sources and stubs that a running program never opens. Licences in *.dist-info stay."""


class FetchError(Exception):
    """A package could not be fetched or its hash differs; the message has pip's last lines."""


def download_wheels(lock: Path, into: Path) -> list[Path]:
    """Download exactly the wheels that ``lock`` names; a second call downloads nothing.

    Raises FetchError.
    """
    marker = into / ".complete"
    if not marker.exists():
        _pip("download", "--dest", str(into), lock=lock)
        marker.touch()
    return sorted(into.glob("*.whl"))


def install_packages(lock: Path, into: Path) -> None:
    """Install what ``lock`` names into the folder ``into``, trimmed and compiled.

    Raises FetchError.
    """
    _pip("install", "--no-compile", "--target", str(into), lock=lock)
    trim(into)
    precompile(into)


def trim(site_packages: Path) -> None:
    """Delete what a running program never opens."""
    for name in UNUSED_FOLDERS:
        for folder in [found for found in site_packages.rglob(name) if found.is_dir()]:
            shutil.rmtree(folder, ignore_errors=True)
    for pattern in UNUSED_FILES:
        for file in site_packages.rglob(pattern):
            file.unlink()


def precompile(folder: Path) -> None:
    """Write the byte code beside the sources, in a form that does not look at their times.

    The images run with a read-only root: without it every start compiles everything again. Other versions of
    Python write byte code that 3.11 cannot read, so they write none.
    """
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON:
        return
    compileall.compile_dir(
        folder,
        quiet=2,
        workers=os.cpu_count() or 1,
        stripdir=str(folder),
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _pip(command: str, *arguments: str, lock: Path) -> None:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"),
            *platforms,
            *("--require-hashes", "--requirement", str(lock), *arguments),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise FetchError(f"pip {command} of {lock.name} failed:\n{lines}")
