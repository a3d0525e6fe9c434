"""A real API server refuses every object under tests/bad, in words that name the field and say what to do."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bad.samples import Sample, Verdict, judge, read_all
from tests.integration.conftest import API

SAMPLES = read_all()
LEAST = 120
"""So many there are: a glob that finds nothing would prove nothing."""
AT_ONCE = 4


@pytest.fixture(scope="module")
def verdicts(api: API) -> dict[str, Verdict]:
    """The verdict on every sample. Several at once: each is a kubectl of its own."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda sample: judge(sample, api.run, "default"), SAMPLES)
        return {verdict.sample.name: verdict for verdict in found}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name.removesuffix(".yaml"))
def test_bad_input_is_refused_with_words_that_help(verdicts: dict[str, Verdict], sample: Sample) -> None:
    verdict = verdicts[sample.name]
    assert verdict.good, f"{sample.wrong}\n{verdict.answer}\n{verdict.lacks}"


def test_the_samples_are_there() -> None:
    assert len(SAMPLES) >= LEAST
    assert {sample.bodies[-1]["kind"] for sample in SAMPLES} == {"LLMDeployment", "ModelCache"}
