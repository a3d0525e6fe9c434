"""The campaign: undisturbed runs first, then every case that follows from them, several at a time."""

import asyncio
import logging
import random
import signal
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from e2e.faults.lane import Lane, Verdict
from e2e.faults.oracle import Reference
from e2e.faults.plan import Spec, Trace, Way, cases_of, fast_part, pruned
from e2e.faults.plane import open_plane
from e2e.faults.proxy import Fault, Rule
from e2e.faults.report import Report
from e2e.faults.workloads import SETTLE_SECONDS, WORKLOADS

STARTS = "create"
"""The workload that meets faults at the operator's start: the others would make the very same calls."""
PLANTED_OPERATOR = "e2e.faults.planted"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which cases to run. Empty: all."""

    workloads: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    seed: int = 1
    fast: bool = False
    deadline: float = SETTLE_SECONDS
    """How long a case may take to its end, in seconds."""
    plant: str = ""
    """A bug to plant: ``swallow`` (the proxy answers a label's write and drops it), ``hasty`` (an operator that
    writes its status first and never tries again)."""

    def wants(self, spec: Spec) -> bool:
        """Tell whether a case is to be run."""
        if self.cases:
            return spec.id in self.cases
        return not self.faults or spec.fault in self.faults or spec.way in self.faults

    @property
    def names(self) -> list[str]:
        """The workloads that are needed."""
        if self.cases:
            return sorted({case.partition("/")[0] for case in self.cases})
        return [name for name in WORKLOADS if not self.workloads or name in self.workloads]


def run(lanes: int, choice: Choice, report: Report) -> None:
    """Run what was chosen on a control plane of its own; the report has what came of it."""
    # The proxy breaks connections on purpose; the server library reports each as an accident.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="preheat-faults-") as folder:
        try:
            asyncio.run(_until_term(Campaign(Path(folder), lanes, choice, report)))
        except asyncio.CancelledError:
            sys.exit("ended by SIGTERM")


async def _until_term(campaign: "Campaign") -> None:
    """Run it; SIGTERM ends its operators and its control plane as well."""
    task = asyncio.current_task()
    assert task is not None

    def end() -> None:
        campaign.queue.clear()
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    await campaign.run()


class Campaign:
    """Runs what was chosen."""

    def __init__(self, folder: Path, lanes: int, choice: Choice, report: Report) -> None:
        self._folder = folder
        self.queue: deque[Spec] = deque()
        """The cases that no lane has begun."""
        self._lanes = lanes
        self._choice = choice
        self._report = report
        self._pruned = 0
        self._references: dict[str, Reference] = {}
        self._traces: dict[str, Trace] = {}

    async def run(self) -> None:
        """Run it; the report has what came of it."""
        async with open_plane(self._folder) as plane:
            lanes = [Lane(plane, self._folder, f"lane{number}") for number in range(1, self._lanes + 1)]
            try:
                await asyncio.gather(*(lane.start() for lane in lanes))
                await self._undisturbed(lanes)
                specs = self._specs()
                self._report.begin(len(specs), self._pruned)
                for lane in lanes:
                    lane.deadline = self._choice.deadline
                if self._choice.plant:
                    await self._plant(lanes)
                self.queue.extend(_ordered(specs, self._choice.seed))
                # A group waits for all of them, also when it is cancelled: they need the plane.
                async with asyncio.TaskGroup() as group:
                    for lane in lanes:
                        group.create_task(self._work(lane))
            finally:
                for lane in lanes:
                    self._report.calls |= lane.proxy.kinds
                await asyncio.gather(*(lane.stop() for lane in lanes), return_exceptions=True)
                self._report.end()

    async def _undisturbed(self, lanes: list[Lane]) -> None:
        names = deque(self._choice.names)

        async def work(lane: Lane) -> None:
            while names:
                name = names.popleft()
                self._traces[name], self._references[name] = await lane.undisturbed(
                    name, 1 if self._choice.fast else 2
                )
                self._report.undisturbed(name, len(self._traces[name].calls), self._references[name].masked)

        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(work(lane))
        if STARTS in self._traces:
            self._traces[STARTS].start = await lanes[0].start_calls()

    def _specs(self) -> list[Spec]:
        specs: list[Spec] = []
        for name in self._choice.names:
            found = cases_of(name, self._traces[name])
            if not self._choice.cases:
                self._pruned += pruned(self._traces[name], found)
            specs += found
        if self._choice.fast and not self._choice.cases:
            specs = fast_part(specs)
        return [spec for spec in specs if self._choice.wants(spec)]

    async def _plant(self, lanes: list[Lane]) -> None:
        for lane in lanes:
            if self._choice.plant == "hasty":
                await lane.use(PLANTED_OPERATOR)
            else:
                lane.planted = Rule(lambda c: c.site == "PATCH nodes", Fault.SWALLOWED, keeps=True)

    async def _work(self, lane: Lane) -> None:
        while self.queue:
            spec = self.queue.popleft()
            try:
                verdict = await lane.run(spec, self._references[spec.workload])
            except Exception as error:  # noqa: BLE001 - the campaign's own mistake is a failed case
                verdict = Verdict(spec, "failed", f"the campaign itself: {error!r}")
            self._report.add(verdict)


def _ordered(specs: list[Spec], seed: int) -> deque[Spec]:
    """Return the cases in a random order; those that need an operator of their own setup one after the other."""
    shuffled = list(specs)
    random.Random(seed).shuffle(shuffled)
    return deque(sorted(shuffled, key=lambda spec: (spec.way is Way.CLOCK, spec.way is Way.WATCH)))
