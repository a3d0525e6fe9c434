"""The judge of tests/bad: what it lets pass, and what it does not."""

import subprocess
from collections.abc import Callable

import pytest

from tests.bad.__main__ import table
from tests.bad.samples import FOLDER, Kubectl, Sample, judge, read

SAMPLE = Sample(
    "kind/a.yaml", "It is wrong.", "spec.a", "must be", ({"kind": "K", "metadata": {"name": "bad"}},)
)


def _answers(code: int, words: str) -> Kubectl:
    def kubectl(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, code, "k/bad configured", words)

    return kubectl


@pytest.mark.parametrize(
    ("code", "words", "lacks"),
    [
        (1, "spec.a: Invalid value: must be small", ""),
        (0, "", "it was accepted"),
        (1, "spec.b: Invalid value: must be small", "it does not name spec.a"),
        (1, "spec.a: Invalid value: no", "it does not say 'must be'"),
        (1, "spec.a: must be: spec.a in body should match '^x$'", "it shows a regular expression"),
    ],
)
def test_an_answer_must_refuse_and_help(code: int, words: str, lacks: str) -> None:
    verdict = judge(SAMPLE, _answers(code, words), "default")
    assert verdict.lacks == lacks
    assert verdict.good == (not lacks)
    shown = "\n".join(table([verdict], 120))
    assert ("BAD" in shown) == bool(lacks)
    assert "It is wrong." in shown


def test_a_good_object_that_is_refused_proves_nothing() -> None:
    two = Sample("kind/a.yaml", "It is wrong.", "spec.a", "must be", SAMPLE.bodies * 2)
    verdict = judge(two, _answers(1, "spec.a: must be"), "default")
    assert verdict.lacks == "the good object before it is refused"


def test_a_sample_without_its_expectation_is_a_mistake(tmp_path_below: Callable[[str], None]) -> None:
    with pytest.raises(ValueError, match="needs the comments"):
        tmp_path_below("# Wrong: all of it\nkind: K\n")


@pytest.fixture
def tmp_path_below(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    folder = tmp_path_factory.mktemp("bad")
    monkeypatch.setattr("tests.bad.samples.FOLDER", folder)

    def read_text(text: str) -> None:
        (folder / "a.yaml").write_text(text)
        read(folder / "a.yaml")

    return read_text


def test_every_sample_is_read() -> None:
    for path in FOLDER.glob("*/*.yaml"):
        sample = read(path)
        assert sample.bodies[-1]["kind"].lower() == path.parent.name, path
