"""``python -m e2e.cluster up|down|status|kubeconfig|load|exec``: a real cluster to develop on."""

import argparse
import sys
import time
from pathlib import Path

from e2e.cluster import PROVIDERS, provider_for


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    _add_which(parser, provider="auto", name="preheat")
    which = argparse.ArgumentParser(add_help=False)
    _add_which(which, provider=argparse.SUPPRESS, name=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", parents=[which], help="bring it up")
    commands.add_parser("down", parents=[which], help="take it away; leaves nothing behind")
    commands.add_parser("status", parents=[which], help="is it up? exit status 1 if it is not")
    commands.add_parser("kubeconfig", parents=[which], help="print where its kubeconfig lies")
    load = commands.add_parser("load", parents=[which], help="put docker-archive tars on every node")
    load.add_argument("archives", nargs="+", type=Path)
    run = commands.add_parser("exec", parents=[which], help="run a command on a node")
    run.add_argument("node")
    run.add_argument("argv", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    cluster = provider_for(arguments.provider, arguments.name)
    match arguments.command:
        case "up":
            started = time.monotonic()
            cluster.up()
            print(f"cluster {cluster.name} is up after {time.monotonic() - started:.1f} s\n")
            print(f"export KUBECONFIG={cluster.kubeconfig}")
        case "down":
            cluster.down()
        case "status":
            is_up = cluster.is_up()
            print(f"{cluster.name}: up, {', '.join(cluster.nodes())}" if is_up else f"{cluster.name}: down")
            return 0 if is_up else 1
        case "kubeconfig":
            print(cluster.kubeconfig)
        case "load":
            cluster.load_images(arguments.archives)
        case "exec":
            print(cluster.node_exec(arguments.node, arguments.argv), end="")
    return 0


def _add_which(parser: argparse.ArgumentParser, *, provider: str, name: str) -> None:
    """Add what says which cluster is meant. It may stand before the command or after it."""
    parser.add_argument("--provider", choices=("auto", *PROVIDERS), default=provider)
    parser.add_argument("--name", default=name, help="several clusters can run beside each other")


if __name__ == "__main__":
    sys.exit(main())
