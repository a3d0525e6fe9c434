"""An operator with a bug that many have: it writes its status first, and never tries a failed pass again.

Only for the campaign's own test: a campaign that does not find this one finds nothing.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from preheat.controller import service
from preheat.controller.apply import Subject, Writer
from preheat.decide.plan import RESYNC_SECONDS, Plan
from preheat.errors import PreheatError
from preheat.main import main
from typing_extensions import override


class Hasty(Writer):
    """Takes "told" for "done": once the status has seen a generation, nothing is written for it again."""

    @override
    async def apply(
        self,
        subject: Subject,
        body: dict[str, Any],
        plan: Plan,
        now: datetime,
        decided_from: Sequence[Any] = (),
    ) -> float:
        """Write the status first, then the children, once; forget what went wrong."""
        told = (body.get("status") or {}).get("observedGeneration")
        if plan.status is not None and plan.status != (body.get("status") or {}):
            await self._tell(subject, plan, now)
        if told != subject.generation:
            with suppress(PreheatError):
                await self.write(plan.writes)
        return RESYNC_SECONDS


if __name__ == "__main__":
    service.Writer = Hasty  # type: ignore[attr-defined]
    main()
