"""Full lists: what watches do not tell, and what is too dear to be decided by what they told last.

Watches of different kinds have no common order, and an operator may have been stopped while another worked: it then
hears of a volume, or of a node's label, before the cache that they belong to. What looks as if nobody wanted it is
therefore asked for before it is taken away.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from preheat.cluster.kube import Kube
from preheat.controller.view import View
from preheat.errors import NotInstalled

SURE_SECONDS = 2.0
"""For so long after it was asked for, the cluster is taken to be as it was. A stopped process' clock goes on."""

OWNERS = ("LLMDeployment", "ModelCache", "Deployment", "Node")
"""Whose absence makes something unwanted."""


class Lists:
    """Reads full lists into the view."""

    def __init__(self, kube: Kube, view: View, clock: Callable[[], float]) -> None:
        self._kube = kube
        self._view = view
        self._clock = clock
        self._sure_until: float | None = None
        self._one_at_a_time = asyncio.Lock()
        self._reading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, kind: str) -> None:
        """List a kind. What was known of it before and is not there is gone: all of it, where the kind itself is.

        One list at a time: an older one that arrives later would bring back what was deleted in between.
        """
        async with self._reading[kind]:
            known = self._view.keys(kind)
            try:
                bodies, is_there = await self._kube.list_all(kind), True
            except NotInstalled:
                bodies, is_there = [], False
            self._view.replace(kind, bodies, known)
            self._view.know_kind(kind, installed=is_there)

    async def make_sure(self) -> None:
        """See to it that the view of all owners is no older than SURE_SECONDS.

        Raises Unavailable when the API server does not tell: then nothing may be taken away.
        """
        async with self._one_at_a_time:
            if self._sure_until is not None and self._clock() < self._sure_until:
                return
            asked = self._clock()
            for kind in OWNERS:
                await self.read(kind)
            self._sure_until = asked + SURE_SECONDS
