"""The rank processes of this node: start, hand over, forward signals, end together. Used by `launch`.

torchrun would do some of this, but it hides exit codes and kills after 30 seconds of SIGTERM.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peftjob_api import ExitCode

from .handoff import LOCAL_RANK, MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE, Go

log = logging.getLogger(__name__)

PEERS_SECONDS = 5.0
"""After a rank failed: for the others to notice, and say more than that they were killed."""
TERMINATION_SECONDS = 20.0
"""After SIGTERM: for the step in work; the kubelet's SIGKILL comes after 30."""
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Layout:
    """Which ranks of the world this node has, and where they meet."""

    first: int
    count: int
    world: int
    master: tuple[str, int]

    @property
    def ranks(self) -> range:
        """The ranks of this node."""
        return range(self.first, self.first + self.count)


def environment(layout: Layout, rank: int, threads: int, *, on_cpu: bool, base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a rank.

    Args:
        layout: Of this node.
        rank: Of the process.
        threads: That it may compute with on the CPU.
        on_cpu: Whether the job trains on the CPU.
        base: The launcher's own environment; what a user set of NCCL, gloo or threads there stays.
    """
    ours = {
        RANK: str(rank),
        LOCAL_RANK: str(rank - layout.first),
        WORLD_SIZE: str(layout.world),
        MASTER_ADDR: layout.master[0],
        MASTER_PORT: str(layout.master[1]),
        "HF_HUB_OFFLINE": "1",  # everything has been fetched by the launcher
        "PYTHONUNBUFFERED": "1",
    }
    if on_cpu:
        ours["DS_ACCELERATOR"] = "cpu"
    defaults = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": base.get("OMP_NUM_THREADS", str(threads)),  # torch goes by this one, where both are set
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # a stack trace for each try to reach rank 0, which may start later
    }
    return {**defaults, **base, **ours}


@dataclass
class Ranks:
    """The processes, and how each ended."""

    layout: Layout
    processes: dict[int, subprocess.Popen[bytes]]
    killed: set[int] = field(default_factory=set)
    """Ranks that the launcher itself ended: their codes tell nothing."""
    told_to_stop: float | None = None
    failed_at: float | None = None

    @classmethod
    def start(cls, layout: Layout, environments: Mapping[int, Mapping[str, str]]) -> "Ranks":
        """Start all; they import their libraries and then wait for `hand_over`."""
        command = [sys.executable, "-m", "peftjob_trainer.rank"]
        return cls(
            layout,
            {r: subprocess.Popen(command, stdin=subprocess.PIPE, env=dict(environments[r])) for r in layout.ranks},
        )

    def hand_over(self, go: Go) -> None:
        """Let all begin."""
        for process in self.processes.values():
            assert process.stdin is not None
            try:
                process.stdin.write(go.to_line())
                process.stdin.flush()
            except BrokenPipeError:
                log.debug("a rank ended before it could begin")  # its exit code tells

    def stop(self) -> None:
        """Pass SIGTERM on: a rank that trains finishes its step, any other one ends at once."""
        self.told_to_stop = self.told_to_stop or time.monotonic()
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # one that somebody has stopped would not hear of it

    def kill(self) -> None:
        """End all that are left."""
        self.killed |= {rank for rank, process in self.processes.items() if process.poll() is None}
        self._signal(signal.SIGKILL)
        for process in self.processes.values():
            process.wait()

    def poll(self) -> bool:
        """Look after the processes; return whether all have ended."""
        codes = [process.poll() for process in self.processes.values()]
        if None not in codes:
            return True
        now = time.monotonic()
        if self.failed_at is None and any(code not in (None, 0) for code in codes):
            self.failed_at = now
        since = ((self.failed_at, PEERS_SECONDS), (self.told_to_stop, TERMINATION_SECONDS))
        if any(start is not None and now > start + patience for start, patience in since):
            self.kill()
        return False

    def codes(self) -> dict[int, int]:
        """Return the exit code of each rank, in the operator's terms (negative: killed by a signal)."""
        return {
            rank: self._code(rank, process.returncode)
            for rank, process in self.processes.items()
            if process.returncode is not None
        }

    def _code(self, rank: int, code: int) -> int:
        if rank in self.killed or (code == -signal.SIGTERM and self.told_to_stop is not None):
            return int(ExitCode.INTERRUPTED if self.told_to_stop is not None else ExitCode.LOST_PEER)
        return code

    def _signal(self, number: int) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(number)


def threads_per_rank(cpu_limit: str | None, ranks: int) -> int:
    """Return the threads of one rank: its share of the pod's CPU limit, or of this process's CPUs."""
    cpus = int(cpu_limit) if cpu_limit and cpu_limit.isdigit() else len(os.sched_getaffinity(0))
    return max(1, cpus // ranks)


def signal_name(code: int) -> str:
    """Return the name of the signal of a negative exit code."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def shell_code(code: int) -> int:
    """Return an exit code as a shell would: 128 + N for signal N."""
    return 128 - code if code < 0 else code


def pick(codes: Mapping[int, int], code: int) -> Sequence[int]:
    """Return the ranks that ended with a code."""
    return [rank for rank, own in sorted(codes.items()) if own == code]
