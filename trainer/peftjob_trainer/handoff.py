"""What the launcher and its ranks say to each other; light, so that both sides start fast.

The launcher starts the ranks at once, since their libraries take seconds to import, and writes `Go` to each one's
standard input when the inputs are there. A rank leaves a `TerminationMessage` in the work folder when it ends: rank 0
always, others when they fail.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from peftjob_api import RunConfig, TerminationMessage, WorkerStatus, parse_worker_json

from .exits import TrainerError

# As torchrun names them.
RANK: Final = "RANK"
LOCAL_RANK: Final = "LOCAL_RANK"
WORLD_SIZE: Final = "WORLD_SIZE"
MASTER_ADDR: Final = "MASTER_ADDR"
MASTER_PORT: Final = "MASTER_PORT"

ADAPTER_FOLDER: Final = "adapter"
"""In the work folder: a copy of the adapter that the job continues from."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Go:
    """What a rank needs to begin."""

    run: RunConfig
    attempt: int
    gang: str
    work: Path
    """Folder of this node's launcher and ranks; data files that were fetched lie in it."""
    model: Path
    """Folder of the base model."""
    status_port: int | None
    """Where rank 0 answers; None: nowhere."""
    releases_claim: bool
    """Whether nobody tries again after any failure, so that the claim of the output is taken back (local runs)."""

    def to_line(self) -> bytes:
        """Return one line of JSON."""
        wire = {**asdict(self), "run": self.run.to_wire(), "work": str(self.work), "model": str(self.model)}
        return json.dumps(wire).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "Go":
        """Read what `to_line` wrote."""
        wire = json.loads(line)
        run = RunConfig.model_validate_json(json.dumps(wire.pop("run")))
        return cls(run=run, work=Path(wire.pop("work")), model=Path(wire.pop("model")), **wire)


@dataclass(frozen=True)
class Place:
    """Which rank this process is, as its environment says."""

    rank: int
    local_rank: int
    world: int
    master: tuple[str, int]

    @classmethod
    def here(cls, environment: Mapping[str, str]) -> "Place":
        """Read the environment."""
        return cls(
            int(environment[RANK]),
            int(environment[LOCAL_RANK]),
            int(environment[WORLD_SIZE]),
            (environment[MASTER_ADDR], int(environment[MASTER_PORT])),
        )


def outcome_path(work: Path, rank: int) -> Path:
    """Return the file in which a rank leaves how it ended."""
    return work / f"rank-{rank}.json"


def write_outcome(work: Path, rank: int, outcome: TerminationMessage) -> None:
    """Leave how a rank ended; the file appears whole or not at all."""
    path = outcome_path(work, rank)
    temporary = path.with_suffix(".part")
    temporary.write_text(outcome.to_json(), encoding="utf-8")
    temporary.replace(path)


def write_failure(work: Path, rank: int, failure: TrainerError, status: WorkerStatus | None) -> None:
    """Leave why a rank failed."""
    write_outcome(work, rank, last_word(failure, rank, status))


def last_word(failure: TrainerError, rank: int | None = None, status: WorkerStatus | None = None) -> TerminationMessage:
    """Return what is said of a failure, of a rank or, before there are any, of the launcher."""
    return TerminationMessage(
        reason=failure.reason,
        message=failure.message,
        exit_code=failure.code,
        rank=rank,
        claimed_attempt=failure.claimed_attempt,
        status=status,
    )


def read_outcome(work: Path, rank: int) -> TerminationMessage | None:
    """Return how a rank ended, if it could say so."""
    try:
        return parse_worker_json(TerminationMessage, outcome_path(work, rank).read_bytes())
    except FileNotFoundError:
        return None


def die_with_parent() -> None:
    """Have the kernel kill this process when the launcher dies, however that happens. Linux only."""
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # A parent that died before is told by the end of our standard input.


def log_to_stdout(who: str, level: int = logging.INFO) -> None:
    """Write our own lines of the log, and only warnings of libraries."""
    logging.basicConfig(
        level=logging.WARNING, format=f"%(asctime)s {who}  %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    logging.getLogger("peftjob_trainer").setLevel(level)


def in_log(text: str) -> str:
    """Return a message for the log of a pod or a terminal: one line."""
    return " ".join(text.split())


def end_process(code: int) -> None:
    """End at once: destructors of process groups and threads of libraries may wait for peers that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
