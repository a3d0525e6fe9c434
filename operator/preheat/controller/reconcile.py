"""One pass over one object: observe, decide, apply. Here the parts meet; nothing is decided here."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from preheat.api.llmdeployment import LLMDeployment
from preheat.api.modelcache import ModelCache
from preheat.api.parse import InvalidSpecError, parse, parse_header
from preheat.cluster.sidecars import Sidecars
from preheat.config import OperatorConfig
from preheat.controller.apply import Writer
from preheat.controller.complaints import Complaints
from preheat.controller.concern import ORPHANS
from preheat.controller.disks import observe_node
from preheat.controller.front import Front
from preheat.controller.lists import Lists
from preheat.controller.observe import observe_cache, observe_orphans, observe_service
from preheat.controller.scaling import Scaling
from preheat.controller.turns import Turns
from preheat.controller.view import Key, View
from preheat.decide.caching import decide_cache
from preheat.decide.nodes import decide_node, takes_away
from preheat.decide.orphans import decide_orphans
from preheat.decide.refusals import broken, unreadable
from preheat.decide.serving import decide_service
from preheat.resources.metadata import Manifest


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Everything that a pass needs, built once at start."""

    view: View
    lists: Lists
    sidecars: Sidecars
    complaints: Complaints
    scaling: Scaling
    front: Front
    writer: Writer
    config: OperatorConfig
    clock: Callable[[], datetime]
    turns: Turns

    async def reconcile(self, key: Key) -> float | None:
        """Make one pass over one object; return the delay until the next, None when it is gone."""
        if key == ORPHANS:
            return await self._orphans()
        body = self.view.get(*key)
        if body is None or "deletionTimestamp" in body["metadata"]:
            self.writer.forget(key)
            self.scaling.forget(key)
            if key[0] == "LLMDeployment":
                self.turns.forget((key[1], key[2]))
            return None
        if key[0] == "Node":
            return await self._node(key)
        if key[0] == "LLMDeployment":
            return await self._service(body)
        return await self._cache(body)

    async def confess(self, key: Key, bug: Exception) -> None:
        """Have an object tell that its pass failed for a reason that nobody foresaw."""
        body = self.view.get(*key)
        if body is None or key[0] not in {"LLMDeployment", "ModelCache"}:
            return
        subject = (
            parse_header(LLMDeployment, body) if key[0] == "LLMDeployment" else parse_header(ModelCache, body)
        )
        now = self.clock()
        await self.writer.apply(subject, body, broken(subject, bug, now), now)

    async def _service(self, body: Manifest) -> float:
        try:
            service = parse(LLMDeployment, body)
        except InvalidSpecError as problem:
            return await self._unreadable(parse_header(LLMDeployment, body), body, str(problem))
        now = self.clock()
        seen = await observe_service(
            service, self.view, self.sidecars, self.complaints, self.scaling, self.front, now
        )
        plan = decide_service(service, seen, self.config, now)
        self.scaling.took(service, seen.scaling, plan.scaled)
        self.turns.show(service, seen.pods, plan)
        await self.sidecars.advise(plan.advice)
        return await self.writer.apply(service, body, plan, now, seen.children)

    async def _cache(self, body: Manifest) -> float:
        try:
            cache = parse(ModelCache, body)
        except InvalidSpecError as problem:
            return await self._unreadable(parse_header(ModelCache, body), body, str(problem))
        now = self.clock()
        seen = await observe_cache(cache, self.view, self.sidecars, self.complaints, self.config, now)
        if cache.status.in_use and not seen.in_use:
            # When it was used last is told once: not because a watch told of one Deployment and not yet of another.
            await self.lists.make_sure()
            seen = await observe_cache(cache, self.view, self.sidecars, self.complaints, self.config, now)
        plan = decide_cache(cache, seen, self.config, now)
        return await self.writer.apply(cache, body, plan, now)

    async def _unreadable(self, subject: LLMDeployment | ModelCache, body: Manifest, problem: str) -> float:
        now = self.clock()
        return await self.writer.apply(subject, body, unreadable(subject, problem, now), now)

    async def _node(self, key: Key) -> float | None:
        now = self.clock()
        seen = observe_node(key, self.view, self.config, now)
        if not seen.held:
            return None
        plan = decide_node(seen, self.config, now)
        if takes_away(plan):
            await self.lists.make_sure()
            if self.view.get(*key) is None:
                return None  # It went meanwhile.
            plan = decide_node(observe_node(key, self.view, self.config, now), self.config, now)
        await self.writer.write(plan.writes)
        return plan.requeue_after

    async def _orphans(self) -> float:
        plan = decide_orphans(observe_orphans(self.view))
        if plan.writes:
            await self.lists.make_sure()
            plan = decide_orphans(observe_orphans(self.view))
        await self.writer.write(plan.writes)
        return plan.requeue_after
