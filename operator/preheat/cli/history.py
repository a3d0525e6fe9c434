"""``kubectl preheat history`` and ``rollback``: the revisions that are stored, and the way to one. Pure: objects in, lines out."""

from collections.abc import Sequence

from preheat.api.constants import ANNOTATION_SERVED, ANNOTATION_SOAKED
from preheat.api.llmdeployment import LLMDeployment
from preheat.decide.judgement.failure import Failure, failure_of
from preheat.decide.observed import Body, is_controlled_by
from preheat.decide.target import choose_target
from preheat.errors import InvalidSpec
from preheat.resources.serving import Revision, parse_controller_revision, revision_id


def revisions_of(service: LLMDeployment, bodies: Sequence[Body]) -> list[Revision]:
    """Return the stored revisions of a service, the newest first, of all objects of its namespace."""
    mine = (parse_controller_revision(dict(body)) for body in bodies if is_controlled_by(body, service.uid))
    return sorted((r for r in mine if r is not None), key=lambda r: (-r.number, r.gpu_type))


def lines(service: LLMDeployment, stored: Sequence[Revision]) -> list[str]:
    """Return a table: one line per revision and GPU type, and why a revision failed."""
    wanted, target = revision_id(service), choose_target(service, stored).id
    replicas = {(c.revision, c.gpu_type): f"{c.ready_replicas}/{c.replicas}" for c in service.status.children}
    rows = [("NUMBER", "REVISION", "GPU TYPE", "CACHE", "STATE", "REPLICAS", "")]
    for r in stored:
        notes = [*(["spec"] if r.id == wanted else []), *(["wanted"] if r.id == target else [])]
        count = replicas.get((r.id, r.gpu_type.value), "0/0")
        rows.append(
            (str(r.number), r.id, r.gpu_type.value, r.cache, _state(stored, r), count, ", ".join(notes))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    failures = ((i, failure_of(stored, i)) for i in dict.fromkeys(r.id for r in stored))
    return [*table, *(f"{i}: {_told(failure)}" for i, failure in failures if failure is not None)]


def _state(stored: Sequence[Revision], revision: Revision) -> str:
    failure = failure_of(stored, revision.id)
    if failure is not None:
        return failure.reason.value
    if ANNOTATION_SOAKED in revision.marks:
        return "Soaked"
    return "Served" if ANNOTATION_SERVED in revision.marks else "-"


def _told(failure: Failure) -> str:
    return f"{failure.reason} at {failure.time:%Y-%m-%dT%H:%M:%SZ}: {failure.message}"


def way_to(service: LLMDeployment, stored: Sequence[Revision], to: str | None) -> tuple[str, str]:
    """Return the value of the annotation that goes back, and what it does in words.

    ``to``: a number or an id; None: the newest revision but the one that is wanted, a failed one left out.
    Raises InvalidSpec where there is none such.
    """
    wanted, target = revision_id(service), choose_target(service, stored).id
    there = ", ".join(dict.fromkeys(f"{r.number} ({r.id})" for r in stored)) or "none"
    if to is None:
        found = next((r for r in stored if r.id != target and failure_of(stored, r.id) is None), None)
    else:
        found = next((r for r in stored if to in {str(r.number), r.id}), None)
    if found is None:
        raise InvalidSpec(f"{service.name} has no revision {to or 'to go back to'}. There are: {there}.")
    words = (
        f"{service.namespace}/{service.name}: revision {found.number} ({found.id}) is wanted instead of {target}, "
        f"until the spec asks for another one than {wanted}."
    )
    return f"{found.number}@{wanted}", words
