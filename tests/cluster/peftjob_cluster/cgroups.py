"""The nodes' control groups: ours by name, so that ``residue`` overlooks no process and no group of a container.

Every program of a node starts in a group named after the cluster, below the group that the command itself runs in;
containerd's shims and runc's containers (whose groups are children of their creator's) inherit it, whoever adopts them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from peftjob_cluster.paths import Layout

ROOT = Path("/sys/fs/cgroup")
CPUSET = ("cpuset.cpus", "cpuset.mems")


def name_of(layout: Layout) -> str:
    """Return the name of our groups; it differs between state folders."""
    return layout.namespace("nodes")


def own_groups(memberships: str, mounts: str) -> list[Path]:
    """Return the folders of a process's groups, from its ``/proc/PID/cgroup`` and the machine's ``/proc/mounts``."""
    mounted: dict[str, Path] = {}
    for line in mounts.splitlines():
        _, place, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            mounted[""] = Path(place)
        elif kind == "cgroup":
            for option in options.split(","):
                mounted.setdefault(option, Path(place))
    groups = []
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        root = mounted.get(controllers.partition(",")[0])
        if root is not None:
            groups.append(root / path.lstrip("/"))
    return groups


def create(layout: Layout) -> list[Path]:
    """Return our groups, one in each hierarchy, after making those that are missing."""
    there = {group.relative_to(ROOT).parts[0]: group for group in existing(layout)}
    groups = []
    for parent in own_groups(Path("/proc/self/cgroup").read_text(), Path("/proc/mounts").read_text()):
        group = there.get(parent.relative_to(ROOT).parts[0] if parent != ROOT else "", parent / name_of(layout))
        group.mkdir(exist_ok=True)
        for file in CPUSET:
            # A new cpuset has no processors, and nothing may enter it before it has.
            if (group / file).exists() and not (group / file).read_text().strip():
                (group / file).write_text((group.parent / file).read_text())
        groups.append(group)
    return groups


def existing(layout: Layout) -> list[Path]:
    """Return our groups that exist, wherever the command that made them was."""
    found = []
    for folder, names, _ in os.walk(ROOT):
        if name_of(layout) in names:
            found.append(Path(folder) / name_of(layout))
            names.remove(name_of(layout))
    return found


def processes(layout: Layout) -> set[int]:
    """Return the processes in our groups and in their containers' groups."""
    pids: set[int] = set()
    for group in existing(layout):
        for folder, _, _ in os.walk(group):
            try:
                pids.update(int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split())
            except OSError:
                continue  # removed meanwhile
    return pids


def remove(layout: Layout) -> None:
    """Remove our groups and all below them, once no process is in them any more."""
    for group in existing(layout):
        for folder, _, _ in os.walk(group, topdown=False):
            for _ in range(20):
                try:
                    os.rmdir(folder)
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)  # the kernel lets go of the last process a moment after its end
                else:
                    break
