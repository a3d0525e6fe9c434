"""The door at which API objects become typed values. Below it there are no dicts of dicts."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from preheat.api.llmdeployment import LLMDeployment, LLMDeploymentStatus
from preheat.api.modelcache import ModelCache, ModelCacheStatus

T = TypeVar("T", LLMDeployment, ModelCache)


class InvalidSpecError(ValueError):
    """The object was written by hand or by an older API version and means nothing to us. Says which fields."""


def parse(kind: type[T], body: Mapping[str, Any]) -> T:
    """Return the typed object.

    A status that does not parse is dropped: it is ours to rewrite, and must never stop us.
    Raises InvalidSpecError for a spec that does not parse; the message names each field.
    """
    try:
        return kind.model_validate({**_header(kind, body), "spec": body.get("spec")})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False)[:5]
        )
        raise InvalidSpecError(problems) from error


def parse_header(kind: type[T], body: Mapping[str, Any]) -> T:
    """Return an object whose spec means nothing to us: name, status and all, but no spec to look at."""
    return kind.model_construct(**_header(kind, body))


def _header(kind: type[T], body: Mapping[str, Any]) -> dict[str, Any]:
    metadata = body.get("metadata", {})
    status_model = LLMDeploymentStatus if kind is LLMDeployment else ModelCacheStatus
    try:
        status = status_model.model_validate(body.get("status") or {})
    except ValidationError:
        status = status_model()
    return {
        "name": metadata.get("name"),
        "namespace": metadata.get("namespace"),
        "uid": metadata.get("uid", ""),
        "generation": metadata.get("generation", 0),
        "labels": metadata.get("labels") or {},
        "annotations": metadata.get("annotations") or {},
        "scaled_by": _scaled_by(metadata),
        "status": status,
    }


def _scaled_by(metadata: Mapping[str, Any]) -> str:
    """Return who set the number of replicas that holds, if that was through /scale, else nothing.

    Such an entry is for that one field: it goes when somebody sets the number in another way. It has no time.
    """
    entries = metadata.get("managedFields") or ()
    return next((str(e.get("manager", "")) for e in entries if e.get("subresource") == "scale"), "")
