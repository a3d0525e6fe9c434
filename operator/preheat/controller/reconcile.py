"""One pass over one object: observe, decide, apply. Here the parts meet; nothing is decided here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from preheat.api.constants import NODE_LABEL_PREFIX
from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.api.parse import InvalidSpecError, parse, parse_header
from preheat.cluster.kube import Kube
from preheat.cluster.sidecars import Sidecars
from preheat.config import OperatorConfig
from preheat.controller.apply import Writer
from preheat.controller.observe import observe_cache, observe_orphans, observe_service
from preheat.controller.view import Key, View, parents
from preheat.decide.caching import decide_cache
from preheat.decide.orphans import decide_orphans
from preheat.decide.refusals import unreadable
from preheat.decide.serving import decide_service
from preheat.resources.metadata import Manifest

ORPHANS: Key = ("Orphans", "", "")
"""The loop over what no owner can delete: one for the whole cluster."""


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Everything that a pass needs, built once at start."""

    view: View
    kube: Kube
    sidecars: Sidecars
    writer: Writer
    config: OperatorConfig
    clock: Callable[[], datetime]

    async def reconcile(self, key: Key) -> float | None:
        """Make one pass over one object; return the delay until the next, None when it is gone."""
        if key == ORPHANS:
            return await self._orphans()
        body = self.view.get(*key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            return None
        if key[0] == "LLMDeployment":
            return await self._service(body)
        return await self._cache(body)

    async def _service(self, body: Manifest) -> float:
        try:
            service = parse(LLMDeployment, body)
        except InvalidSpecError as problem:
            return await self._unreadable(parse_header(LLMDeployment, body), body, str(problem))
        seen = await observe_service(service, self.view, self.sidecars)
        now = self.clock()
        plan = decide_service(service, seen, self.config, now)
        await self.writer.apply(service, body, plan, now)
        return plan.requeue_after

    async def _cache(self, body: Manifest) -> float:
        try:
            cache = parse(ModelCache, body)
        except InvalidSpecError as problem:
            return await self._unreadable(parse_header(ModelCache, body), body, str(problem))
        seen = await observe_cache(cache, self.view, self.sidecars)
        now = self.clock()
        plan = decide_cache(cache, seen, self.config, now)
        await self.writer.apply(cache, body, plan, now)
        return plan.requeue_after

    async def _unreadable(self, subject: LLMDeployment | ModelCache, body: Manifest, problem: str) -> float:
        now = self.clock()
        plan = unreadable(subject, problem, now)
        await self.writer.apply(subject, body, plan, now)
        return plan.requeue_after

    async def _orphans(self) -> float:
        plan = decide_orphans(observe_orphans(self.view))
        await self.writer.write_orphans(plan.writes)
        return plan.requeue_after


def concerned(body: Manifest, view: View) -> Sequence[Key]:
    """Return the loops that a change of an object concerns.

    A ModelCache concerns every LLMDeployment of its namespace that may use it, a node those objects that
    are not settled (and all of them when it comes or goes: the next resync tells the settled ones).
    """
    kind, metadata = body["kind"], body["metadata"]
    namespace = metadata.get("namespace", "")
    if kind == "LLMDeployment":
        return [(kind, namespace, metadata["name"])]
    if kind == "ModelCache":
        services = [
            ("LLMDeployment", namespace, service["metadata"]["name"])
            for service in view.all("LLMDeployment", namespace)
            if _uses(service, metadata["name"])
        ]
        return [(kind, namespace, metadata["name"]), *services, ORPHANS]
    if kind == "Node":
        unsettled = [
            (one, o["metadata"]["namespace"], o["metadata"]["name"])
            for one in ("LLMDeployment", "ModelCache")
            for o in view.all(one)
            if not _is_ready(o)
        ]
        marked = any(k.startswith(NODE_LABEL_PREFIX) for k in metadata.get("labels") or {})
        return [*unsettled, ORPHANS] if marked else unsettled
    if kind == "PersistentVolume":
        return [ORPHANS]
    return parents(body)


def _uses(service: Manifest, cache: str) -> bool:
    used = ((service.get("status") or {}).get("cache") or {}).get("name")
    return used is None or used == cache or not _is_ready(service)


def _is_ready(body: Manifest) -> bool:
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
