"""``python -m e2e.cluster up|down|status|load|exec``: a real cluster to develop on."""

import argparse
import sys
import time
from pathlib import Path

from e2e.cluster import PROVIDERS, provider_for


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    parser.add_argument("--provider", choices=("auto", *PROVIDERS), default="auto")
    parser.add_argument("--name", default="preheat", help="several clusters can run beside each other")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring it up")
    commands.add_parser("down", help="take it away; leaves nothing behind")
    commands.add_parser("status", help="is it up?")
    load = commands.add_parser("load", help="put docker-archive tars on every node")
    load.add_argument("archives", nargs="+", type=Path)
    run = commands.add_parser("exec", help="run a command on a node")
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
            print(f"{cluster.name}: {'up' if cluster.is_up() else 'down'}")
        case "load":
            cluster.load_images(arguments.archives)
        case "exec":
            print(cluster.node_exec(arguments.node, arguments.argv), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
