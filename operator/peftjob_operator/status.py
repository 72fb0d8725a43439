"""The parts of a PeftJob's status: conditions, progress, what the pods of a gang tell; pure. Used by `decide`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from peftjob_api import Checkpoint, Condition, PeftJobStatus, Progress, Reason, WorkerStatus
from peftjob_api.status import ConditionType, State

from .settings import PROGRESS_SECONDS
from .snapshot import Pod, Snapshot, format_time, parse_time

MAX_MESSAGE = 2048
MAX_COUNT = 2**31 - 1
"""Of the API's counts."""
_END_OF_TIME = 253_402_300_800
"""The first second of the year 10000, which no calendar here has."""
_WAITS = {
    "Checkpoints": "training goes on, but its checkpoints wait for the output",
    "Adapter": "the adapter is finished and waits for the output",
}


def with_condition(
    status: PeftJobStatus,
    type_: ConditionType,
    holds: bool,
    reason: Reason | str,
    message: str,
    *,
    now: datetime,
    generation: int,
) -> PeftJobStatus:
    """Return the status with one condition set; its transition time moves only when its status does."""
    word = "True" if holds else "False"
    before = status.condition(type_)
    since = before.last_transition_time if before and before.status == word else format_time(now)
    new = Condition(
        type=type_,
        status=word,
        reason=str(reason),
        message=message[:MAX_MESSAGE],
        last_transition_time=since,
        observed_generation=generation,
    )
    others = [condition for condition in status.conditions if condition.type != type_]
    if before is None:
        return status.model_copy(update={"conditions": [*others, new]})
    return status.model_copy(update={"conditions": [new if c.type == type_ else c for c in status.conditions]})


def is_true(status: PeftJobStatus, type_: ConditionType) -> bool:
    """Tell whether a condition is there and holds."""
    found = status.condition(type_)
    return found is not None and found.status == "True"


def progress_of(worker: WorkerStatus, before: Progress | None, now: datetime) -> Progress:
    """Return what a worker tells, as the status says it."""
    step, total = worker.step, worker.total_steps
    eta = worker.eta_seconds if worker.eta_seconds is not None and worker.eta_seconds >= 0 else None
    return Progress(
        step=_count(step),
        total_steps=_count(total),
        display=None if step is None or total is None else f"{step}/{total}",
        epoch=_rounded(worker.epoch),
        loss=_rounded(worker.loss),
        skipped_steps=_count(worker.skipped_steps),
        learning_rate=worker.learning_rate,
        tokens_per_second=_rounded(worker.tokens_per_second, 1),
        metrics=worker.metrics or (before.metrics if before else {}),
        eta_seconds=_rounded(eta, 0),
        eta=None if eta is None else human_duration(eta),
        updated_at=format_time(now),
    )


def checkpoint_of(worker: WorkerStatus, before: Checkpoint | None, output: str, now: datetime) -> Checkpoint | None:
    """Return the checkpoint that the next attempt goes on from.

    Args:
        worker: What it tells.
        before: As the status says it.
        output: `spec.output.uri`: a checkpoint that does not lie there is none.
        now: The time.
    """
    told = worker.checkpoint
    if told is None or not told.uri.startswith(output.rstrip("/") + "/"):
        return before
    if before is not None and (before.step, before.uri) == (told.step, told.uri):
        return before
    return Checkpoint(step=told.step, uri=told.uri, time=format_time(now))


def _count(value: int | None) -> int | None:
    return None if value is None else min(value, MAX_COUNT)


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def progress_is_due(before: Progress | None, new: Progress, now: datetime) -> bool:
    """Tell whether new progress is worth a write: the first step is, others at most every `PROGRESS_SECONDS`."""
    if new.step is None:
        return False  # it loads; an older step, if there is one, says more
    if before is None or before.step is None:
        return True
    if before.model_copy(update={"updated_at": None}) == new.model_copy(update={"updated_at": None}):
        return False
    if not before.step and new.step:
        return True
    written = parse_time(before.updated_at)
    # Written in the future: a clock was set back.
    return written is None or not 0 <= (now - written).total_seconds() < PROGRESS_SECONDS


def human_duration(seconds: float) -> str:
    """Return a time for people, such as 41m0s."""
    minutes, rest = divmod(round(min(seconds, 1e9)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def state_of(worker: WorkerStatus | None, before: State | None) -> State:
    """Return the state of a complete gang, from what rank 0 tells, or else as it was."""
    if worker is None:
        return "Publishing" if before == "Publishing" else "Running"
    return "Publishing" if worker.phase in ("Publishing", "Done") else "Running"


def how_it_runs(worker: WorkerStatus | None, nodes: int) -> tuple[Reason, str]:
    """Return reason and message of a complete gang: all is well, or what waits for the output's store, and why."""
    waiting = worker.waiting if worker else None
    if waiting is None:
        return Reason.RUNNING, f"all {nodes} workers run"
    since = _told_time(waiting.since)
    text = _WAITS[waiting.what] + (f" since {since}" if since else "")
    return Reason.WAITING_FOR_STORAGE, f"{text}: {waiting.message}"


def _told_time(seconds: float | None) -> str | None:
    """Return a worker's Unix time for people; None: it is none."""
    return format_time(datetime.fromtimestamp(seconds, UTC)) if seconds and 0 < seconds < _END_OF_TIME else None


def why_not_ready(snapshot: Snapshot, nodes: int) -> tuple[Reason, str] | None:
    """Return what keeps a gang from being complete, and what to do, if pods or Events tell of anything."""
    gang = [pod for pod in snapshot.gang() if not pod.ended]
    for pod in gang:
        if pod.waiting and (found := _waiting(pod, *pod.waiting)):
            return found
    unscheduled = [pod for pod in gang if pod.scheduled_at is None]
    said = next((pod.unschedulable for pod in unscheduled if pod.unschedulable), "")
    if said:
        if "persistentvolumeclaim" in said.lower():
            return Reason.VOLUME_NOT_READY, f"{said}: create the claim that spec names, or correct its pvc:// uri"
        if len(unscheduled) < nodes:
            return Reason.PARTLY_SCHEDULED, f"{nodes - len(unscheduled)} of {nodes} workers have a node; {said}"
        return Reason.UNSCHEDULABLE, f"no node for the workers: {said}"
    for warning in snapshot.warnings:
        if found := _warning(warning):
            return found
    return None


def _waiting(pod: Pod, reason: str, message: str) -> tuple[Reason, str] | None:
    """Return what a container's waiting state means."""
    text = f"{pod.where}: {message or reason}"
    if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"):
        return Reason.IMAGE_PULL_FAILED, (
            f"{text}: correct the image (the chart's trainer.image, or spec.workers.podTemplate), or give the pods a "
            f"pull secret"
        )
    lower = message.lower()
    if reason == "CreateContainerConfigError" and "secret" in lower:
        return (
            Reason.SECRET_NOT_FOUND,
            f"{text}: create it, with the keys that docs/install.md lists, in this namespace",
        )
    if reason.startswith(("CreateContainer", "RunContainer", "CreatePodSandbox")):
        return Reason.INVALID_POD_TEMPLATE, f"{text}: correct spec.workers.podTemplate"
    return None


def _warning(message: str) -> tuple[Reason, str] | None:
    """Return what an Event about a Job or pod that does not start means."""
    lower = message.lower()
    if "exceeded quota" in lower or "quota" in lower:
        return Reason.QUOTA_EXCEEDED, f"{message}: free quota in this namespace, or ask for less in spec.workers"
    if "mountvolume" in lower or "unable to attach or mount" in lower or "failedmount" in lower:
        return Reason.VOLUME_NOT_READY, f"{message}: see the volume, or the claim of the pvc:// uri"
    if "error creating" in lower or "forbidden" in lower:
        return Reason.INVALID_POD_TEMPLATE, f"{message}: correct spec.workers.podTemplate, or the namespace's policy"
    return None


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON merge patch (RFC 7386) from one object to another; empty when they are equal."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := merge_patch(old, value):
                patch[key] = inner
        elif value != old:
            patch[key] = value
    return patch


def scheduled_times(pods: Sequence[Pod]) -> list[datetime]:
    """Return when each pod that has a node got it."""
    return sorted(pod.scheduled_at for pod in pods if pod.scheduled_at is not None)
