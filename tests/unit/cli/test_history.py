"""``kubectl preheat history`` and ``rollback``: what is stored, and what going back means."""

from dataclasses import replace

import pytest
from preheat.api.conditions import Reason
from preheat.api.constants import ANNOTATION_SOAKED, ANNOTATION_VERDICT
from preheat.cli.history import lines, way_to
from preheat.decide.judgement.failure import Failure
from preheat.errors import InvalidSpec
from preheat.resources.serving import Revision, revision_id

from tests.builders import a_service
from tests.unit.decide.judgement.test_target import NOW, a_revision

GOOD = a_service(runtime={"options": {"n_ctx": "512"}})
BAD = a_service(runtime={"options": {"n_ctx": "1024"}})


def stored() -> list[Revision]:
    verdict = Failure(Reason.LOAD_FAILED, "pod p: no such file.", NOW, revision_id(GOOD)).to_json()
    return [
        replace(a_revision(BAD, 2), marks={ANNOTATION_VERDICT: verdict}),
        replace(a_revision(GOOD, 1), marks={ANNOTATION_SOAKED: "2026-01-01T00:00:00Z"}),
    ]


def test_the_table_says_which_is_wanted_which_failed_and_why() -> None:
    head, bad, good, why = lines(BAD, stored())
    assert head.split() == ["NUMBER", "REVISION", "GPU", "TYPE", "CACHE", "STATE", "REPLICAS"]
    assert "LoadFailed" in bad
    assert bad.endswith("spec")
    assert "Soaked" in good
    assert good.endswith("wanted")
    assert why == f"{revision_id(BAD)}: LoadFailed at 2026-01-01T00:00:00Z: pod p: no such file."


def test_without_a_number_the_newest_that_did_not_fail_is_the_way_back() -> None:
    revisions = [a_revision(BAD, 2), stored()[1]]
    value, words = way_to(BAD, revisions, None)
    assert value == f"1@{revision_id(BAD)}"
    assert f"revision 1 ({revision_id(GOOD)}) is wanted" in words


@pytest.mark.parametrize("to", ["2", revision_id(BAD)])
def test_a_number_and_an_id_name_a_revision_a_failed_one_as_well(to: str) -> None:
    assert way_to(GOOD, stored(), to)[0] == f"2@{revision_id(GOOD)}"


def test_a_revision_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidSpec, match=r"has no revision 7\. There are: 2 \(.*\), 1 \("):
        way_to(BAD, stored(), "7")
