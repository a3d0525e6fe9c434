"""`make test-bad-input`: every bad object with the answer that its user sees, as a table and as JSON lines."""

import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

from e2e.cluster.local.controlplane import ControlPlane
from e2e.cluster.provider import KUBECTL, ROOT
from tests.bad.samples import Verdict, judge, read_all

RESULTS = ROOT / "build" / "bench" / "bad-input.jsonl"
AT_ONCE = 4
WIDEST, NARROWEST = 160, 100


def main() -> int:
    """Judge every sample; return 1 when the answer to one does not help."""
    samples = read_all()
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder) / "plane") as plane:

        def kubectl(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [KUBECTL, "--kubeconfig", str(plane.kubeconfig), *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
            )

        _check(kubectl("apply", "--server-side", "-f", str(ROOT / "crds")))
        _check(kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            verdicts = list(pool.map(lambda sample: judge(sample, kubectl, "default"), samples))
    for line in table(verdicts, _width()):
        print(line)
    bad = [verdict for verdict in verdicts if not verdict.good]
    _write(verdicts)
    print(
        f"\n{len(verdicts)} bad objects: {len(verdicts) - len(bad)} refused with words that help, {len(bad)} not."
    )
    print(f"Written to {RESULTS.relative_to(ROOT)}.")
    return 1 if bad else 0


def table(verdicts: Sequence[Verdict], width: int) -> list[str]:
    """Return the lines of the table."""
    file = 2 + max(len(verdict.sample.name.removesuffix(".yaml")) for verdict in verdicts)
    wrong = (width - file - 8) // 3
    answer = width - file - wrong - 8
    widths = (file, wrong, answer, 4)
    rule = "  ".join("─" * w for w in widths)
    lines = [_row(("file", "what is wrong", "what its user reads", ""), widths)[0], rule]
    for verdict in verdicts:
        said = verdict.answer if verdict.good else f"{verdict.answer}\nBAD: {verdict.lacks}"
        sample = verdict.sample
        cells = (sample.name.removesuffix(".yaml"), sample.wrong, said, "OK" if verdict.good else "BAD")
        lines += [*_row(cells, widths), rule]
    return lines


def _row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    columns = [
        [
            piece
            for line in cell.splitlines() or [""]
            for piece in textwrap.wrap(line, width, break_long_words=True, break_on_hyphens=False) or [""]
        ]
        for cell, width in zip(cells, widths, strict=True)
    ]
    return [
        "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*columns, fillvalue="")
    ]


def _write(verdicts: Sequence[Verdict]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    rows = (
        {
            "file": f"tests/bad/{v.sample.name}",
            "wrong": v.sample.wrong,
            "field": v.sample.field,
            "answer": v.answer,
            "ok": v.good,
            **({"lacks": v.lacks} if v.lacks else {}),
        }
        for v in verdicts
    )
    RESULTS.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _width() -> int:
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((140, 0)).columns))


def _check(result: subprocess.CompletedProcess[str]) -> None:
    if result.returncode:
        raise SystemExit(f"the API server does not take our definitions:\n{result.stderr}")


if __name__ == "__main__":
    sys.exit(main())
