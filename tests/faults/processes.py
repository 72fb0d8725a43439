"""Processes of this machine, whatever namespaces they are in: found by their environment or group, signalled."""

import os
from contextlib import suppress
from pathlib import Path


def marked(variable: str) -> list[int]:
    """Return the living processes with `NAME=value` in their environment, in order of their start."""
    mark = variable.encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return _living(found)


def group(leader: int) -> list[int]:
    """Return the living processes of a process group, in order of their start."""
    return _living([int(folder.name) for folder in Path("/proc").glob("[0-9]*")], leader)


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _living(pids: list[int], leader: int | None = None) -> list[int]:
    found = []
    for pid in pids:
        with suppress(OSError):
            state, _, group_id, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            if state != "Z" and leader in (None, int(group_id)):
                found.append((int(rest[16]), pid))  # when it started, in clock ticks
    return [pid for _, pid in sorted(found)]
