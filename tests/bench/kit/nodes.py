"""Two nodes on one machine: two network namespaces with a cable between them, whose bytes the kernel counts.

A namespace lives as long as the process that holds it, and has no name: when this process ends, even by SIGKILL, the
kernel ends the holders and takes namespaces and cable away. Needs root, `ip` and `nsenter`.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from kit.launch import Gang

CABLE = "veth0"
"""The name of its end on both nodes."""
ADDRESSES = ("10.213.0.1", "10.213.0.2")


def missing() -> str | None:
    """Return what this machine lacks for nodes of their own, if anything."""
    if os.geteuid() != 0:
        return "root"
    return next((tool for tool in ("ip", "nsenter", "unshare", "setpriv") if shutil.which(tool) is None), None)


@contextmanager
def two_nodes(ranks_per_node: int, threads: int = 1) -> Iterator[Gang]:
    """Yield a gang on two nodes."""
    holders: list[subprocess.Popen[bytes]] = []
    try:
        for _ in ADDRESSES:
            command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "echo; exec sleep infinity"]
            holders.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))
            assert holders[-1].stdout is not None
            holders[-1].stdout.readline()  # it is in its namespace
        prefixes = [("nsenter", f"--net=/proc/{holder.pid}/ns/net") for holder in holders]
        _ip(prefixes[0], f"link add {CABLE} type veth peer name {CABLE} netns {holders[1].pid}")
        for prefix, address in zip(prefixes, ADDRESSES, strict=True):
            _ip(prefix, f"addr add {address}/24 dev {CABLE}")
            _ip(prefix, f"link set {CABLE} up")
            _ip(prefix, "link set lo up")
        yield Gang(len(holders), ranks_per_node, tuple(prefixes), CABLE, ADDRESSES[0], threads)
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def _ip(prefix: tuple[str, ...], command: str) -> None:
    subprocess.run([*prefix, "ip", *command.split()], check=True)
