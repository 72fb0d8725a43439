"""The cluster's network: a namespace for the control plane with a bridge, and one for each node with a veth to it.

All traffic of the cluster stays between these; nothing is reachable from the machine's own network or reaches it.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from peftjob_cluster.components import SERVICE_CIDR
from peftjob_cluster.paths import Layout
from peftjob_cluster.shell import ClusterError, run, succeeds

CONTROL_PLANE = "cp"
CONTROL_PLANE_IP = "10.99.0.10"
CLONE_NEWNET = 0x40000000
NAMES = Path("/run/netns")  # where `ip netns` keeps its names


@dataclass(frozen=True)
class Node:
    """A node's name and addresses."""

    name: str
    ip: str
    pods: str

    @property
    def link(self) -> str:
        """The control plane's end of the node's cable."""
        return f"v-{self.name}"


NODES = (Node("n1", "10.99.0.11", "10.244.1.0/24"), Node("n2", "10.99.0.12", "10.244.2.0/24"))


def create(layout: Layout) -> None:
    """Make the namespaces, cables and routes; none of them may exist."""
    cp = layout.namespace(CONTROL_PLANE)
    if not is_mounted(NAMES, Path("/proc/self/mountinfo").read_text()):
        mark(layout).touch()
    for host in (CONTROL_PLANE, *(node.name for node in NODES)):
        name = layout.namespace(host)
        run(["ip", "netns", "add", name])
        run(["ip", "-n", name, "link", "set", "lo", "up"])
        run([*enter(layout, host), "sysctl", "-qw", "net.ipv4.ip_forward=1"])
    ip(cp, "link add br0 type bridge")
    ip(cp, "link set br0 up")
    ip(cp, f"addr add {CONTROL_PLANE_IP}/24 dev br0")
    # Only so that there is a route: kube-proxy's rules send what goes to a Service somewhere else.
    ip(cp, f"route add {SERVICE_CIDR} dev br0")
    for node in NODES:
        own = layout.namespace(node.name)
        ip(cp, f"link add {node.link} type veth peer name eth0 netns {own}")
        ip(cp, f"link set {node.link} master br0 up")
        ip(own, f"addr add {node.ip}/24 dev eth0")
        ip(own, "link set eth0 up")
        ip(own, f"route add default via {CONTROL_PLANE_IP}")
        ip(cp, f"route add {node.pods} via {node.ip}")
    for node in NODES:
        for other in NODES:
            if other != node:
                ip(layout.namespace(node.name), f"route add {other.pods} via {other.ip}")


def enter(layout: Layout, host: str) -> list[str]:
    """Return the command prefix for running in a host's namespace.

    Not ``ip netns exec``: that remounts /sys, and then neither kubelet nor runc finds the cgroups.
    """
    return ["nsenter", f"--net={NAMES}/{layout.namespace(host)}"]


def set_link(layout: Layout, node: Node, *, up: bool) -> None:
    """Plug a node's cable in, or pull it."""
    ip(layout.namespace(CONTROL_PLANE), f"link set {node.link} {'up' if up else 'down'}")


def set_blackhole(layout: Layout, node: Node, address: str, *, on: bool) -> None:
    """Have a node swallow what is sent to one of its pods' addresses, or let it through again."""
    arguments = ("blackhole", f"{address}/32")
    command = ["ip", "-n", layout.namespace(node.name), "route"]
    if on:
        run([*command, "replace", *arguments])
    elif run([*command, "show", "type", *arguments]):
        run([*command, "del", *arguments])


def link_is_up(layout: Layout, node: Node) -> bool:
    """Tell whether a node's cable is in."""
    shown = run(["ip", "-n", layout.namespace(CONTROL_PLANE), "-o", "link", "show", node.link])
    return "UP" in shown.partition("<")[2].partition(">")[0].split(",")


def join(layout: Layout, host: str) -> None:
    """Move this very process into a host's namespace, so that it reaches the cluster's addresses."""
    library = ctypes.CDLL(None, use_errno=True)
    with (NAMES / layout.namespace(host)).open("rb") as namespace:
        if library.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise ClusterError(f"entering {layout.namespace(host)}: {os.strerror(ctypes.get_errno())}")


def existing(layout: Layout) -> list[str]:
    """Return the names of our namespaces that exist."""
    ours = {layout.namespace(host) for host in (CONTROL_PLANE, *(node.name for node in NODES))}
    return sorted(path.name for path in NAMES.iterdir() if path.name in ours) if NAMES.exists() else []


def is_whole(layout: Layout) -> bool:
    """Tell whether everything that ``create`` makes is there; a pulled cable counts as there."""
    if len(existing(layout)) != 1 + len(NODES):
        return False
    shown = [["ip", "-n", layout.namespace(CONTROL_PLANE), "link", "show", node.link] for node in NODES]
    return all(succeeds(command) for command in shown)


def remove(layout: Layout) -> None:
    """Remove our namespaces, and with them their links, routes and packet filters."""
    for name in existing(layout):
        if not succeeds(["ip", "netns", "del", name]):
            # An `ip netns add` that was killed between making the file and mounting on it leaves a plain file.
            (NAMES / name).unlink(missing_ok=True)
    if mark(layout).exists() and not any(NAMES.iterdir()) and succeeds(["umount", NAMES]):
        NAMES.rmdir()


def mark(layout: Layout) -> Path:
    """Return the file that says that the folder of names was not in use before: ``ip`` mounts it on itself."""
    return layout.run / "first-namespaces"


def is_mounted(point: Path, mountinfo: str) -> bool:
    """Tell whether something is mounted at a place, even if it is the place itself."""
    return any(line.split(" ")[4] == str(point) for line in mountinfo.splitlines())


def ip(namespace: str, command: str) -> None:
    """Run an ``ip`` command in a namespace."""
    run(["ip", "-n", namespace, *command.split()])
