"""The load: N small LLMDeployments, created at once by a client of their own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kubernetes import client, config

NAMESPACES = 10
CREATORS = 4
"""Threads that create: as `kubectl apply -f` of a few users would."""


def api_client(kubeconfig: Path, connections: int) -> client.ApiClient:
    """Return the Python client for one kubeconfig."""
    settings = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
    settings.connection_pool_maxsize = connections
    return client.ApiClient(settings)


def subjects(count: int, prefix: str) -> list[tuple[str, str]]:
    """Return (namespace, name) of every LLMDeployment."""
    return [(f"{prefix}-{number % NAMESPACES}", f"m-{number:04}") for number in range(count)]


def a_service(namespace: str, name: str) -> dict[str, Any]:
    """A small LLMDeployment: one replica on one GPU."""
    return {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": "hf://example/llama-8b", "revision": "0e9e39f249a16976918f6564b8830bc894c89659"},
            "hardware": {"gpu": {"types": ["nvidia-l4"]}},
        },
    }


def create_namespaces(api: client.ApiClient, prefix: str) -> None:
    """Create the namespaces of a load."""
    for number in range(NAMESPACES):
        name = client.V1ObjectMeta(name=f"{prefix}-{number}")
        client.CoreV1Api(api).create_namespace(client.V1Namespace(metadata=name))


def create_all(
    api: client.ApiClient,
    wanted: Sequence[tuple[str, str]],
    on_made: Callable[[tuple[str, str], str], None] = lambda _subject, _uid: None,
) -> None:
    """Create every LLMDeployment, as fast as this client can, and tell each one's uid."""
    objects = client.CustomObjectsApi(api)

    def create(subject: tuple[str, str]) -> None:
        namespace, name = subject
        made: Any = objects.create_namespaced_custom_object(
            "preheat.dev", "v1alpha1", namespace, "llmdeployments", a_service(namespace, name)
        )
        on_made(subject, made["metadata"]["uid"])

    with ThreadPoolExecutor(CREATORS) as pool:
        list(pool.map(create, wanted))
