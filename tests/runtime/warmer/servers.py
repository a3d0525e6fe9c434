"""Real servers to fetch from, built or installed once into the cache, on loopback only, ended by their process.

An S3 server, a server that speaks Google's API, an OCI registry (Go modules), and MLflow (a venv of its own: it is
heavy, and nothing else here needs it).
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from e2e.cluster.local.build import go_program
from e2e.images.once import cache_directory, digest, locked, made_once

S3 = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
GOOGLE = "github.com/fsouza/fake-gcs-server@v1.56.1"
REGISTRY = "github.com/distribution/distribution/v3/cmd/registry@v3.1.2"
MLFLOW = Path(__file__).parents[3] / "requirements/mlflow-server.lock"
DEADLINE_SECONDS = 60.0


def built(package: str) -> Path:
    """Return the program of a Go module, built on first use."""
    folder = cache_directory() / "servers" / digest(package.encode())

    def build(into: Path) -> None:
        print(f"  building {package}, once", flush=True)
        subprocess.run(
            [go_program(), "install", "-trimpath", "-ldflags=-s -w", package],
            env={**os.environ, "CGO_ENABLED": "0", "GOBIN": str(into), "GOFLAGS": "-buildvcs=false"},
            check=True,
        )

    return made_once(folder, build) / package.partition("@")[0].rsplit("/", 1)[-1]


def mlflow() -> Path:
    """Return the Python of a venv with MLflow, installed on first use from its lock file."""
    folder = cache_directory() / "servers" / f"mlflow-{digest(MLFLOW.read_bytes())}"
    python = folder / "bin" / "python"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "complete").exists():
            print("  installing MLflow, once", flush=True)
            uv = Path(sys.executable).with_name("uv")
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            install = [str(uv), "pip", "install", "-q", "--python", str(python), "--require-hashes"]
            subprocess.run([*install, "-r", str(MLFLOW)], check=True)
            (folder / "complete").touch()
    return python


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def serving(
    command: list[str], url: str, log: Path, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """Run a server until the block ends; it is up when it answers anything."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={"PATH": os.environ["PATH"], "HOME": str(log.parent), **(environment or {})},
            cwd=log.parent,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(process, url, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    with httpx.Client(trust_env=False) as client:
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                client.get(url)
            except httpx.TransportError:
                time.sleep(0.05)  # it is the server that is waited for
            else:
                return
