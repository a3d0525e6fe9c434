"""The operator's rights as the chart grants them, for control planes in which the operator is a plain process."""

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.audit import OPERATOR
from e2e.cluster.local.controlplane import ControlPlane
from e2e.cluster.provider import KUBECTL, ROOT, kubectl, wait_for
from e2e.tools import helm

SYSTEM = "preheat-system"
KINDS = frozenset(
    {
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
)
TOKEN_HOURS = 24


def chart(*arguments: str, release: Path = ROOT) -> list[dict[str, Any]]:
    """Return what the chart of a source tree installs, rendered by Helm."""
    command = [
        str(helm()),
        "template",
        "preheat",
        str(release / "charts" / "preheat"),
        "--namespace",
        SYSTEM,
        *arguments,
    ]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [body for body in yaml.safe_load_all(text) if body]


def admit_operator(plane: ControlPlane, release: Path = ROOT) -> Path:
    """Give the operator its account, its rights and its fence; return a kubeconfig with which it is itself.

    Twice with another source tree is an upgrade.
    """
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}
    items = [namespace, *(body for body in chart(release=release) if body["kind"] in KINDS)]
    manifest = plane.folder / "operator.json"
    manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    kubectl(plane.kubeconfig, "apply", "-f", str(manifest))
    account = OPERATOR.rpartition(":")[2]
    token = kubectl(
        plane.kubeconfig, "-n", SYSTEM, "create", "token", account, f"--duration={TOKEN_HOURS}h"
    ).strip()
    kubeconfig = plane.folder / "operator-kubeconfig"
    plane.write_kubeconfig(kubeconfig, account, token)

    def may_begin() -> bool:
        asked = [
            KUBECTL,
            "--kubeconfig",
            str(plane.kubeconfig),
            "--as",
            OPERATOR,
            "auth",
            "can-i",
            "patch",
            "nodes",
        ]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    wait_for("the operator's rights known to the API server", may_begin, 30)
    return kubeconfig
