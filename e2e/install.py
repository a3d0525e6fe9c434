"""Builds the images and installs the operator with Helm: the same for the demo and the tests."""

import json
import subprocess
import sys
from pathlib import Path

from e2e.cluster.provider import ROOT
from e2e.images.once import cache_directory
from e2e.tools import helm

NAMES = ("operator", "agent", "warmer", "front", "triton-cpu", "model-store")
TAG = "dev"
SYSTEM = "preheat-system"


def image_archives() -> dict[str, Path]:
    """Build what changed; return every image's archive."""
    subprocess.run([sys.executable, "-m", "e2e.images", "build", "--tag", TAG], cwd=ROOT, check=True)
    index = json.loads((cache_directory() / "images" / "index.json").read_text())
    return {name: Path(index[name]["tar"]) for name in NAMES}


def install_operator(kubeconfig: Path) -> None:
    """Install or upgrade the chart and wait until the operator is ready."""
    subprocess.run(
        [str(helm()), "upgrade", "--install", "preheat", str(ROOT / "charts" / "preheat"),
         "--kubeconfig", str(kubeconfig), "--namespace", SYSTEM, "--create-namespace",
         "--set", f"images.tag={TAG}", "--set", "images.pullPolicy=IfNotPresent", "--wait", "--timeout", "120s"],
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
