"""The only file that imports kopf: it watches, and tells the controller what it saw.

kopf's handlers here write nothing, return nothing and decide nothing: no finalizer, no annotation, no diff.
"""

import asyncio
import logging
import os
from typing import Any

import kopf

from preheat.cluster.kinds import KINDS, Kind
from preheat.controller.service import Controller

CONNECT_SECONDS, REQUEST_SECONDS = 10, 30


def registry(controller: Controller) -> kopf.OperatorRegistry:
    """Return kopf's handlers, bound to one controller."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers, id="login")
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_via_client(**kwargs)

    @kopf.on.startup(registry=handlers, id="start")
    async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)
        await controller.start()

    @kopf.on.cleanup(registry=handlers, id="stop")
    async def stop(**_: Any) -> None:
        await controller.stop()

    for kind in KINDS.values():
        if kind.watched:
            _watch(handlers, kind, controller)
    return handlers


def _watch(handlers: kopf.OperatorRegistry, kind: Kind, controller: Controller) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=handlers, id=f"saw-{kind.plural}")
    async def saw(event: kopf.RawEvent, **_: Any) -> None:
        body = {"apiVersion": kind.api_version, "kind": kind.name, **event["object"]}
        controller.saw(event["type"], body)


def configure(settings: kopf.OperatorSettings) -> None:
    """Set what kopf leaves open: no writes of its own, and only objects that concern us."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS
    for kind in KINDS.values():
        if kind.selector:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector


def run(controller: Controller) -> None:
    """Run until SIGTERM or SIGINT. Blocks."""
    level = logging.DEBUG if os.environ.get("PREHEAT_DEBUG") else logging.INFO
    as_json = os.environ.get("PREHEAT_LOG_FORMAT", "json") == "json"
    kopf.configure(
        log_format=kopf.LogFormat.JSON if as_json else kopf.LogFormat.FULL,
        debug=level == logging.DEBUG,
    )
    # kopf tells of every handler that succeeded, httpx of every request; ours only pass events on and poll.
    for name in ("kopf.objects", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    asyncio.run(kopf.operator(registry=registry(controller), clusterwide=True, standalone=True))
