"""Who takes part: ours, the peers, and one that needs no thought."""

from collections.abc import Callable

from e2e.bench.scaling import peers
from e2e.bench.scaling.baselines import Proportional
from e2e.bench.scaling.ours import Preheat
from e2e.bench.scaling.scaler import Scaler

OURS = "preheat"

Make = Callable[[], Scaler]


def contenders() -> dict[str, Make]:
    """Return all, by name, configuration and label, ours first; of the peers also what a search may try (tuned)."""
    makes: list[Make] = [Preheat, *the_peers(), Proportional]
    found = {who(make()): make for make in makes}
    if len(found) < len(makes):
        raise ValueError("two scalers have the same name, configuration and label: only one would take part")
    return found


def who(scaler: Scaler) -> str:
    """Return what a scaler is called in tables."""
    label = getattr(scaler, "label", "")
    return f"{scaler.name}/{scaler.config}" + (f" {label}" if label else "")


def the_peers() -> list[Make]:
    """Return the peers: with their defaults, as their documentation sets them up for models, and to search in."""
    searched = [make for makes in peers.grid().values() for make in makes]
    return [*peers.peers(), *peers.documented(), *searched]
