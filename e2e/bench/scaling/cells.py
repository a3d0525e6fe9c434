"""What is run: traces, each with its slots and bounds, and the load times that each is run with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from e2e.bench.scaling import files
from e2e.bench.scaling.simulate import Setting
from e2e.bench.scaling.synthetic import synthetic
from e2e.bench.scaling.trace import Trace

LOADS = (60.0, 300.0, 2700.0)


class Group(StrEnum):
    """Cells that are judged together."""

    RATES = "rates"
    """Days of a real deployment, rates from a file."""
    LOG = "log"
    """A real log, request by request."""
    STEADY = "steady"
    """Days of synthetic traffic."""
    JUMP = "jump"
    """A step, a flash, a surge: synthetic, and nobody can see it coming."""
    RAMP = "ramp"
    """Five times as much within half an hour: seen coming by who needs less for a load."""
    ZERO = "zero"
    """Scale to zero."""
    STOCK_OUT = "stock-out"
    """GPUs run out after a step."""


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Makes a synthetic trace."""

    name: str

    def __call__(self, seed: int) -> Trace:
        """Draw it."""
        return synthetic(seed)[self.name]()


@dataclass(frozen=True, slots=True)
class FromFile:
    """Makes a trace of a file."""

    path: Path
    name: str
    clients: tuple[str, ...] = ()
    """Of a rate file; none: all."""
    busy_slots: float | None = None
    """On the average; None: as it is."""

    def __call__(self, seed: int) -> Trace:
        """Read the file and draw what is to be drawn."""
        content = content_of(self.path)
        if isinstance(content, files.Log):
            return files.log_trace(self.name, content, seed, self.busy_slots)
        return files.rate_trace(self.name, content, self.clients, seed, self.busy_slots or 72.0)


@dataclass(frozen=True, slots=True)
class Cell:
    """A trace that can be made, and what its deployment is like."""

    name: str
    group: Group
    make: Callable[[int], Trace]
    """From a seed."""
    slots: int = 8
    min_replicas: int = 1
    fail: float = 0.0

    def setting(self, load_seconds: float, seed: int) -> Setting:
        """Return what is the same for every scaler."""
        return Setting(
            load_seconds, slots=self.slots, min_replicas=self.min_replicas, fail=self.fail, seed=seed
        )


GROUPS = {
    "step": Group.JUMP,
    "flash": Group.JUMP,
    "surge": Group.JUMP,
    "ramp": Group.RAMP,
    "weekly": Group.STEADY,
    "growth": Group.STEADY,
    "no-history": Group.STEADY,
    "on-off": Group.ZERO,
    "trickle": Group.ZERO,
    "stock-out": Group.STOCK_OUT,
}
QUICK = ("step", "no-history", "on-off")


def synthetic_cells() -> list[Cell]:
    """Return the cells that need no file."""
    cells = [
        Cell(name, group, Synthetic(name), min_replicas=0 if group is Group.ZERO else 1)
        for name, group in GROUPS.items()
    ]
    return [*cells, Cell("ramp, a tenth of the loads fails", Group.RAMP, Synthetic("ramp"), fail=0.1)]


SERVEGEN = "servegen_m-small_week1_clients.csv.gz"
LOGS = (
    "AzureLLMInferenceTrace_conv_2023.csv.gz",
    "AzureLLMInferenceTrace_code_2023.csv.gz",
    "mooncake_conversation.jsonl.gz",
)
DEPLOYMENTS = (
    # clients (none: all), mean replicas, slots
    ((), 9, 8),
    (("5",), 5, 8),
    (("38",), 5, 8),
    (("17",), 4, 8),
    (("27",), 4, 8),
    (("26",), 4, 8),
    (("19",), 4, 4),
    (("41", "31"), 2, 32),
)
TO_ZERO = (("13", 2.0), ("1", 1.0), ("2", 0.2))
"""Clients that are often silent, and how many slots they are thinned to."""


def shared_cells(folder: Path) -> list[Cell]:
    """Return the cells of the shared traces: eight real deployments, three that scale to zero, three logs.

    Raises:
        TraceFileError: the folder does not hold them.
    """
    missing = [name for name in (SERVEGEN, *LOGS) if not (folder / name).is_file()]
    if missing:
        raise files.TraceFileError(
            f"{folder} does not hold {', '.join(missing)}: name the folder of the shared traces, or a file with --trace"
        )
    rates = folder / SERVEGEN
    cells = [
        Cell(rate_name(rates, clients), Group.RATES, from_rates(rates, clients, replicas * slots), slots)
        for clients, replicas, slots in DEPLOYMENTS
    ]
    cells += [
        Cell(f"{rate_name(rates, (client,))} to zero", Group.ZERO, from_rates(rates, (client,), busy), 8, 0)
        for client, busy in TO_ZERO
    ]
    return cells + [Cell(stem(folder / name), Group.LOG, FromFile(folder / name, name), 4) for name in LOGS]


def named_cells(
    path: Path, clients: Sequence[str], replicas: float | None, slots: int, min_replicas: int
) -> list[Cell]:
    """Return the cells of a file that was named: a log as it is, or all clients of a rate file, or each that is asked for.

    ``replicas``: how many full replicas the traffic is worth on the average (without it: 9 for rates, a log as it is).

    Raises:
        TraceFileError: the file cannot be used.
    """
    busy = None if replicas is None else replicas * slots
    if isinstance(content_of(path), files.Log):
        group, makes = Group.LOG, [FromFile(path, stem(path), (), busy)]
    else:
        chosen: list[tuple[str, ...]] = [tuple(client.split("+")) for client in clients] or [()]
        group, makes = (
            Group.RATES,
            [from_rates(path, one, 9.0 * slots if busy is None else busy) for one in chosen],
        )
    for make in makes:
        make(1)
    if min_replicas == 0:
        group = Group.ZERO
    return [Cell(make.name, group, make, slots, min_replicas) for make in makes]


@lru_cache(maxsize=2)
def content_of(path: Path) -> files.Log | files.Rates:
    """Read a file once for all load times and scalers; processes that are forked later have it as well."""
    return files.read(path)


def from_rates(path: Path, clients: tuple[str, ...], busy_slots: float) -> FromFile:
    """Return what draws a trace of some clients."""
    return FromFile(path, rate_name(path, clients), clients, busy_slots)


def rate_name(path: Path, clients: Sequence[str]) -> str:
    """Return what a trace of some clients is called."""
    return f"{stem(path)} {'+'.join(clients) or 'all'}"


def stem(path: Path) -> str:
    """Return a file's name without its endings, shorter where it is long and known."""
    name = path.name
    for ending in (".gz", ".csv", ".jsonl", ".json", "_clients", "_week1"):
        name = name.removesuffix(ending)
    return name.replace("AzureLLMInferenceTrace_", "azure ").replace("servegen_", "")
