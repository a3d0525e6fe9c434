"""``kubectl preheat``: the program. Install it on PATH and kubectl finds it as a plugin.

Exit codes: 0 done (with -w: Ready), 1 not found, refused or timed out, 2 wrong usage.
"""

import argparse
import asyncio
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from preheat.api.constants import ANNOTATION_ROLLBACK_TO
from preheat.api.llmdeployment import LLMDeployment, ScalingMode
from preheat.api.modelcache import ModelCache
from preheat.api.parse import InvalidSpecError, parse
from preheat.cli import history, simulate, why
from preheat.cli import plan as plans
from preheat.cli import rollout as rollouts
from preheat.cli.applied import manager_of, merge_patch
from preheat.cli.live import KINDS, OF_ROUTES, observation
from preheat.cli.status import is_ready, screen
from preheat.cluster.kube import Kube, current_namespace
from preheat.config import OperatorConfig
from preheat.decide.autoscale import ScalingObservation
from preheat.decide.changes import differs
from preheat.decide.observed import NodeView
from preheat.decide.plan import Apply, Write
from preheat.decide.rollout.preview import preview, times_of
from preheat.decide.scaling import Memory
from preheat.decide.serving import decide_service, rollout_ahead
from preheat.decide.wish import ServiceObservation
from preheat.errors import InvalidSpec, NotInstalled, PreheatError
from preheat.resources.metadata import Manifest
from preheat.resources.serving import Revision

REFRESH_SECONDS = 0.5
TIMEOUT_SECONDS = 30.0


def main() -> None:
    """Run one command."""
    arguments = parser().parse_args()
    if getattr(arguments, "namespace", "") is None:
        arguments.namespace = current_namespace()
    try:
        sys.exit(asyncio.run(arguments.command(arguments)))
    except PreheatError as error:
        sys.exit(f"kubectl preheat: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read it has seen enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line: every command, with its help."""
    whole = argparse.ArgumentParser(
        prog="kubectl preheat",
        description="What Preheat does, and why.",
        epilog="Cluster and namespace are those of the kubeconfig's current context (KUBECONFIG, else ~/.kube/config), as "
        "kubectl takes them. Exit status: 0 done (with -w: Ready), 1 not found, refused or timed out, 2 wrong usage.",
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    status = _about_one(commands, "status", _status, "one LLMDeployment on one screen")
    status.add_argument("-w", "--watch", action="store_true", help="follow until it is Ready")
    status.add_argument(
        "--timeout",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="give up after so many (with -w) [3600]",
    )
    _about_one(commands, "why", _why, "why there are as many replicas as there are")
    _about_one(
        commands, "history", _history, "the revisions that are stored: which served, which failed and why"
    )
    rollback = _about_one(
        commands, "rollback", _rollback, "have another revision serve, until the spec changes"
    )
    rollback.add_argument(
        "--to", metavar="N", help="its number or its id; left out: the newest that did not fail"
    )
    plan = commands.add_parser(
        "plan",
        help="what applying a file would do",
        description="What applying a file would do. Nothing is changed. You need the right to apply it, which the API server is "
        "asked about, and to list nodes; of what is there already also pods, Deployments, ControllerRevisions and ModelCaches "
        "of all namespaces.",
    )
    plan.add_argument(
        "-f",
        "--filename",
        type=Path,
        required=True,
        metavar="FILE",
        help="YAML; the LLMDeployments in it are planned",
    )
    plan.add_argument("-n", "--namespace", help="of objects in the file that name none [the context's]")
    plan.set_defaults(command=_plan)
    simulate.add(commands)
    return whole


def _about_one(
    commands: Any, name: str, command: Callable[[argparse.Namespace], Awaitable[int]], words: str
) -> argparse.ArgumentParser:
    """Add and return a command about one LLMDeployment."""
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=f"{words[0].upper()}{words[1:]}."
    )
    added.add_argument("name", help="the LLMDeployment's")
    added.add_argument("-n", "--namespace", help="where it is [the context's]")
    added.set_defaults(command=command)
    return added


async def _status(arguments: argparse.Namespace) -> int:
    async with Kube(TIMEOUT_SECONDS) as kube:
        return await _follow(kube, arguments)


async def _why(arguments: argparse.Namespace) -> int:
    async with Kube(TIMEOUT_SECONDS) as kube:
        body = await kube.get("LLMDeployment", arguments.namespace, arguments.name)
    if body is None:
        return _not_found(arguments)
    print("\n".join(why.lines(parse(LLMDeployment, body))))
    return 0


async def _history(arguments: argparse.Namespace) -> int:
    async with Kube(TIMEOUT_SECONDS) as kube:
        body = await kube.get("LLMDeployment", arguments.namespace, arguments.name)
        if body is None:
            return _not_found(arguments)
        service = parse(LLMDeployment, body)
        print("\n".join(history.lines(service, await _revisions(kube, service))))
    return 0


async def _rollback(arguments: argparse.Namespace) -> int:
    async with Kube(TIMEOUT_SECONDS) as kube:
        body = await kube.get("LLMDeployment", arguments.namespace, arguments.name)
        if body is None:
            return _not_found(arguments)
        service = parse(LLMDeployment, body)
        value, words = history.way_to(service, await _revisions(kube, service), arguments.to)
        print(words)
        print(
            f"To undo it: kubectl annotate llmd {service.name} -n {service.namespace} {ANNOTATION_ROLLBACK_TO}-"
        )
        if await kube.ask_back(service.namespace, service.name, service.uid, value) is None:
            return _not_found(arguments)
    return 0


async def _revisions(kube: Kube, service: LLMDeployment) -> list[Revision]:
    return history.revisions_of(service, await kube.list_in("ControllerRevision", service.namespace))


def _not_found(arguments: argparse.Namespace) -> int:
    print(
        f"LLMDeployment {arguments.name} not found in namespace {arguments.namespace}: `kubectl get llmd -A` shows those that "
        "are there, -n takes another namespace",
        file=sys.stderr,
    )
    return 1


async def _follow(kube: Kube, arguments: argparse.Namespace) -> int:
    deadline = time.monotonic() + arguments.timeout
    screen_of = Screen()
    while True:
        body = await kube.get("LLMDeployment", arguments.namespace, arguments.name)
        if body is None:
            return _not_found(arguments)
        service = parse(LLMDeployment, body)
        used = service.status.cache
        cache = await kube.get("ModelCache", arguments.namespace, used.name) if used else None
        screen_of.draw(screen(service, parse(ModelCache, cache) if cache else None))
        if not arguments.watch or is_ready(service):
            return 0
        if time.monotonic() > deadline:
            print(f"not Ready after {arguments.timeout:g} s", file=sys.stderr)
            return 1
        await asyncio.sleep(REFRESH_SECONDS)


class Screen:
    """Draws over what was drawn before on a terminal; elsewhere prints only the lines that changed."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def draw(self, lines: list[str]) -> None:
        """Show these lines now."""
        if sys.stdout.isatty():
            if self._lines:
                sys.stdout.write(f"\x1b[{len(self._lines)}F\x1b[J")
            width = os.get_terminal_size().columns
            print("\n".join(line[:width] for line in lines))
        else:
            for line in lines:
                if line not in self._lines:
                    print(line)
        sys.stdout.flush()
        self._lines = lines


async def _plan(arguments: argparse.Namespace) -> int:
    try:
        is_given = str(arguments.filename) == "-"
        text = sys.stdin.read() if is_given else arguments.filename.read_text("utf-8")
        bodies = [b for b in yaml.safe_load_all(text) if b]
    except (OSError, UnicodeDecodeError) as error:
        print(f"{arguments.filename}: cannot be read: {error}", file=sys.stderr)
        return 2
    except yaml.YAMLError as error:
        print(f"{arguments.filename}: is no YAML: {error}", file=sys.stderr)
        return 2
    wanted = [body for body in bodies if isinstance(body, dict) and body.get("kind") == "LLMDeployment"]
    if not wanted:
        print(f"{arguments.filename}: holds no LLMDeployment", file=sys.stderr)
        return 1
    async with Kube(TIMEOUT_SECONDS) as kube:
        nodes = [NodeView.from_body(node) for node in await kube.list_all("Node")]
        failed = [body for body in wanted if not await _plan_one(kube, body, arguments.namespace, nodes)]
    return 1 if failed else 0


_CALL = re.compile(r"^(POST|PATCH) \S+: \d+ ")
"""What the API server was asked, before its words."""


async def _checked(kube: Kube, live: Manifest | None, body: Manifest) -> Manifest:
    """Return an object as it would be if it was applied. Raises InvalidSpec where the API server would refuse it."""
    if live is None:
        return await kube.check_new(body)
    manager = manager_of(live)
    if manager is not None:
        return await kube.check_applied(body, manager)
    return await kube.check_patched(live, merge_patch(live, body))


async def _plan_one(kube: Kube, body: dict[str, Any], namespace: str, nodes: list[NodeView]) -> bool:
    metadata = body.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("name"):
        print("refused: metadata.name is missing", file=sys.stderr)
        return False
    if not isinstance(metadata["name"], str):
        print(
            f"refused: metadata.name must be a text, not {metadata['name']!r}: put it in quotes",
            file=sys.stderr,
        )
        return False
    body = {**body, "metadata": {"namespace": namespace, **metadata}}
    try:
        # The API server's own rules first: they are those that `kubectl apply` meets.
        live = await kube.get("LLMDeployment", body["metadata"]["namespace"], body["metadata"]["name"])
        checked = await _checked(kube, live, body)
        service = parse(
            LLMDeployment, {**body, "metadata": {**body["metadata"], "uid": ""}, "spec": checked["spec"]}
        )
    except (InvalidSpec, InvalidSpecError) as error:
        print(f"refused: {_CALL.sub('', str(error))}", file=sys.stderr)
        return False
    lists: dict[str, list[Manifest]] = {}
    if live is not None:
        metadata = {**body["metadata"], "uid": live["metadata"]["uid"]}
        service = parse(
            LLMDeployment, {"metadata": metadata, "spec": checked["spec"], "status": live.get("status")}
        )
        lists = {kind: await kube.list_all(kind) for kind in KINDS}
    gateway_api = True
    if service.spec.rollout.gateway is not None:
        try:
            lists |= {kind: await kube.list_all(kind) for kind in OF_ROUTES}
        except NotInstalled:
            gateway_api = False
    scaling = ScalingObservation(None, None, Memory(), service.status.scaling)
    external = service.spec.scaling.mode is ScalingMode.EXTERNAL
    seen = observation(service, nodes, lists, None if external else scaling, gateway_api=gateway_api)
    config = OperatorConfig.from_environment(os.environ)
    now = datetime.now(UTC)
    plan = decide_service(service, seen, config, now)
    known = "against what is there" if live is not None else "as if nothing of it existed yet"
    print(f"LLMDeployment {service.namespace}/{service.name}, {known}:")
    if live is not None:
        print("\n".join(_rollout(service, seen, config, now)))
    changes = [w for w in plan.writes if live is None or not await _is_so(kube, w)]
    print("\n".join(plans.lines(replace(plan, writes=tuple(changes)), len(plan.writes) - len(changes))))
    return True


async def _is_so(kube: Kube, write: Write) -> bool:
    """Tell whether what a write would apply is so already. What may not be read counts as other."""
    if not isinstance(write, Apply):
        return False
    metadata = write.manifest["metadata"]
    try:
        there = await kube.get(write.manifest["kind"], metadata.get("namespace", ""), metadata["name"])
    except PreheatError:
        return False
    return there is not None and not differs(write.manifest, there)


def _rollout(
    service: LLMDeployment, seen: ServiceObservation, config: OperatorConfig, now: datetime
) -> list[str]:
    """Return what would happen to the replicas; nothing where the plan says that the spec is refused."""
    try:
        question = rollout_ahead(service, seen, config, now)
    except InvalidSpec:
        return []
    used = service.status.cache
    size = next((c.status.total_bytes for c in seen.caches if used and c.name == used.name), None)
    times, observations = times_of(service, question, size)
    found = preview(question, times)
    return rollouts.lines(found, service.status.revision, question, times, observations)


if __name__ == "__main__":
    main()
