"""etcd and kube-apiserver, real ones, as plain processes: what the integration tests run against.

    with ControlPlane(Path("/tmp/x")) as plane:
        kubectl(plane.kubeconfig, "get", "namespaces")

Several can run at once: every port is one that was free.
"""

import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from e2e.cluster.local import processes
from e2e.cluster.local.build import binaries
from e2e.cluster.provider import wait_for

ADMIN = "admin"
FRONT_PROXY = "front-proxy-client"
ADMISSION = "NodeRestriction,OwnerReferencesPermissionEnforcement"
"""On top of the default ones. The second is on in some distributions, and asks for rights that others do not."""


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def write_certificate(path: Path, name: str, *more: str) -> None:
    """Write NAME.key and NAME.crt, good for a month. ``more``: what else openssl is told, a signer for example."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-subj", f"/CN={name}", "-keyout", f"{path}.key", "-out", f"{path}.crt", *more],
        check=True, capture_output=True,
    )  # fmt: skip


class ControlPlane:
    """etcd + kube-apiserver on one address, and the controller-manager where ``controllers`` names some.

    ``controllers`` is its own ``--controllers``: "*" for all, "*,-node-lifecycle-controller" where nodes are
    objects that nobody runs. ``controllers_qps``: how many calls a second each of them may make, its own default
    (20) without. ``audit_rules``: what the audit log tells of whom, in the words of an audit policy.
    ``aggregates``: whether it asks API servers of others (an APIService) in the name of who asks it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mark: str | None = None,
        address: str = "127.0.0.1",
        services: str = "10.96.0.0/16",
        controllers: str = "",
        audit: bool = False,
        audit_rules: Sequence[Mapping[str, Any]] = ({"level": "Metadata"},),
        controllers_qps: int = 0,
        aggregates: bool = False,
    ) -> None:
        self.folder = folder
        self.mark = mark or f"plane-{os.getpid()}-{secrets.token_hex(4)}"
        self.address = address
        self.services = services
        self.controllers = controllers
        self.controllers_qps = controllers_qps
        self.audit_log = folder / "audit.log" if audit else None
        self._audit_rules = list(audit_rules)
        self._aggregates = aggregates
        self.kubeconfig = folder / "kubeconfig"
        self.port = free_port(address)
        self._tokens: dict[str, str] = {}
        self._groups: dict[str, str] = {}
        self.add_user(ADMIN, "system:masters")

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"

    @property
    def certificate(self) -> Path:
        """The API server's own certificate, which is its own authority."""
        return self.folder / "certs" / "apiserver.crt"

    @property
    def token(self) -> str:
        """The administrator's token. Pods and other people on this machine reach the port, so it is a secret."""
        return self._tokens[ADMIN]

    def add_user(self, name: str, group: str) -> None:
        """Let somebody in. Only before start()."""
        self._tokens[name] = secrets.token_hex(16)
        self._groups[name] = group

    def start(self) -> None:
        """Start, and wait until the API server is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kubernetes = str(binaries() / "kubernetes")
        # etcd asks nobody who they are: never on an address that pods reach.
        etcd, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._run(
            "etcd", kubernetes, "etcd", "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", f"default={peers}", "--log-level", "warn",
        )  # fmt: skip
        key = self.folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(
            "".join(f'{token},{name},{name},"{self._groups[name]}"\n' for name, token in self._tokens.items())
        )
        arguments = [
            "--etcd-servers", etcd, "--bind-address", self.address, "--advertise-address", self.address,
            "--secure-port", str(self.port), "--cert-dir", str(self.folder / "certs"),
            "--service-account-key-file", str(key), "--service-account-signing-key-file", str(key),
            "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
            "--token-auth-file", str(tokens), "--authorization-mode", "Node,RBAC",
            "--enable-admission-plugins", ADMISSION, "--service-cluster-ip-range", self.services,
            "--kubelet-preferred-address-types", "InternalIP", "--allow-privileged=true",
            *self._audit(), *self._aggregation(),
        ]  # fmt: skip
        self._run("kube-apiserver", kubernetes, "kube-apiserver", *arguments)
        wait_for(f"kube-apiserver ready (see {self.folder}/logs)", self.is_ready, 90)
        self.write_kubeconfig(self.kubeconfig, ADMIN)
        if self.controllers:
            self._run(
                "kube-controller-manager", kubernetes, "kube-controller-manager",
                "--kubeconfig", str(self.kubeconfig), "--leader-elect=false", "--secure-port", "0",
                "--service-account-private-key-file", str(key), "--root-ca-file", str(self.certificate),
                "--controllers", self.controllers, "--use-service-account-credentials=true", "--node-monitor-grace-period", "20s",
                *self._pace(),
            )  # fmt: skip

    def stop(self) -> None:
        """End the processes and remove the folder."""
        processes.end_all(self.mark)
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_ready(self) -> bool:
        """Tell whether the API server answers /readyz."""
        if not self.certificate.exists():
            return False
        request = urllib.request.Request(
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            # Raises as well while the certificate is being written.
            context = ssl.create_default_context(cafile=str(self.certificate))
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            )
            with opener.open(request, timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def write_kubeconfig(self, path: Path, user: str, token: str = "") -> None:
        """Write a kubeconfig for one user: one that was let in, or one with a token from elsewhere."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "preheat",
                    "cluster": {"server": self.url, "certificate-authority": str(self.certificate)},
                }
            ],
            "users": [{"name": "user", "user": {"token": token or self._tokens[user]}}],
            "contexts": [{"name": "preheat", "context": {"cluster": "preheat", "user": "user"}}],
            "current-context": "preheat",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(content))

    def _audit(self) -> list[str]:
        if self.audit_log is None:
            return []
        policy = self.folder / "audit-policy.json"
        rules = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": self._audit_rules}
        policy.write_text(json.dumps({**rules, "omitStages": ["RequestReceived"]}))
        return ["--audit-policy-file", str(policy), "--audit-log-path", str(self.audit_log)]

    def _aggregation(self) -> list[str]:
        """Make the certificate by which API servers of others know that it is this one who asks them."""
        if not self._aggregates:
            return []
        authority, proxy = (self.folder / "front-proxy" / name for name in ("ca", "client"))
        authority.parent.mkdir()
        write_certificate(authority, "front-proxy-ca")
        write_certificate(proxy, FRONT_PROXY, "-CA", f"{authority}.crt", "-CAkey", f"{authority}.key")
        return [
            "--requestheader-client-ca-file", f"{authority}.crt", "--requestheader-allowed-names", FRONT_PROXY,
            "--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
            "--requestheader-extra-headers-prefix", "X-Remote-Extra-",
            "--proxy-client-cert-file", f"{proxy}.crt", "--proxy-client-key-file", f"{proxy}.key",
        ]  # fmt: skip

    def _pace(self) -> list[str]:
        if not self.controllers_qps:
            return []
        return [
            "--kube-api-qps",
            str(self.controllers_qps),
            "--kube-api-burst",
            str(2 * self.controllers_qps),
        ]

    def _run(self, name: str, *command: str) -> None:
        processes.start(self.mark, command, self.folder / "logs" / f"{name}.log")

    def __enter__(self) -> "ControlPlane":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
