"""Real Kubernetes clusters for demos, tests and development: ``python -m e2e.cluster up``.

One protocol, three providers: ``local`` (a bare Debian machine, no container engine), ``kind``, ``minikube``.
"""

import shutil
import subprocess

from e2e.cluster.provider import GPU_NODES, Provider

__all__ = ["GPU_NODES", "PROVIDERS", "Provider", "provider_for"]

PROVIDERS = ("local", "kind", "minikube")


def provider_for(name: str, cluster: str) -> Provider:
    """Return a provider by its name; ``auto`` takes kind where Docker and kind are there, else local."""
    from e2e.cluster.kind import KindProvider
    from e2e.cluster.local.cluster import LocalProvider
    from e2e.cluster.minikube import MinikubeProvider

    if name == "auto":
        name = "kind" if _has_kind() else "local"
    match name:
        case "local":
            return LocalProvider(cluster)
        case "kind":
            return KindProvider(cluster)
        case "minikube":
            return MinikubeProvider(cluster)
    raise ValueError(f"no provider {name!r}: use auto, {', '.join(PROVIDERS)}")


def _has_kind() -> bool:
    if not (shutil.which("kind") and shutil.which("docker")):
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
