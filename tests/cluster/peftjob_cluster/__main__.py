"""The command line: ``python3 -m peftjob_cluster VERB``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from peftjob_cluster import images, lifecycle, residue, tools
from peftjob_cluster.network import NODES
from peftjob_cluster.paths import Layout
from peftjob_cluster.shell import ClusterError, say


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(prog="peftjob_cluster", description="A real two-node Kubernetes on this machine.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    one = verbs.add_parser("tools", help="install Debian's packages and build Kubernetes and friends, once")
    one.add_argument("--only", choices=["apiserver"], help="only what runs without root and nodes")
    verbs.add_parser("images", help="build the images that changed")
    verbs.add_parser("up", help="start the cluster, mend it, or bring new images to its nodes")
    one = verbs.add_parser("down", help="take the cluster away")
    one.add_argument("--all", action="store_true", help="also its images and logs")
    verbs.add_parser("check-clean", help="list what a cluster left on this machine; exit 1 if there is anything")
    verbs.add_parser(
        "exec-ns", help="run a command in the control plane's network, with KUBECONFIG set: exec-ns -- CMD"
    )
    one = verbs.add_parser("node", help="cut a node off, or bring it back")
    one.add_argument("action", choices=["kill", "restore"])
    one.add_argument("name", choices=[node.name for node in NODES])
    verbs.add_parser("kubectl", help="run kubectl as the administrator: kubectl get pods -A")
    return top


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return the exit code."""
    layout = Layout.default()
    if arguments[:1] == ["kubectl"]:
        return execute(layout, list(arguments))
    if arguments[:1] == ["exec-ns"] and len(arguments) > (2 if arguments[1:2] == ["--"] else 1):
        return execute(layout, list(arguments[2 if arguments[1] == "--" else 1 :]))
    args = parser().parse_args(arguments)
    match args.verb:
        case "tools":
            if not args.only:
                lifecycle.require_machine(layout)
                images.require_space(layout)  # before minutes of compiling
            tools.tools(layout, only_apiserver=args.only == "apiserver")
        case "images":
            lifecycle.require_machine(layout)
            with lifecycle.locked(layout):
                images.images(layout)
        case "up":
            lifecycle.up(layout)
        case "down":
            lifecycle.down(layout, everything=args.all)
        case "check-clean":
            return report(residue.find(layout))
        case "exec-ns":
            parser().error("exec-ns: a command is missing")
        case "node":
            with lifecycle.locked(layout):
                (lifecycle.kill_node if args.action == "kill" else lifecycle.restore_node)(layout, args.name)
    return 0


def report(lines: list[str]) -> int:
    """Say what is left; 1 if there is anything."""
    say("\n".join(lines) if lines else "clean: no process, mount, namespace or control group of the cluster is left")
    return 1 if lines else 0


def execute(layout: Layout, command: list[str]) -> int:
    """Become a command inside the cluster's network; its exit code is ours."""
    argv, environment = lifecycle.inside(layout, command)
    os.execvpe(argv[0], argv, environment)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (ClusterError, subprocess.CalledProcessError) as error:
        print(f"peftjob_cluster: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
