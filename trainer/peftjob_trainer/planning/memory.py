"""What a rank can have of memory, and what its process takes without a model. Used by `estimate` and `settle`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from peftjob_api.constants import ENV_MEMORY_LIMIT

ACCELERATOR_RUNTIME: Final = 2 * 2**30
"""Bytes of an accelerator's memory for its context, NCCL's buffers and kernels, loaded at their first use: 1.3 GiB
on an H200 with one rank; what NCCL takes for several was not measured."""
CPU_RUNTIME: Final = 70 * 2**20
"""Bytes that a process on the CPU takes more than after its imports: threads, connections, kernels that are loaded at
their first use. tests/bench/plan.py holds the sum of all parts against what happens."""
LAUNCHER: Final = 128 * 2**20
"""Bytes of the process that starts a pod's ranks."""
_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")
_MEMINFO: Final = Path("/proc/meminfo")
_STATM: Final = Path("/proc/self/statm")


def runtime_bytes(*, accelerated: bool) -> int:
    """Return what a rank needs without model and data; on the CPU, as this process does, which has its libraries."""
    return ACCELERATOR_RUNTIME if accelerated else own_bytes() + mapped_bytes() + CPU_RUNTIME


def own_bytes() -> int:
    """Return the resident memory of this process that no file backs."""
    resident, mapped = _statm()
    return resident - mapped


def mapped_bytes() -> int:
    """Return the resident memory of this process that files back, libraries above all: its ranks share it."""
    return _statm()[1]


def _statm() -> tuple[int, int]:
    """Return resident and file-backed bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    resident, mapped = _STATM.read_text().split()[1:3]
    return int(resident) * page, int(mapped) * page


def memory_per_rank(device: torch.device, ranks_here: int) -> int:
    """Return the bytes that this rank can have resident in all, with what it has already.

    Args:
        device: Of this rank.
        ranks_here: Ranks that share the memory of this pod or machine.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return min(total, free + ACCELERATOR_RUNTIME)  # its context is there already
    # Pages of libraries are there once for all ranks, and the kernel takes them back when memory gets tight.
    return share_of(host_memory(os.environ, ranks_here * own_bytes()), ranks_here) + mapped_bytes()


def share_of(memory: int, ranks: int) -> int:
    """Return each rank's share of a pod's memory."""
    return max(0, memory - LAUNCHER) // ranks


def host_memory(environment: Mapping[str, str], own: int = 0) -> int:
    """Return the memory of this pod or machine in bytes: the least of all limits that are known.

    Args:
        environment: Of the process; the operator puts the container's limit there, or the node's memory.
        own: What the ranks here have already: it is not available any more, but theirs.
    """
    limits = [int(text) for text in (environment.get(ENV_MEMORY_LIMIT), _read(_CGROUP)) if text and text.isdigit()]
    fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    return min([*limits, int(fields["MemAvailable"].split()[0]) * 1024 + own])


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
