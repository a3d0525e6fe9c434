"""What ``kubectl preheat simulate`` prints of a step."""

from pathlib import Path

import pytest
from preheat.cli import simulate

from tests.golden.golden import check
from tests.unit.cli.test_simulate import COUNTS, PREDICTIVE, asked


async def test_the_picture_is_eighty_columns_wide_and_the_same_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svg = tmp_path / "out.svg"
    assert (
        await simulate.run(asked(tmp_path, PREDICTIVE, COUNTS, "--load-seconds", "120", "--svg", str(svg)))
        == 0
    )
    told = capsys.readouterr().out
    check(Path(__file__).parent / "simulate" / "step.txt", told)
    assert "\x1b" not in told
    assert max(map(len, told.splitlines())) <= 80
    assert "prefers-color-scheme: dark" in svg.read_text()
