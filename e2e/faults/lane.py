"""One operator behind one proxy, with one case at a time. Several lanes work on one control plane."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from preheat.api.constants import ANNOTATION_NODE
from preheat.cluster.kinds import KINDS

from e2e.faults.calls import Call
from e2e.faults.operator import AS_INSTALLED, Operator, Setup, trouble
from e2e.faults.oracle import Reference, orphans, outcome_of, untruths
from e2e.faults.plan import CLOCK_JUMPS, Spec, Trace, Way
from e2e.faults.plane import Body, Plane
from e2e.faults.proxy import Fault, Proxy, Record, Rule, WatchFault
from e2e.faults.workloads import SETTLE_SECONDS, WORKLOADS, Case, NotConvergedError
from e2e.rights import SYSTEM

QUIET_SECONDS = 4.5
"""No call for so long is rest, but for the full list (every 4 s here) that falls into it."""
BEFORE_SECONDS = 1.0
"""Rest before the fault: what came before it shall be over."""
REST_SECONDS = 60.0
"""It must come to rest within so long after its end."""
STALE_SECONDS = 3.0
START_SECONDS = 60.0
WATCHES = sum(kind.watched and not kind.optional for kind in KINDS.values())
SPIN_SECONDS, SPIN_WINDOWS, SPIN_CALLS, SPIN_CPU = 1.0, 3, 60, 0.7
"""More calls in rest, or a larger share of a core, is spinning. A full list is 12 calls, and a case may clean up."""
KOPF_RETRIES = "Request attempt #"
"""kopf logs at ERROR that it will try a call again: told of a fault that we made, that is what it should say."""
KOPF_ENDS = (" has failed: ",)
"""kopf logs at ERROR that its watching ended: so it should when we made it end. Ours goes on, with a warning."""


@dataclass
class Verdict:
    """What became of a case."""

    spec: Spec
    verdict: str
    """passed, failed, or not-met: the call did not come this time."""
    reason: str = ""
    seconds: float = 0.0
    seconds_to_converge: float | None = None
    differences: list[str] = field(default_factory=list)


class Lane:
    """Runs cases, one after the other."""

    def __init__(self, plane: Plane, folder: Path, name: str, module: str = "") -> None:
        self.plane = plane
        self.name = name
        self.proxy = Proxy(plane.control.url, plane.context, self._sees)
        self.proxy.authorize(plane.control.token)
        self.operator: Operator
        self._folder = folder
        self._module = module
        self.deadline = SETTLE_SECONDS
        self.planted: Rule | None = None
        self._count = 0
        self._operators = 0

    async def start(self) -> None:
        """Open the proxy and start the operator."""
        await self.proxy.start()
        self.operator = self._an_operator()
        await self._begin(Setup())

    async def use(self, module: str) -> None:
        """From now on run another operator: one with a planted bug."""
        self._module = module
        await self._begin(Setup())

    async def stop(self) -> None:
        """End both."""
        await self.operator.stop()
        await self.proxy.stop()

    def _an_operator(self) -> Operator:
        self._operators += 1
        name = f"operator-{self.name}-{self._operators}"
        kubeconfig = self.plane.kubeconfig(self.proxy.url)
        return Operator(self._folder, name, kubeconfig, self.plane.control.mark)

    def _sees(self, body: Body) -> bool:
        """This lane's operator sees the namespaces, nodes and volumes of this lane's cases, and keepers of its nodes."""
        mine, metadata = f"{self.name}-", body["metadata"]
        claim = ((body.get("spec") or {}).get("claimRef") or {}).get("namespace")
        if SYSTEM in {metadata.get("namespace"), claim}:
            node = (metadata.get("annotations") or {}).get(ANNOTATION_NODE)
            return node is None or node.startswith(mine)
        return any(
            str(name).startswith(mine)
            for name in (metadata.get("namespace"), claim or metadata["name"])
            if name
        )

    async def _begin(self, setup: Setup) -> None:
        """Have an operator of this setup that watches."""
        if self._module:
            setup = Setup(setup.environment, setup.fake_clock, self._module)
        if self.operator.setup != setup or self.operator._process is None:
            await self.operator.stop()
            self.operator.setup = setup
            before = len(self.proxy.records)
            self.operator.start()
            await self._watches(before)

    async def _watches(self, before: int | None) -> None:
        """Wait until the operator that was started at that record has opened its watches."""
        if before is None:
            return
        deadline = time.monotonic() + START_SECONDS
        while sum(record.call.is_watch for record in self.proxy.records[before:]) < WATCHES:
            if time.monotonic() > deadline:
                raise NotConvergedError(
                    "the operator does not begin to watch:\n" + "\n".join(self.operator.said()[-5:])
                )
            await asyncio.sleep(0.05)

    def _new_case(self) -> Case:
        self._count += 1
        return Case(self.plane, f"{self.name}-c{self._count}")

    # --- undisturbed

    async def undisturbed(self, workload: str, times: int) -> tuple[Trace, Reference]:
        """Run a workload without a fault, more than once; return what it called, and how it ended."""
        work, reference, trace = WORKLOADS[workload], Reference(), Trace()
        await self._begin(Setup())
        for _ in range(times):
            case = self._new_case()
            await case.open()
            try:
                await work.before(case)
                await self._rest(case)
                self.proxy.records.clear()
                changes = len(self.plane.eyes.changes)
                await work.act(case)
                await case.until("its end", lambda: work.is_done(case))  # noqa: B023
                await self._rest(case)
                trace.calls = [r for r in self.proxy.records if case.concerns(r.call)]
                reference.outcomes.append(outcome_of(case, self.plane.eyes.changes[changes:]))
                lies = [*untruths(case), *orphans(case)]
                if lies:
                    raise NotConvergedError(f"{workload}, undisturbed: {lies}")
            finally:
                await case.close()
        return trace, reference

    async def start_calls(self) -> list[Record]:
        """Start the operator anew; return the calls that it makes before it watches."""
        before = len(self.proxy.records)
        await self.operator.kill()
        await self._watches(before)
        records = self.proxy.records[before:]
        return [
            r for r in records if not r.call.is_watch and not r.call.is_write and _is_of_the_start(r.call)
        ]

    # --- with a fault

    async def run(self, spec: Spec, reference: Reference) -> Verdict:
        """Run one case."""
        started = time.monotonic()
        self.proxy.records.clear()
        case = self._new_case()
        if self.planted is not None:
            self.proxy.rules.append(self.planted)
        try:
            await case.open()
            verdict = await self._run(spec, case, reference)
        except NotConvergedError as error:
            verdict = Verdict(spec, "failed", str(error))
        finally:
            self.proxy.rules.clear()
            self.proxy.turn_fresh()
            await case.close()
        if verdict.verdict == "failed":
            # The next case shall not begin with what this one broke.
            await self.operator.kill()
        verdict.seconds = round(time.monotonic() - started, 2)
        return verdict

    async def _run(self, spec: Spec, case: Case, reference: Reference) -> Verdict:
        await self._begin(_setup_of(spec))
        await WORKLOADS[spec.workload].before(case)
        await self._rest(case, BEFORE_SECONDS)
        self.proxy.records.clear()
        changes = len(self.plane.eyes.changes)
        said, exits = self.operator.log_size(), self.operator.exits
        disturbed = _Disturbed(self, case, spec)
        try:
            seconds = await _WAYS[spec.way](disturbed)
            # Nothing is written while an operator is only starting: that is not rest.
            await self._watches(disturbed.restarted_at)
            spinning = await self._rest_of(case)
        finally:
            await disturbed.end()
        if not disturbed.was_met():
            return Verdict(spec, "not-met", "the call did not come this time")
        found = reference.judge(outcome_of(case, self.plane.eyes.changes[changes:]))
        found += [*untruths(case), *orphans(case), *spinning]
        # "cannot": RBAC's word. Quota and namespaces that go away answer 403 as well.
        found += [f"403: {r.words}" for r in self.proxy.records if r.status == 403 and " cannot " in r.words]
        found += self._trouble(spec, said)
        if self.operator.exits > exits:
            found.append(f"the operator ended by itself {self.operator.exits - exits} times")
        verdict = "failed" if found else "passed"
        return Verdict(
            spec, verdict, "; ".join(found[:4]), seconds_to_converge=round(seconds, 2), differences=found
        )

    async def _rest_of(self, case: Case) -> list[str]:
        """Wait for rest; return what is restless in it. One busy second is a list of everything; a spin does not end."""
        await self._rest(case)
        busy: list[str] = []
        for _ in range(SPIN_WINDOWS):
            cpu, calls, started = self.operator.cpu_seconds(), len(self.proxy.records), time.monotonic()
            await asyncio.sleep(SPIN_SECONDS)
            used = (self.operator.cpu_seconds() - cpu) / (time.monotonic() - started)
            called = len(self.proxy.records) - calls
            if used <= SPIN_CPU and called <= SPIN_CALLS:
                return []
            busy.append(f"{used:.0%} of a core and {called} calls in {SPIN_SECONDS:g} s of rest")
        return [f"it spins: {', then '.join(busy)}"]

    def _trouble(self, spec: Spec, since: int) -> list[str]:
        ends_kopf = spec.way is Way.AT_START or spec.fault in {WatchFault.ERROR, WatchFault.HALF_LINE}
        allowed = (KOPF_RETRIES, *(KOPF_ENDS if ends_kopf else ()))
        lines = trouble(self.operator.said(since))
        return [f"log: {line}" for line in lines if not any(words in line for words in allowed)][:3]

    async def _rest(self, case: Case, seconds: float = QUIET_SECONDS) -> None:
        """Wait until nothing was written about the case for so long, nor asked: who asks for an object is about to write."""
        clock, records = asyncio.get_running_loop().time, self.proxy.records
        started, looked, last = clock(), 0, 0.0
        while clock() - max(last, started) < seconds:
            await asyncio.sleep(0.1)
            for record in records[looked:]:
                call = record.call
                if not (call.is_list or call.is_watch) and case.concerns(call):
                    last = record.at
            looked = len(records)
            if clock() - started > REST_SECONDS:
                raise NotConvergedError(
                    f"it does not come to rest: the last call was {clock() - last:.1f} s ago"
                )


class _Disturbed:
    """One case with its fault. Each way of disturbing returns the seconds from the disturbance to the end."""

    def __init__(self, lane: Lane, case: Case, spec: Spec) -> None:
        self.lane, self.case, self.spec = lane, case, spec
        self._rule: Rule | None = None
        self._hits = lane.proxy.watch_hits
        self._needs_hits = False
        self._second: Operator | None = None
        self._since = time.monotonic()
        self.restarted_at: int | None = None
        """At which record of the proxy the operator was started anew."""

    def was_met(self) -> bool:
        """Tell whether the fault came to pass."""
        if self._rule is not None:
            return self._rule.hit.is_set()
        return not self._needs_hits or self.lane.proxy.watch_hits > self._hits

    async def end(self) -> None:
        """Take away what was only there for the fault."""
        if self._second is not None:
            await self._second.stop()
            self._second = None

    async def call(self) -> float:
        self._arm(Fault(self.spec.fault))
        await self._act()
        return await self._done()

    async def killed(self) -> float:
        killed = asyncio.Event()

        async def kill() -> None:
            await self._kill()
            killed.set()

        self._arm(Fault.STOPPED, kill)
        await self._act()
        seconds = await self._done()
        if not killed.is_set():
            # It looks done before its last writes: the one after which it is to be killed may be still to come.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS):
                    await killed.wait()
                await self.lane._watches(self.restarted_at)
                seconds = await self._done()
        return seconds

    async def at_start(self) -> float:
        lane = self.lane
        await lane.operator.down()
        self._arm(Fault(self.spec.fault), anybody=True)
        await self._act()
        self._restarts()
        lane.operator.start()
        return await self._done()

    async def watch(self) -> float:
        proxy, fault = self.lane.proxy, WatchFault(self.spec.fault)
        self._needs_hits = True
        if fault is WatchFault.STALE:
            await proxy.turn_stale()
            await self._act()
            await asyncio.sleep(STALE_SECONDS)
            proxy.turn_fresh()
            return await self._done()
        if fault is WatchFault.HALF_OPEN:
            proxy.silence()
        elif fault is not WatchFault.CUT:
            proxy.watch_fault = fault
        if fault is WatchFault.GONE:
            proxy.cut_watches()
        await self._act()
        if fault is WatchFault.CUT:
            proxy.cut_watches()
        if fault in {WatchFault.DROPPED, WatchFault.GONE}:
            await asyncio.sleep(STALE_SECONDS)
            proxy.watch_fault = None
        seconds = await self._done()
        proxy.watch_fault = None
        return seconds

    async def stale_start(self) -> float:
        lane = self.lane
        self._needs_hits = True
        await lane.proxy.turn_stale()
        await self._act()
        await self._kill()
        await asyncio.sleep(STALE_SECONDS)
        lane.proxy.turn_fresh()
        return await self._done()

    async def frozen(self) -> float:
        """Frozen at rest; another takes over, the user changes things; thawed when all is done."""
        await self._with_a_second()
        self.lane.operator.freeze()
        await self._act()
        seconds = await self._done()
        self.lane.operator.thaw()
        return seconds

    async def frozen_at_work(self) -> float:
        """Frozen right after its first write, with the rest of its work in hand."""
        lane = self.lane
        frozen = asyncio.Event()

        async def freeze() -> None:
            lane.operator.freeze()
            frozen.set()

        self._rule = Rule(lambda c: c.is_write and self.case.concerns(c), Fault.STOPPED, then=freeze)
        lane.proxy.rules.append(self._rule)
        await self._act()
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await frozen.wait()
        except TimeoutError:
            return 0.0
        self._since = time.monotonic()
        await self._with_a_second()
        try:
            seconds = await self._done()
        finally:
            lane.operator.thaw()
        return seconds

    async def two(self) -> float:
        await self._with_a_second()
        await self._act()
        return await self._done()

    async def clock(self) -> float:
        await self._act()
        self.lane.operator.set_clock(CLOCK_JUMPS[self.spec.fault])
        return await self._done()

    async def _with_a_second(self) -> None:
        lane = self.lane
        self._second = lane._an_operator()
        self._second.setup = lane.operator.setup
        before = len(lane.proxy.records)
        self._second.start()
        await lane._watches(before)

    async def _kill(self) -> None:
        self._restarts()
        await self.lane.operator.kill()

    def _restarts(self) -> None:
        self._since = time.monotonic()
        self.restarted_at = len(self.lane.proxy.records)

    def _arm(
        self, fault: Fault, then: Callable[[], Awaitable[None]] | None = None, *, anybody: bool = False
    ) -> None:
        site, case = self.spec.site, self.case

        def matches(call: Call) -> bool:
            return call.site == site and (anybody or case.concerns(call))

        self._rule = Rule(matches, fault, self.spec.occurrence - 1, then=then)
        self.lane.proxy.rules.append(self._rule)

    async def _act(self) -> None:
        self._since = time.monotonic()
        await WORKLOADS[self.spec.workload].act(self.case)

    async def _done(self) -> float:
        work = WORKLOADS[self.spec.workload]
        await self.case.until("its end", lambda: work.is_done(self.case), self.lane.deadline)
        return time.monotonic() - self._since


_WAYS: dict[Way, Callable[[_Disturbed], Awaitable[float]]] = {
    Way.CALL: _Disturbed.call,
    Way.KILLED: _Disturbed.killed,
    Way.AT_START: _Disturbed.at_start,
    Way.WATCH: _Disturbed.watch,
    Way.STALE_START: _Disturbed.stale_start,
    Way.FROZEN: _Disturbed.frozen,
    Way.FROZEN_AT_WORK: _Disturbed.frozen_at_work,
    Way.TWO: _Disturbed.two,
    Way.CLOCK: _Disturbed.clock,
}

_HEALED_BY_THE_LIST = (WatchFault.DROPPED,)
"""Nobody can know of an event that never came: the full list finds it out."""


def _setup_of(spec: Spec) -> Setup:
    if spec.way is Way.CLOCK:
        return Setup(fake_clock=True)
    if spec.way is Way.WATCH and spec.fault not in _HEALED_BY_THE_LIST:
        return AS_INSTALLED
    return Setup()


def _is_of_the_start(call: Call) -> bool:
    return call.is_list or not call.rbac
