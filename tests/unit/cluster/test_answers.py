"""What each answer of the API server means: mend the spec, or try again."""

import json

import pytest
from preheat.cluster.kube import _translated
from preheat.errors import Denied, Forbidden, InvalidSpec, NotYet, Unavailable

TYPED = (
    "failed to create typed patch object (default/x; apps/v1, Kind=Deployment): .spec.foo: field not declared"
)
QUANTITY = "failed to convert new object (default/x; apps/v1, Kind=Deployment) to proper version: quantities must match"


@pytest.mark.parametrize(
    ("status", "words", "meaning"),
    [
        (400, "bad", InvalidSpec),
        (422, "spec.x: Invalid value", InvalidSpec),
        (500, TYPED, InvalidSpec),
        (500, QUANTITY, InvalidSpec),
        (500, "etcdserver: request timed out", Unavailable),
        (503, TYPED, Unavailable),
        (409, "Operation cannot be fulfilled", Unavailable),
        (403, "exceeded quota", Forbidden),
        (400, 'admission webhook "team.example.org" denied the request: no owner', Denied),
        (
            422,
            "deployments.apps x is forbidden: ValidatingAdmissionPolicy 'team' with binding 'all' denied request: no owner",
            Denied,
        ),
        (403, 'cannot set blockOwnerDeletion: no matches for kind "LLMDeployment"', NotYet),
        (429, "too many requests", Unavailable),
    ],
)
def test_an_answer_says_what_to_do_next(status: int, words: str, meaning: type[Exception]) -> None:
    error = _translated(status, "reason", json.dumps({"message": words}), "PATCH /x")
    assert type(error) is meaning
    assert words in str(error)
