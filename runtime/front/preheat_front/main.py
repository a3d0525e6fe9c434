"""The front's process: knows who sleeps, answers for them, tells the operator who was asked for."""

import asyncio
import logging
import os
import resource
import signal
import sys
import time

from preheat_front.config import Config, ConfigError, from_environment
from preheat_front.control import Control, routes
from preheat_front.doors import Doors
from preheat_front.slices import sleepers
from preheat_front.tally import Tally
from preheat_front.watch import Watch

SETTLE_SECONDS = 0.1
"""Between two looks at all slices: when a pod of the front comes, all of them are written."""

log = logging.getLogger(__name__)


def main() -> None:
    """Run until SIGTERM or SIGINT. Ends with exit code 2 and a sentence when the configuration is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        config = from_environment(os.environ)
    except ConfigError as error:
        print(f"preheat-front: {error}", file=sys.stderr)
        sys.exit(2)
    _allow_many_sockets()
    asyncio.run(run(config))


async def run(config: Config) -> None:
    """Serve until told to end, and a moment longer: clients come as long as a slice has our address."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    tally = Tally(time.monotonic)
    doors = Doors(config, tally, time.time)

    watch = Watch(config.api_server, config.account)
    control = Control(routes(tally, doors, told.is_set, lambda: watch.failures))
    await control.start(config.control_port)
    work = {
        asyncio.create_task(watch.run_forever(), name="watch"),
        asyncio.create_task(_show_forever(watch, doors, config), name="show"),
    }
    waiting = asyncio.create_task(told.wait(), name="told")
    await asyncio.wait({*work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for task in work:
        if task.done():
            await task  # it never ends by itself: whatever it was, the kubelet starts us again
    log.info("told to end; answering for %g s more", config.drain_seconds)
    await asyncio.sleep(config.drain_seconds)
    for task in work:
        task.cancel()
    await doors.close()
    await control.stop()


async def _show_forever(watch: Watch, doors: Doors, config: Config) -> None:
    """Listen as the slices say. Of many changes at once only what comes of them is looked at."""
    while True:
        slices = await watch.news()
        await doors.show(sleepers(slices.values(), config.first_port, config.last_port))
        await asyncio.sleep(SETTLE_SECONDS)


def _allow_many_sockets() -> None:
    """Take as many open files as we may have: a deployment takes two, one for each family of addresses."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
