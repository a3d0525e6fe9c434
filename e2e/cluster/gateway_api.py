"""Gateway API's own definitions, read from the folder of its Go module: nothing of them is copied into the repository."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from e2e.cluster.local.build import go_program

MODULE = "sigs.k8s.io/gateway-api@v1.6.1"


def definition(kind: str) -> Path:
    """Return the file with a CustomResourceDefinition of the standard channel, by its plural: ``httproutes``."""
    with tempfile.TemporaryDirectory() as outside:  # of any module, so that nothing of ours is asked for
        told = subprocess.run(
            [go_program(), "mod", "download", "-json", MODULE],
            cwd=outside,
            env={**os.environ, "GOFLAGS": "-mod=mod"},
            capture_output=True,
            text=True,
            check=True,
        )
    folder = Path(json.loads(told.stdout)["Dir"]) / "config" / "crd" / "standard"
    return folder / f"gateway.networking.k8s.io_{kind}.yaml"
