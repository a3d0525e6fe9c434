"""What the campaign says: a line while it runs, a table at the end, and one JSON object per case."""

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from e2e.faults.lane import Verdict

EVERY_SECONDS = 10.0
"""Between two lines of progress where nobody looks at a terminal."""
FAILURES = 20
"""Failed cases that are printed with their reasons; all are in the file."""


class Report:
    """Collects verdicts."""

    def __init__(self, results: Path, calls: Path) -> None:
        self.verdicts: list[Verdict] = []
        self.calls: set[tuple[str, str, str, str]] = set()
        self._results = results
        self._calls = calls
        self._total = 0
        self._pruned = 0
        self._masked: dict[str, list[str]] = {}
        self._started = self._told = time.monotonic()
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text("")

    @property
    def ran(self) -> int:
        """How many cases met their fault."""
        return sum(verdict.verdict != "not-met" for verdict in self.verdicts)

    @property
    def failed(self) -> list[Verdict]:
        """The cases that failed."""
        return [verdict for verdict in self.verdicts if verdict.verdict == "failed"]

    def undisturbed(self, workload: str, calls: int, masked: list[str]) -> None:
        """Tell of a workload without faults."""
        self._masked[workload] = masked
        self._print(f"  {workload}: {calls} calls undisturbed" + (f"; masked: {masked}" if masked else ""))

    def begin(self, total: int, pruned: int) -> None:
        """Begin to count."""
        self._total, self._pruned = total, pruned
        self._started = time.monotonic()
        self._print(f"  {total} cases" + (f"; {pruned} pruned" if pruned else ""))

    def add(self, verdict: Verdict) -> None:
        """Take in a verdict, write its line and tell how far it is."""
        self.verdicts.append(verdict)
        spec = verdict.spec
        created = [d for d in verdict.differences if " created " in d]
        deleted = [d for d in verdict.differences if " deleted " in d]
        line = {
            "case": spec.id,
            "workload": spec.workload,
            "fault": spec.fault,
            "way": spec.way,
            "call_site": spec.site,
            "occurrence": spec.occurrence,
            "verdict": verdict.verdict,
            "reason": verdict.reason,
            "seconds": verdict.seconds,
            "seconds_to_converge": verdict.seconds_to_converge,
            "creates_that_differ": created,
            "deletes_that_differ": deleted,
        }
        with self._results.open("a") as out:
            out.write(json.dumps(line) + "\n")
        if verdict.verdict == "failed":
            self._print(f"  FAILED {spec.id}: {verdict.reason}")
        self._progress()

    def end(self) -> None:
        """Write which calls were seen, in the terms of RBAC."""
        self._calls.parent.mkdir(parents=True, exist_ok=True)
        self._calls.write_text(json.dumps(sorted(self.calls), indent=1) + "\n")

    def text(self) -> str:
        """Return the tables."""
        recovery = self._recovery()
        return "\n".join(["", *self._matrix(), *(["", *recovery] if recovery else []), "", *self._summary()])

    def _matrix(self) -> list[str]:
        """Return cases and failures per fault and workload: "12" ran and passed, "12 (2)" of them failed."""
        workloads = list(dict.fromkeys(verdict.spec.workload for verdict in self.verdicts))
        faults = list(dict.fromkeys(sorted((v.spec.way, v.spec.column) for v in self.verdicts)))
        ran: Counter[tuple[str, str]] = Counter()
        failed: Counter[tuple[str, str]] = Counter()
        for verdict in self.verdicts:
            at = (verdict.spec.column, verdict.spec.workload)
            ran[at] += verdict.verdict != "not-met"
            failed[at] += verdict.verdict == "failed"
        rows = [["fault", *workloads]]
        for _, fault in faults:
            cells = [(ran[fault, workload], failed[fault, workload]) for workload in workloads]
            rows.append([fault, *(f"{n} ({bad})" if bad else str(n or "-") for n, bad in cells)])
        return _aligned(rows)

    def _recovery(self) -> list[str]:
        """Return how long it took from the operator killed to converged."""
        rows = [["seconds from killed to converged", "cases", "median", "p95", "max"]]
        killed = [v for v in self.verdicts if v.spec.fault == "killed" and v.seconds_to_converge is not None]
        if not killed:
            return []
        names = [*dict.fromkeys(v.spec.workload for v in killed), "all"]
        rows += [
            _times(name, [v.seconds_to_converge or 0.0 for v in killed if name in {v.spec.workload, "all"}])
            for name in names
        ]
        return _aligned(rows)

    def _summary(self) -> list[str]:
        not_met = len(self.verdicts) - self.ran
        minutes = (time.monotonic() - self._started) / 60
        lines = [f"  {v.spec.id}: {v.reason}" for v in self.failed[:FAILURES]]
        return [
            *lines,
            f"cases run: {self.ran}, failed: {len(self.failed)}; not met: {not_met}; "
            + (f"pruned: {self._pruned}; " if self._pruned else "")
            + f"{minutes:.1f} minutes after the undisturbed runs",
        ]

    def _progress(self) -> None:
        now, done = time.monotonic(), len(self.verdicts)
        if now - self._told < (0.5 if sys.stdout.isatty() else EVERY_SECONDS) and done < self._total:
            return
        self._told = now
        left = (now - self._started) / done * (self._total - done)
        line = f"  {done}/{self._total} cases, {len(self.failed)} failed, about {left / 60:.0f} min left"
        print(line, end="\r" if sys.stdout.isatty() and done < self._total else "\n", flush=True)

    def _print(self, line: str) -> None:
        print(line, flush=True)


def _times(name: str, seconds: Sequence[float]) -> list[str]:
    ranked = sorted(seconds)
    p95 = ranked[min(len(ranked) - 1, int(0.95 * len(ranked)))]
    return [
        name,
        str(len(ranked)),
        *(f"{value:.1f}" for value in (statistics.median(ranked), p95, ranked[-1])),
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
