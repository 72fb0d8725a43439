"""The lab's machines: a network namespace for each, with a cable to a bridge in the lab's own namespace.

A namespace lives as long as the process that holds it and has no name, so that nothing of a lab outlives it, however it
ends. `enter_own_network` comes first, before any thread: what the lab starts later lives in that network, too.
"""

import ctypes
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from peftjob_cluster.children import Children
from peftjob_cluster.network import CLONE_NEWNET
from peftjob_cluster.shell import run

GATEWAY: Final = "10.98.0.1"
"""The lab's own address, where its S3 answers."""
_BRIDGE: Final = "br0"


def enter_own_network() -> None:
    """Move this process, which must be the only thread, into a network that is nobody else's; needs root."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise PermissionError("only root can make networks of its own")
    for command in (
        "link set lo up",
        f"link add {_BRIDGE} type bridge",
        f"addr add {GATEWAY}/16 dev {_BRIDGE}",
        f"link set {_BRIDGE} up",
    ):
        run(["ip", *command.split()])


@dataclass
class Machine:
    """One node's machine."""

    name: str
    address: str
    holder: int
    """Process that holds its network."""
    answers: bool = True
    """Whether its kubelet runs."""
    cable: bool = True
    """Whether its network is connected."""

    @property
    def is_reachable(self) -> bool:
        """Whether the control plane knows what runs on it."""
        return self.answers and self.cable

    def plug(self, *, connected: bool) -> None:
        """Plug its cable in, or pull it."""
        run(["ip", "link", "set", f"v-{self.name}", "up" if connected else "down"])
        self.cable = connected


@dataclass
class Machines:
    """All of them, by name."""

    children: Children
    all: dict[str, Machine] = field(default_factory=dict)

    def add(self, number: int) -> Machine:
        """Make one more."""
        name, address = f"m{number}", f"10.98.1.{number + 1}"
        holder = self.children.start(f"network-{name}", ["unshare", "--net", "sleep", "infinity"])
        _wait_for_own_network(holder)
        run(["ip", *f"link add v-{name} type veth peer name eth0 netns {holder}".split()])
        run(["ip", *f"link set v-{name} master {_BRIDGE} up".split()])
        for command in (f"addr add {address}/16 dev eth0", "link set eth0 up", "link set lo up"):
            run(["nsenter", f"--net=/proc/{holder}/ns/net", "ip", *command.split()])
        self.all[name] = Machine(name, address, holder)
        return self.all[name]

    def at(self, address: str) -> Machine | None:
        """Return the machine with an address."""
        return next((machine for machine in self.all.values() if machine.address == address), None)


def _wait_for_own_network(pid: int) -> None:
    own = os.readlink("/proc/self/ns/net")
    while True:
        try:
            if os.readlink(f"/proc/{pid}/ns/net") != own and Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                return
        except FileNotFoundError as error:
            raise subprocess.SubprocessError("unshare ended at once") from error
