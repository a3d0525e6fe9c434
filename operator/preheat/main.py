"""The operator's process: builds the parts once and runs them."""

import os
import sys
import time

from preheat import handlers
from preheat.cluster.kube import Kube
from preheat.cluster.prometheus import Prometheus
from preheat.cluster.sidecars import Sidecars
from preheat.config import OperatorConfig
from preheat.controller.service import Controller
from preheat.controller.telemetry import Metrics, Probe, serve

PORT = 8080
JSON_LEVELS = 11_000
"""So deep Python may read. The API server takes 10 000 levels, and one such object of a stranger, of which Python reads
1000, would keep a list from being read and a watch from going on. A thread's 8 MiB of stack take twice as many."""


def main() -> None:
    """Run the operator. Ends with exit code 2 and a sentence when the installation's settings are wrong."""
    metrics, probe = Metrics(), Probe(time.monotonic)

    def on_answer(what: str, outcome: str) -> None:
        metrics.prometheus.labels(what, outcome).inc()

    try:
        config = OperatorConfig.from_environment(os.environ)
        prometheus = Prometheus.open(config, on_answer)
    except ValueError as error:
        sys.exit(f"preheat-operator: {error}")
    sys.setrecursionlimit(JSON_LEVELS)
    stop = serve(int(os.environ.get("PREHEAT_PORT", PORT)), metrics, probe)
    try:
        kube = Kube(config.api_timeout_seconds)
        handlers.run(Controller(kube, Sidecars.open(), config, metrics, probe, prometheus=prometheus))
    finally:
        stop()


if __name__ == "__main__":
    main()
