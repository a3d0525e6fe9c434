"""The operator with a decision that takes two seconds for objects called ``slow-…``: a self-check of the measurement."""

import time
from typing import Any

from preheat import main
from preheat.controller import reconcile

SECONDS = 2.0


def run() -> None:
    """Run the operator's own main."""
    decide = reconcile.decide_service

    def slow(service: Any, *rest: Any) -> Any:
        if service.name.startswith("slow-"):
            time.sleep(SECONDS)
        return decide(service, *rest)

    reconcile.decide_service = slow
    main.main()


if __name__ == "__main__":
    run()
