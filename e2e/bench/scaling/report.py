"""What the benchmark says: a table for each load time and family of cells, the targets, and an object per run."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from e2e.bench.scaling.board import FAMILIES, KAPPAS, Standing, cheapest, score, standings
from e2e.bench.scaling.contenders import OURS
from e2e.bench.scaling.targets import Verdict, peers_beside, words
from e2e.bench.scaling.work import Row


def tables(rows: Sequence[Row]) -> str:
    """Return a table for each load time and family."""
    parts = []
    for load in sorted({row.load_seconds for row in rows}):
        for family, groups in FAMILIES.items():
            these = [row for row in rows if row.load_seconds == load and row.group in groups]
            if these:
                parts.append(table(f"{family}, load {words(load)}", these))
    return "\n\n".join(parts)


def table(title: str, rows: Sequence[Row]) -> str:
    """Return the standings of some cells."""
    cells = sorted({row.trace for row in rows})
    head = (
        f"  {'':<26} {'in time':>7} {'worst':>7} {'2 s':>7} {'30 s':>7} {'cost':>6} {'worst':>6} {'of work':>7} "
        f"{'GPU-h':>7} {'loads':>6} {'aborted':>7} {'regret':>6} {'lost':>7} {'J .05':>6} {'J .2':>6} {'us':>6}"
    )
    lines = [f"{title}: {', '.join(cells)}", head]
    for one in standings(rows):
        mark = "*" if one.who.startswith(OURS + "/") else " "
        lines.append(
            f"{mark} {one.who:<26} {one.attained:>7.2%} {one.worst:>7.2%} {one.attained_2s:>7.2%} {one.attained_30s:>7.2%} "
            f"{one.cost:>5.2f}x {one.dearest:>5.2f}x {one.over_work:>6.2f}x {one.gpu_hours:>7.0f} {one.cold_starts:>6} "
            f"{one.aborted_share:>7.1%} {one.regret:>6} {one.lost:>7} "
            + " ".join(f"{each:>6.2f}" for each in one.scores)
            + f" {one.decision_us:>6.0f}"
        )
    return "\n".join(lines)


def at_equal_service(rows: Sequence[Row]) -> str:
    """Return for each load time, family and scaler what the cheapest of its settings costs that is good enough."""
    lines = ["Cheapest setting of each scaler, with hindsight, that is in time for 95 % and for 99 %"]
    for load in sorted({row.load_seconds for row in rows}):
        for family, groups in FAMILIES.items():
            these = [row for row in rows if row.load_seconds == load and row.group in groups]
            good, better = cheapest(these, 0.95), cheapest(these, 0.99)
            lines += [f"  {family}, load {words(load)}"] if these else []
            lines += [f"    {name:<14} {paid(good[name])}   {paid(better[name])}" for name in sorted(good)]
    return "\n".join(lines)


def paid(one: Standing | None) -> str:
    """Return what a setting costs and attains."""
    return (
        f"{'not reached':<60}" if one is None else f"{one.cost:>5.2f}x at {one.attained:.2%}  {one.who:<40}"
    )


def by_cell(rows: Sequence[Row]) -> str:
    """Return ours in each cell beside the default peer with the best score."""
    lines = [
        f"{'cell':<34} {'load':>7} {'ours':>7} {'cost':>6} {'loads':>6} {'aborted':>7} {'sudden':>7}   {'best peer':<14} {'':>7} {'cost':>6} "
        f"{'loads':>6}   clairvoyant"
    ]
    for row in sorted(
        (row for row in rows if row.scaler == OURS), key=lambda row: (row.load_seconds, row.group, row.trace)
    ):
        best = min(peers_beside(row, rows), key=lambda peer: score(peer, KAPPAS[-1]), default=None)
        its = (
            f"{best.scaler:<14} {best.measured.attained:>7.2%} {best.cost:>5.2f}x {best.measured.cold_starts:>6}"
            if best
            else " " * 36
        )
        lines.append(
            f"{row.trace:<34} {words(row.load_seconds):>7} {row.measured.attained:>7.2%} {row.cost:>5.2f}x "
            f"{row.measured.cold_starts:>6} {row.measured.aborted_share:>7.2%} {row.measured.unforeseen:>7.0%}   {its}   "
            f"{row.bounds.clairvoyant / 3600:.1f} GPU-h at {row.bounds.attained:.2%}"
        )
    return "\n".join(lines)


def judged(verdicts: Sequence[Verdict]) -> str:
    """Return the targets with what came out."""
    said = {True: "met   ", False: "MISSED", None: "-     "}
    return "\n".join(
        f"{said[one.met]} {one.target}\n       " + one.found.replace("; ", "\n       ") for one in verdicts
    )


def write_row(row: Row, path: Path) -> None:
    """Append a row as one line of JSON."""
    measured = asdict(row.measured)
    found = {
        "who": row.who,
        "scaler": row.scaler,
        "config": row.config,
        "trace": row.trace,
        "group": row.group.value,
        "load_seconds": row.load_seconds,
        "seed": row.seed,
        "slots": row.slots,
        "late_share": 1 - row.measured.attained,
        "cost_ratio": row.cost,
        "aborted_load_share": row.measured.aborted_share,
        "clairvoyant_gpu_hours": row.bounds.clairvoyant / 3600,
        "clairvoyant_attained": row.bounds.attained,
        "zero_wait_gpu_hours": row.bounds.zero_wait / 3600,
        "work_gpu_hours": row.bounds.work / 3600,
        **{name: value if value != float("inf") else None for name, value in measured.items()},
    }
    with path.open("a") as out:
        out.write(json.dumps(found) + "\n")
