"""Runs PeftJobs on one rank by our own session, one after the other, and tells what each took.

It goes through `session.run` as a worker's rank does, from loading to the published adapter, and looks on through the
progress that the session reports: so it holds for any shard group, however that is made.
"""

import functools
import hashlib
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from kit.collectives import Collectives
from kit.marks import Marks
from kit.meeting import Meeting
from kit.process import (
    bytes_read,
    device_runtime,
    forget_device_memory,
    interface_bytes,
    peak_memory,
    reset_peak_memory,
    resident_memory,
)
from kit.servers import counted
from peftjob_api import CheckpointInfo, PeftJob, PlanInfo, RunConfig
from peftjob_trainer import session
from peftjob_trainer.handoff import Go, Place
from peftjob_trainer.progress import Phase, Progress
from peftjob_trainer.sharding import Groups, ShardGroup, Topology
from peftjob_trainer.steps import StepRecord

SAVING = "Saving"
"""A phase of the bench's own: from the end of the last step on."""


class LoadedOnly(Exception):
    """The job was to be loaded, and no more."""


class Watched(Progress):
    """Progress of a job that is being counted."""

    def __init__(self, collectives: Collectives, meeting: Meeting | None) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.marks = Marks(meeting)
        """From the beginning of training on."""
        self.taken: dict[str, Any] = {}
        self.checkpoints: list[int] = []
        """Bytes of each in the volume."""
        self._collectives = collectives

    def phase(self, phase: Phase) -> None:
        """See `Progress.phase`."""
        super().phase(phase)
        if self._collectives.phase == SAVING:
            return
        self._collectives.phase = phase
        if phase == "Training" and not self.marks.ends:
            self.marks.mark()

    def plan(self, plan: PlanInfo) -> None:
        """See `Progress.plan`."""
        super().plan(plan)
        self.taken["plan"] = plan.to_wire()

    def checkpoint(self, info: CheckpointInfo) -> None:
        """See `Progress.checkpoint`."""
        super().checkpoint(info)
        files = Path(info.uri.removeprefix("file://")).iterdir()
        self.checkpoints.append(sum(file.stat().st_size for file in files))

    def step(self, record: StepRecord, total_steps: int) -> None:
        """See `Progress.step`."""
        super().step(record, total_steps)
        self.losses.append(record.loss)
        self.marks.mark()
        if record.step == total_steps:
            self._collectives.phase = SAVING
            reset_peak_memory()
            self.taken["resident"] = resident_memory()


class FellBack(logging.Handler):
    """Notes what the loader says it could not read directly."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line."""
        if "is read as a whole" in record.getMessage():
            self.lines.append(record.getMessage())


def run(task: dict[str, Any], place: Place, meeting: Meeting) -> list[dict[str, Any]]:
    """Run `task["jobs"]`, each a dictionary; return what each took.

    Of a job: `body`, a PeftJob; `model`, the local folder of its base; `only_load`; `counts_wires`, whether ranks wait
    for each other after each step, so that no byte of a step is seen in another; `partitioned`, whether the base of a
    single rank lies in ZeRO's partitions all the same. A storage service is reached through a proxy of this rank, which
    counts. With `task["goes on"]` an error of one job is told instead of ending all.
    """
    collectives = Collectives(place.world // task["nodes"])
    collectives.install()
    session.connect = functools.cache(session.connect)  # the jobs meet once
    found = []
    for job in task["jobs"]:
        try:
            found.append(one(job, place, meeting, collectives, Path(task["folder"])))
        except Exception:
            if not task.get("goes on"):
                raise
            found.append({"error": traceback.format_exc()})
    return found


def one(job: dict[str, Any], place: Place, meeting: Meeting, collectives: Collectives, folder: Path) -> dict[str, Any]:
    """Run one job."""
    collectives.forget()
    collectives.phase = "Starting"
    forget_device_memory()
    watched = Watched(collectives, meeting if job.get("counts_wires") else None)
    fell_back = FellBack()
    logging.getLogger("peftjob_trainer").addHandler(fell_back)
    wires, began = interface_bytes(), bytes_read()
    with counted(job["body"]["spec"].get("storage")) as (storage, proxy):
        spec = job["body"]["spec"] | ({"storage": storage} if storage else {})
        parsed = PeftJob.model_validate(job["body"] | {"spec": spec})
        go = Go(RunConfig.of(parsed.identity, parsed.spec), 1, "bench", folder, Path(job["model"]), None, True)
        with watching_train(watched, only_load=job.get("only_load", False)), laid(job.get("partitioned", False)):
            try:
                session.run(go, place, watched)
            except LoadedOnly:
                meeting.meet()
        served = proxy.bytes_sent if proxy else None
    logging.getLogger("peftjob_trainer").removeHandler(fell_back)
    return {
        **watched.taken,
        "seconds": [b - a for a, b in pairwise(watched.marks.ends)],
        "losses": watched.losses,
        "checkpoints": watched.checkpoints,
        "wires": [wires, *watched.marks.wires],
        "within": collectives.within,
        "across": collectives.across,
        "read": watched.taken["read_until"] - began,
        "served": served,
        "fell back": fell_back.lines,
        "saving peak": peak_memory() - watched.taken.get("resident", 0),
        "device peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "device reserved": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None,
        "device runtime": device_runtime(),
    }


@contextmanager
def laid(partitioned: bool) -> Iterator[None]:
    """Have the base of a single rank in partitions, or as it is."""
    opened = session.open_groups

    def opening(shard: ShardGroup, topology: Topology) -> Groups:
        return replace(opened(shard, topology), base=dist.group.WORLD)

    session.open_groups = opening if partitioned else opened  # type: ignore[assignment]
    try:
        yield
    finally:
        session.open_groups = opened


@contextmanager
def watching_train(watched: Watched, *, only_load: bool) -> Iterator[None]:
    """Look at the model before and after it is trained, or end the session there."""
    train = session.train

    def watching(run: Any) -> Any:
        watched.taken["read_until"] = bytes_read()
        if only_load:
            raise LoadedOnly
        history = train(run)
        trained = run.sharded.snapshot()
        digest = hashlib.sha256()
        for name in sorted(trained):
            digest.update(trained[name].numpy().tobytes())
        watched.taken["adapter"] = digest.hexdigest()
        watched.taken["base"] = vars(history.base_bytes) if history.base_bytes else None
        return history

    session.train = watching  # type: ignore[assignment]
    try:
        yield
    finally:
        session.train = train
