"""Runs something on N ranks, each a fresh process, and returns what each of them measured.

A rank is `rank.py WAY TASK RESULT`: a module of `ways/`, a JSON file that says what to do, and one that it writes.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "tests/cluster"))

from peftjob_cluster.children import free_ports  # noqa: E402 (after the path)

_SHOWN = 4000
"""Characters of a failed rank's log."""


@dataclass(frozen=True)
class Gang:
    """Where ranks run, and how they find each other."""

    nodes: int = 1
    ranks_per_node: int = 2
    prefixes: tuple[tuple[str, ...], ...] = ((),)
    """Of each node: words before the command, which take it there."""
    interface: str = "lo"
    master: str = "127.0.0.1"
    threads: int = 1
    """Of each rank on the CPU."""

    @property
    def world(self) -> int:
        """All ranks."""
        return self.nodes * self.ranks_per_node

    def environment(self, rank: int, port: int) -> dict[str, str]:
        """Return the variables of a rank."""
        return {
            "RANK": str(rank), "LOCAL_RANK": str(rank % self.ranks_per_node), "WORLD_SIZE": str(self.world),
            "MASTER_ADDR": self.master, "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": self.interface,
            "OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads),
        }  # fmt: skip


def run_ranks(
    way: str,
    task: Mapping[str, Any],
    gang: Gang,
    folder: Path,
    *,
    on_cpu: bool = True,
    environment: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> list[Any]:
    """Run once in fresh processes; return what each rank wrote.

    Args:
        way: A module of `ways/`.
        task: What it is given.
        gang: Of the ranks.
        folder: For the files of this run, in a folder of its own.
        on_cpu: Whether DeepSpeed is told that there is no accelerator.
        environment: More variables.
        timeout: Seconds until all are killed.

    Raises:
        SystemExit: A rank failed, with the end of its log; the others are killed.
    """
    own = folder / f"{way}-{secrets.token_hex(4)}"
    own.mkdir(parents=True)
    (own / "task.json").write_text(json.dumps({**task, "nodes": gang.nodes, "folder": str(own)}))
    port = free_ports(1)[0]
    common = {
        **{name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"},
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer", "tests/numerics")),
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TORCH_CPP_LOG_LEVEL": "ERROR",
        **({"DS_ACCELERATOR": "cpu"} if on_cpu else {}), **(environment or {}),
    }  # fmt: skip
    processes = []
    try:
        for rank in range(gang.world):
            prefix = gang.prefixes[rank // gang.ranks_per_node % len(gang.prefixes)]
            script = [sys.executable, str(HERE / "rank.py"), way, str(own / "task.json"), str(own / f"{rank}.json")]
            with (own / f"{rank}.log").open("wb") as log:
                process = subprocess.Popen(
                    [*prefix, *script],
                    env={**common, **gang.environment(rank, port)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            processes.append(process)
        failed = wait(processes, timeout)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if failed is not None:
        raise SystemExit(f"{way}: rank {failed} failed\n{(own / f'{failed}.log').read_text()[-_SHOWN:]}")
    return [json.loads((own / f"{rank}.json").read_text()) for rank in range(gang.world)]


def wait(processes: list["subprocess.Popen[bytes]"], timeout: float) -> int | None:
    """Wait for all to end well; return the number of the first that does not, as soon as it does not."""
    deadline = time.monotonic() + timeout
    while True:
        codes = [process.poll() for process in processes]
        bad = next((number for number, code in enumerate(codes) if code not in (None, 0)), None)
        if bad is not None or None not in codes:
            return bad
        if time.monotonic() > deadline:
            return codes.index(None)
        time.sleep(0.05)


def in_turns(rounds: int, ways: Iterable[str]) -> Iterable[tuple[int, str]]:
    """Yield (round, way): each way once a round, so that what slows the machine down slows down all of them."""
    every = list(ways)
    for number in range(rounds):
        for way in every:
            yield number, way
