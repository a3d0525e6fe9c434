"""What the store serves is what the specs ask for."""

import hashlib
import json

import pytest

from e2e.rollout.cases import CASES
from e2e.rollout.revisions import ALL, BAD, files, filled

PREFIX_BYTES = 200_000
"""kubectl apply keeps a copy in an annotation: 256 KiB is the most that it takes."""


def test_there_are_twelve_bad_revisions_each_with_a_reason() -> None:
    assert len(BAD) == 12
    assert all(revision.reasons for revision in BAD)


def test_every_revision_is_stored_but_the_missing_one() -> None:
    folders = {path.partition("/")[0] for path in files()}
    assert set(ALL) - folders == {"missing-weights"}
    behaviour = files()["empty-answers/m/1/behaviour.json"]
    assert isinstance(behaviour, str)
    assert json.loads(behaviour)["answers"] == "empty"


@pytest.mark.parametrize(("name", "wrong"), [("good-1", []), ("corrupt-weights", ["m/1/weights.dat"])])
def test_what_is_stored_matches_its_digests_but_for_one_corrupt_file(name: str, wrong: list[str]) -> None:
    stored = {
        path.removeprefix(f"{name}/"): content.encode() if isinstance(content, str) else filled(content)
        for path, content in files().items()
        if path.startswith(f"{name}/")
    }
    lines = stored.pop("SHA256SUMS").decode().splitlines()
    told = {path: digest for digest, path in (text.split("  ") for text in lines)}
    assert set(told) == set(stored)
    assert [p for p, content in stored.items() if told[p] != hashlib.sha256(content).hexdigest()] == wrong


def test_the_store_fits_into_what_kubectl_applies() -> None:
    assert len(json.dumps(files())) < PREFIX_BYTES


def test_what_is_missing_before_a_pod_starts_is_tried_with_and_without_a_free_gpu() -> None:
    found = {revision.name for revision in ALL.values() if revision.moves_nothing}
    assert found == {"bad-image", "missing-secret"}
    assert {f"{kind}/{name}" for kind in ("bad", "bad-full") for name in found} <= set(CASES)


def test_names_of_cases_are_names_of_objects() -> None:
    assert all(len(name) <= 40 for name in CASES)
