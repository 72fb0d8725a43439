"""What a cluster left on the machine: processes, mounts, network namespaces and control groups; found and ended.

Everything is recognised by something that only we put there: a name with the hash of the state folder in it, a path
under that folder, or the state folder in a process's environment. Nothing else is ever touched.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from peftjob_cluster import cgroups, network
from peftjob_cluster.daemons import MARKER, end_process, is_zombie
from peftjob_cluster.paths import Layout
from peftjob_cluster.shell import ClusterError, run, succeeds

OCTAL = re.compile(r"\\([0-7]{3})")


def processes(layout: Layout) -> dict[int, str]:
    """Return the processes of the cluster that live: process id to command line."""
    grouped = cgroups.processes(layout)
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        ours = pid in grouped or has_marker(read(folder / "environ"), layout) or is_inside(folder / "root", layout)
        if ours and pid != os.getpid() and not is_zombie(pid):
            command = " ".join(read(folder / "cmdline").replace(b"\0", b" ").decode(errors="replace").split())
            found[pid] = command or "?"
    return found


def has_marker(environment: bytes, layout: Layout) -> bool:
    """Tell whether a process's environment says that it belongs to this cluster."""
    return f"{MARKER}={layout.root}".encode() in environment.split(b"\0")


def is_inside(root: Path, layout: Layout) -> bool:
    """Tell whether a process's root folder is ours: an image build's step, or a debootstrap."""
    try:
        return Path(os.readlink(root)).is_relative_to(layout.root)
    except OSError:
        return False


def mounts(layout: Layout) -> list[Path]:
    """Return the mount points under the state folder, the innermost first."""
    return mounts_under(layout.root, Path("/proc/self/mountinfo").read_text())


def mounts_under(folder: Path, mountinfo: str) -> list[Path]:
    """Return the mount points under a folder, from the text of a ``mountinfo``, the innermost first."""
    points = [Path(unescape(line.split(" ")[4])) for line in mountinfo.splitlines()]
    return [point for point in reversed(points) if point.is_relative_to(folder) and point != folder]


def unescape(text: str) -> str:
    """Undo the kernel's way to write blanks in a path."""
    return OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def find(layout: Layout) -> list[str]:
    """Return a line for each thing that is left."""
    lines = [f"process {pid}: {command[:120]}" for pid, command in sorted(processes(layout).items())]
    lines += [f"mount {point}" for point in mounts(layout)]
    lines += [f"network namespace {name}" for name in network.existing(layout)]
    lines += [f"control group {group}" for group in cgroups.existing(layout)]
    if layout.run.exists():
        lines.append(f"folder {layout.run}")
    return lines


def remove(layout: Layout) -> None:
    """Remove all of it, whatever state it is in."""
    end_all(layout)
    for point in mounts(layout):
        if not succeeds(["umount", point]):
            run(["umount", "--lazy", point])
    network.remove(layout)
    cgroups.remove(layout)
    if mounts(layout):
        raise ClusterError(f"still mounted, so nothing was deleted: {', '.join(map(str, mounts(layout)))}")
    shutil.rmtree(layout.run, ignore_errors=True)


def end_all(layout: Layout, limit: float = 20) -> None:
    """Kill every process of the cluster; again, as long as one that was just starting turns up."""
    end = time.monotonic() + limit
    while left := processes(layout):
        for pid in order(left):
            end_process(pid, patience=0)
        if time.monotonic() > end:
            raise ClusterError(f"processes that do not end: {left}")
        time.sleep(0.05)


def order(found: dict[int, str]) -> Iterable[int]:
    """Return process ids in the order to kill them: what would start others anew goes first."""
    return sorted(found, key=lambda pid: ("kubelet" not in found[pid], "containerd" not in found[pid], pid))


def read(file: Path) -> bytes:
    """Read a file of a process that may be gone by now."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
