"""The peers' scaling algorithms, each in a file that says what was read, where, and what was chosen by us.

Three configurations of each: its defaults with a sane target per replica, its project's own example for
language models where there is one, and a grid that may be searched on public traces only.
"""

from collections.abc import Callable

from e2e.bench.scaling.peers import aibrix, dynamo, hpa, keda, kpa, kubeai, ray, wva
from e2e.bench.scaling.scaler import Scaler

Make = Callable[[], Scaler]


def peers() -> list[Make]:
    """Return every peer with its defaults."""
    return [
        hpa.Hpa,
        hpa.per_pod,
        keda.Keda,
        kpa.Kpa,
        kubeai.KubeAi,
        ray.RayServe,
        *aibrix.default(),
        wva.Wva,
        *dynamo.default(),
    ]


def documented() -> list[Make]:
    """Return the projects' own examples for language models. Knative and KubeAI have none for an engine of few slots."""
    return [
        *hpa.documented(),
        *keda.documented(),
        *ray.documented(),
        *aibrix.documented(),
        *wva.documented(),
        *dynamo.documented(),
    ]


def grid() -> dict[str, list[Make]]:
    """Return, by a peer's name, the configurations to search; each has a ``label`` that tells it from the others."""
    by_name: dict[str, list[Make]] = {}
    for module in (hpa, keda, kpa, kubeai, ray, aibrix, wva, dynamo):
        for make in module.grid():
            by_name.setdefault(make().name, []).append(make)
    return by_name
