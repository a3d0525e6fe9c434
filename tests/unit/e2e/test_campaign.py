"""What campaigns share: which cases run, and what is written of them."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e import campaign


@dataclass(frozen=True)
class Case:
    name: str
    words: str = "words"

    def play(self, stage: list[str], tell: campaign.Tell) -> campaign.Outcome:
        stage.append(self.name)
        tell("on its way")
        return campaign.Outcome(self.name, ["no verdict"] if self.name == "bad" else (), 60.0)


CASES = {name: Case(name) for name in ("good/a", "good/b", "bad")}


def test_cases_are_chosen_by_pattern_and_a_pattern_that_fits_none_is_told() -> None:
    assert campaign.chosen(CASES, ()) == list(CASES.values())
    assert campaign.chosen(CASES, ["good/*"]) == [CASES["good/a"], CASES["good/b"]]
    with pytest.raises(ValueError, match="no case is called 'no': there are good/a, good/b, bad"):
        campaign.chosen(CASES, ["bad", "no"])


def test_each_case_is_played_told_of_and_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage: list[str] = []
    results = tmp_path / "bench" / "some.jsonl"
    outcomes = campaign.run(stage, list(CASES.values()), results)
    assert stage == list(CASES)
    said = capsys.readouterr().out
    assert "3/3 bad: words\non its way\n  bad     FAILED, 60 s\n    no verdict\n" in said
    written = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(line["case"], line["passed"]) for line in written] == [
        ("good/a", True),
        ("good/b", True),
        ("bad", False),
    ]
    assert campaign.table(("case",), lambda outcome: (outcome.case,), outcomes).splitlines() == [
        "case",
        "good/a  passed",
        "good/b  passed",
        "bad     FAILED",
        "  bad: no verdict",
        "cases run: 3, failed: 1; 3.0 minutes",
    ]
