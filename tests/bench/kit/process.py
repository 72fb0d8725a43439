"""What is counted for this process: memory, bytes read, bytes through network interfaces, memory of a device. Linux."""

import gc
from pathlib import Path

_SELF = Path("/proc/self")


def peak_memory() -> int:
    """Return the largest resident set of this process in bytes; unlike ru_maxrss, not that of its parent."""
    return _status("VmHWM")


def resident_memory() -> int:
    """Return the resident set of this process now, in bytes."""
    return _status("VmRSS")


def reset_peak_memory() -> None:
    """Let `peak_memory` begin anew from what is resident now (proc(5), `clear_refs`)."""
    (_SELF / "clear_refs").write_text("5")


def bytes_read() -> int:
    """Return the bytes that this process has read so far by system calls, from files and sockets, cached or not."""
    fields = dict(line.split(": ") for line in (_SELF / "io").read_text().splitlines())
    return int(fields["rchar"])


def interface_bytes(text: str | None = None) -> dict[str, tuple[int, int]]:
    """Return interface -> (bytes received, bytes sent) in the network namespace of this process.

    Args:
        text: In the format of /proc/net/dev; None reads that of this process. Not /sys: its mount may show another
            namespace's interfaces.
    """
    lines = ((_SELF / "net/dev").read_text() if text is None else text).splitlines()[2:]
    found = {}
    for line in lines:
        name, _, numbers = line.partition(":")
        fields = numbers.split()
        found[name.strip()] = (int(fields[0]), int(fields[8]))
    return found


def forget_device_memory() -> None:
    """Free what nothing on the device is left of, and let its peak begin anew; nothing, where there is no device."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def device_runtime() -> int | None:
    """Return what is taken of a device that no tensor has, in bytes: of this process, if no other is on the device."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return int(total - free - torch.cuda.memory_reserved())


def _status(key: str) -> int:
    lines = (_SELF / "status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:"))) * 1024
