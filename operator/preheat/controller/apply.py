"""All writes of one pass: children in order, then the status once, then the events that tell of it.

Every write may be the last before a crash: each is safe to repeat, and none is remembered anywhere but in
the cluster. A child that cannot be written does not keep the status from being written.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from preheat.api.constants import API_VERSION
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.cluster.kube import Kube
from preheat.controller.telemetry import Metrics
from preheat.controller.view import Key, View, key_of
from preheat.decide.changes import check_owner, differs, fingerprint
from preheat.decide.plan import Apply, Delete, EventDraft, LabelNode, Plan, Write
from preheat.decide.refusals import with_refusal
from preheat.errors import InvalidSpec, PreheatError, Unavailable
from preheat.resources.metadata import Manifest
from preheat.resources.names import digest, fit

Subject = LLMDeployment | ModelCache

log = logging.getLogger(__name__)


class Writer:
    """Makes writes, and leaves out those that would change nothing."""

    def __init__(self, kube: Kube, view: View, metrics: Metrics, changed: Callable[[Manifest], None]) -> None:
        self._kube = kube
        self._view = view
        self._metrics = metrics
        self._changed = changed
        self._good_enough: dict[Key, str] = {}

    async def apply(self, subject: Subject, body: dict[str, Any], plan: Plan, now: datetime) -> None:
        """Carry a plan out. Raises Unavailable when something outside kept it from being carried out."""
        refusal = await self._write_all(plan.writes)
        if refusal is not None:
            plan = with_refusal(subject, plan, refusal, now)
        if plan.status is not None and plan.status != (body.get("status") or {}):
            kind = type(subject).__name__
            written = await self._kube.apply_status(
                kind, subject.namespace, subject.name, subject.uid, plan.status
            )
            if written is not None:
                self._learn(written)
            self._metrics.writes.labels(kind, "status").inc()
            for draft in plan.events:
                await self._emit(subject, draft, now)
        if isinstance(refusal, Unavailable):
            raise refusal

    async def write_orphans(self, writes: Sequence[Write]) -> None:
        """Carry out writes that belong to no object."""
        refusal = await self._write_all(writes)
        if refusal is not None:
            raise refusal

    async def _write_all(self, writes: Sequence[Write]) -> PreheatError | None:
        """Make the writes in order up to the first that fails; return why it did."""
        try:
            for write in writes:
                await self._write(write)
        except PreheatError as error:
            return error
        return None

    async def _write(self, write: Write) -> None:
        match write:
            case Apply():
                await self._apply(write)
            case Delete():
                self._metrics.writes.labels(write.kind, "delete").inc()
                left = await self._kube.delete(write.kind, write.namespace, write.name, write.uid)
                self._unlearn(write, left)
            case LabelNode():
                self._metrics.writes.labels("Node", "patch").inc()
                node = await self._kube.label_node(write.node, write.key, write.value)
                if node is not None:
                    self._learn({"apiVersion": "v1", "kind": "Node", **node})

    async def _apply(self, write: Apply) -> None:
        manifest = write.manifest
        key = key_of(manifest)
        live = self._view.get(*key)
        if live is None:
            # Ask before the first write: the name may be taken by somebody whose object we do not watch.
            live = await self._kube.get(*key)
        if live is not None:
            check_owner(manifest, live)
            if "deletionTimestamp" in live["metadata"]:
                raise Unavailable(f"{'/'.join(key)} is being deleted; waiting until it is gone")
            if write.once or not differs(manifest, live):
                self._view.put(live)
                return
            if self._good_enough.get(key) == fingerprint(manifest, live):
                return
        self._metrics.writes.labels(key[0], "apply").inc()
        result = await self._kube.apply(manifest)
        self._learn(result)
        self._good_enough.pop(key, None)
        if differs(manifest, result):
            self._good_enough[key] = fingerprint(manifest, result)

    def _learn(self, body: Manifest) -> None:
        """Know our own write at once, and wake whom it concerns: its echo in the watch tells nothing new."""
        if self._view.put(body):
            self._changed(body)

    def _unlearn(self, write: Delete, left: Manifest | None) -> None:
        """Know our own deletion at once."""
        if left is not None:
            self._learn(left)
            return
        known = self._view.get(write.kind, write.namespace, write.name)
        if known is not None and known["metadata"].get("uid") == write.uid and self._view.remove(known):
            self._changed(known)

    async def _emit(self, subject: Subject, draft: EventDraft, now: datetime) -> None:
        kind = type(subject).__name__
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": _event_name(subject, draft, now), "namespace": subject.namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "preheat.dev/operator",
            "reportingInstance": "preheat-operator",
            "action": "Reconcile",
            "reason": draft.reason,
            "note": draft.message[:1024],
            "type": "Warning" if draft.warning else "Normal",
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
        }
        log.info("%s %s/%s: %s: %s", kind, subject.namespace, subject.name, draft.reason, draft.message)
        try:
            await self._kube.create_event(event)
        except (Unavailable, InvalidSpec) as error:
            log.warning("event not posted: %s", error)


def _event_name(subject: Subject, draft: EventDraft, now: datetime) -> str:
    return fit(f"{subject.name}.{digest([subject.uid, draft.reason, now.isoformat()], 16)}", 250)
