"""Asks the pods of the front who was asked for, and wakes whose replicas are all gone: one question for all deployments.

What they counted waits here until the pass over that deployment takes it. Counts only grow, so an answer that fails to
come is made up for by the next. While no deployment may be at zero nobody is asked.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from preheat.api.llmdeployment import LLMDeployment
from preheat.cluster.sidecars import Sidecars
from preheat.config import OperatorConfig
from preheat.controller.concern import is_of_front
from preheat.controller.view import Key, View, key_of
from preheat.decide.front import FrontObservation, choose_port, grown, may_sleep, port_of
from preheat.decide.observed import FrontReport, Name, PodView
from preheat.resources.metadata import Manifest
from preheat.resources.names import front_name

ASK_SECONDS = 2.0
"""How long a request may be unseen, about."""
FRESH_SECONDS = 10.0
"""A pod of the front that answered longer ago is silent."""

log = logging.getLogger(__name__)


class _Slice(NamedTuple):
    """Who has which port at the front, and since when."""

    key: Key
    port: int
    age: tuple[str, str]


class Front:
    """Owned by one event loop."""

    def __init__(
        self,
        sidecars: Sidecars,
        view: View,
        config: OperatorConfig,
        wake: Callable[[Key], None],
        clock: Callable[[], float],
    ) -> None:
        self._sidecars = sidecars
        self._view = view
        self._config = config
        self._wake = wake
        self._clock = clock
        self._answers: dict[str, tuple[FrontReport, float]] = {}
        """What each pod answered last, and when, by its uid."""
        self._waiting: Counter[Name] = Counter()
        """Arrivals that no pass has taken yet."""
        self._given: dict[Name, int] = {}
        """Ports that were given since, and lie in no slice yet: two passes at once must not choose the same."""

    async def ask_forever(self) -> None:
        """Ask until cancelled."""
        while True:
            await asyncio.sleep(ASK_SECONDS)
            try:
                await self.ask()
            except Exception:  # as in the loop: without it, nobody would ever be woken again
                log.exception("front: unexpected error; again in %g s", ASK_SECONDS)

    async def ask(self) -> None:
        """Ask every pod of the front once, if there is anybody to ask for."""
        pods = self._pods() if self._view.keys("EndpointSlice") else {}
        reports = await self._sidecars.fronts(pods) if pods else {}
        self._answers = {uid: answer for uid, answer in self._answers.items() if uid in pods}
        for uid, report in reports.items():
            before = self._answers.get(uid)
            self._answers[uid] = (report, self._clock())
            for name, many in grown(before[0] if before else None, report).items():
                key = ("LLMDeployment", *name)
                if self._view.get(*key) is not None:
                    self._waiting[name] += many
                    self._wake(key)

    def observe(self, service: LLMDeployment) -> FrontObservation:
        """Return what a pass over one LLMDeployment looks at."""
        live = self._view.get("EndpointSlice", service.namespace, front_name(service.name))
        enabled = self._config.front
        return FrontObservation(
            enabled=enabled,
            addresses=tuple(sorted(self._pods().values())) if enabled else (),
            live=live,
            port=self._port(service, port_of(live) if live else None)
            if enabled and may_sleep(service)
            else None,
        )

    def is_asked_for(self, service: LLMDeployment) -> bool:
        """Tell whether the front counts for an LLMDeployment."""
        return self._config.front and may_sleep(service)

    def waits(self, service: LLMDeployment) -> bool:
        """Tell whether somebody came of whom no pass knows yet."""
        return self._waiting[service.namespace, service.name] > 0

    def take(self, service: LLMDeployment) -> float | None:
        """Return how many came since this was asked last. None: nobody is known to have come, and not all pods tell."""
        many = self._waiting.pop((service.namespace, service.name), 0)
        return float(many) if many or self._all_tell() else None

    def forget(self, key: Key) -> None:
        """Drop what is remembered of an LLMDeployment that is gone."""
        self._waiting.pop((key[1], key[2]), None)
        self._given.pop((key[1], key[2]), None)

    def _all_tell(self) -> bool:
        pods, now = self._pods(), self._clock()
        fresh = {uid for uid, (_, at) in self._answers.items() if now - at <= FRESH_SECONDS}
        return bool(pods) and pods.keys() <= fresh

    def _pods(self) -> dict[str, str]:
        """Return the addresses of the front's pods that are ready, by their uids."""
        return self._view.memo(("FrontPods", "", ""), self._find_pods)

    def _find_pods(self) -> dict[str, str]:
        home = self._config.namespace
        bodies = (body for body in self._view.all("Pod", home) if is_of_front(body, home))
        pods = (self._view.derived(key_of(body), _front_pod) for body in bodies)
        return {pod.uid: pod.ip for pod in pods if pod.ready and pod.ip and not pod.deleting}

    def _port(self, service: LLMDeployment, mine: int | None) -> int | None:
        name = (service.namespace, service.name)
        before = self._given.get(name) if mine is None else mine
        taken = {port for other, port in self._given.items() if other != name} | self._taken(name)
        port = choose_port("/".join(name), before, taken)
        if mine is not None and mine == port:
            self._given.pop(name, None)
        elif port is not None:
            self._given[name] = port
        return port

    def _taken(self, name: Name) -> set[int]:
        """Return the ports of others' slices; where one has ours as well, it goes before us only if it is older, as at the front."""
        slices = self._view.memo(("FrontPorts", "", ""), self._read_slices)
        key = ("EndpointSlice", name[0], front_name(name[1]))
        mine = next((one for one in slices if one.key == key), None)
        return {
            one.port
            for one in slices
            if one.key != key and (mine is None or one.port != mine.port or one.age < mine.age)
        }

    def _read_slices(self) -> list[_Slice]:
        bodies = self._view.all("EndpointSlice")
        ports = ((body, port_of(body)) for body in bodies)
        return [_Slice(key_of(body), port, _age(body)) for body, port in ports if port is not None]


def _age(body: Manifest) -> tuple[str, str]:
    return str(body["metadata"].get("creationTimestamp", "")), str(body["metadata"].get("uid", ""))


def _front_pod(body: Manifest) -> PodView:
    return PodView.from_body(body, main="front")
