"""`python -m e2e.bench.control_plane 500 1000`: measure, print, and end with 1 when a target is missed."""

import argparse
import signal
import sys

from e2e.bench.control_plane import report
from e2e.bench.control_plane.measure import STATES, measure
from e2e.cluster.provider import ROOT


def main() -> int:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m e2e.bench.control_plane", description=__doc__)
    parser.add_argument("objects", type=int, nargs="+", help="numbers of LLMDeployments, a run each")
    parser.add_argument("--states", default=",".join(STATES), help="of: %(default)s")
    parser.add_argument(
        "--idle-seconds", type=float, default=60, help="how long nothing changes [%(default)s]"
    )
    parser.add_argument("--no-bare", action="store_true", help="leave the bare client out")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that its clusters end, too
    out = ROOT / "build" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    results = out / "control-plane.jsonl"
    results.unlink(missing_ok=True)
    misses = 0
    for objects in asked.objects:
        for state in asked.states.split(","):
            with_bare = state == "settled" and not asked.no_bare
            case = measure(objects, state, asked.idle_seconds, with_bare=with_bare, logs=out)
            print(report.table(case), end="\n\n", flush=True)
            report.write_json(case, results)
            report.write_svg(case, out / f"control-plane-{objects}-{state}.svg")
            misses += len(report.missed(case))
    print(f"{results}; targets missed: {misses}")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
