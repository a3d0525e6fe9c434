"""`make chaos-fetch`: runs the campaign, or a part of it, and prints what came of it.

python -m e2e.chaos.fetch [--case C] [--seed N] [--kills N] [--scale X] [--away-seconds S] [--plant P]
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from e2e.chaos.fetch.campaign import CASES, Choice, Outcome, run
from e2e.chaos.fetch.planted import PLANTS
from e2e.cluster.provider import ROOT


def main(arguments: list[str]) -> int:
    """Return 1 when something was not as it must be, or when nothing ran."""
    parser = argparse.ArgumentParser(
        prog="python -m e2e.chaos.fetch", description="A server that misbehaves."
    )
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="only this one")
    parser.add_argument("--seed", type=int, default=1, help="of the random bytes and places [%(default)s]")
    parser.add_argument("--kills", type=int, default=20, help="how often `killed` runs [%(default)s]")
    parser.add_argument("--scale", type=float, default=1.0, help="1 for 176 MiB [%(default)s]")
    parser.add_argument("--away-seconds", type=float, default=60.0, help="of `server gone` [%(default)s]")
    parser.add_argument("--plant", default="", choices=["", *PLANTS], help="plant a bug, which must be found")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "bench" / "chaos-fetch.jsonl")
    given = parser.parse_args(arguments)
    choice = Choice(
        seed=given.seed,
        kills=given.kills,
        scale=given.scale,
        away_seconds=given.away_seconds,
        cases=tuple(given.case or ()),
        plant=given.plant,
    )
    given.results.parent.mkdir(parents=True, exist_ok=True)
    given.results.write_text("")

    def tell(outcome: Outcome) -> None:
        with given.results.open("a") as out:
            out.write(json.dumps(asdict(outcome)) + "\n")
        if outcome.problem:
            print(f"  FAILED {outcome.case} {outcome.number}: {outcome.problem}", flush=True)

    outcomes = run(choice, tell)
    print(table(outcomes))
    ran = [outcome for outcome in outcomes if not outcome.skipped]
    failed = sum(bool(outcome.problem) for outcome in ran)
    wrong = sum("wrong file" in outcome.problem for outcome in ran)
    print(f"cases run: {len(ran)}, failed: {failed}, wrong files published: {wrong}; {given.results}")
    return 1 if failed or not ran else 0


def table(outcomes: list[Outcome]) -> str:
    """Return a line per case."""
    rows = [("case", "times", "as it must be", "ended as", "runs", "came again, most", "seconds")]
    for name in dict.fromkeys(outcome.case for outcome in outcomes):
        these = [outcome for outcome in outcomes if outcome.case == name]
        rows.append(
            (
                name,
                str(len(these)),
                str(sum(not outcome.problem for outcome in these)),
                ", ".join(sorted({outcome.ended for outcome in these})),
                str(sum(outcome.runs for outcome in these)),
                f"{max(outcome.again for outcome in these):.2%}",
                f"{sum(outcome.seconds for outcome in these):.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
