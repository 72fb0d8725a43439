"""Why a gang ended, and what follows; pure. Used by `decide`, once for each gang, when all its pods have ended.

A gang ends as a whole, so most of what its pods say are consequences: a rank that lost its peers (71), or was told to
stop (75), names no cause. Named causes win over disruptions, which win over what merely failed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from peftjob_api import (
    PERMANENT,
    ExitCode,
    Failure,
    PeftJobStatus,
    Progress,
    Reason,
    TerminationMessage,
    WorkerStatus,
)

from .settings import MAX_DISRUPTIONS_WITHOUT_PROGRESS
from .snapshot import ChildJob, Pod
from .status import MAX_COUNT, MAX_MESSAGE

Kind = Literal["Permanent", "Retryable", "Disruption"]

_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0
LONGEST_PAUSE_SECONDS = 1.25 * _LONGEST_PAUSE
_LEAST_STRETCH = 10
_NO_CAUSE = frozenset({ExitCode.DONE, ExitCode.LOST_PEER, ExitCode.INTERRUPTED})
_DISRUPTED_MARK = "DisruptionTarget"


@dataclass(frozen=True)
class Cause:
    """Why a gang ended."""

    kind: Kind
    reason: Reason | str
    message: str


@dataclass(frozen=True)
class Reach:
    """How far training has come, in finished steps."""

    step: int | None = None
    """The last one that the gang finished; None: none, as far as anybody told."""
    before: int = 0
    """The furthest that any gang before it came."""
    total: int | None = None
    """Of the job, if anybody told."""

    @property
    def furthest(self) -> int:
        """The last step that any gang finished."""
        return max(self.before, self.step or 0)


@dataclass(frozen=True)
class Record:
    """What a PeftJob's status says of the ends of earlier gangs."""

    restarts: int = 0
    disruptions: int = 0
    restarts_without_progress: int = 0
    disruptions_without_progress: int = 0
    last_failure: Failure | None = None

    @classmethod
    def of(cls, status: PeftJobStatus) -> "Record":
        """Read a status."""
        return cls(
            status.restarts or 0,
            status.disruptions or 0,
            status.restarts_without_progress or 0,
            status.disruptions_without_progress or 0,
            status.last_failure,
        )


@dataclass(frozen=True)
class Verdict:
    """What follows from the end of a gang."""

    failed: bool
    reason: Reason | str
    message: str
    record: Record
    """With this end."""
    pause: float = 0.0
    """Seconds until the next attempt."""


def cause_of(job: ChildJob | None, pods: Sequence[Pod], now: datetime) -> Cause:
    """Return the one cause of a gang's end, from all that its pods and its Job tell.

    Args:
        job: The gang's Job; None when somebody deleted it.
        pods: Of the gang; some may be gone.
        now: Tells which pods are lost.
    """
    if pod := _first(pods, lambda pod: pod.exit_code in PERMANENT) or _first(pods, lambda pod: pod.oom_killed):
        reason, message = _told(pod)
        return Cause("Permanent", reason, message)
    if lost := _first(pods, lambda pod: pod.lost(now)):
        return Cause(
            "Disruption", Reason.NODE_LOST, f"node {lost.node} does not answer; {lost.where} was given up: look after "
            f"the node"
        )  # fmt: skip
    if disrupted := _first(pods, lambda pod: bool(pod.disruption)):
        return Cause("Disruption", Reason.DISRUPTED, f"{disrupted.where} was taken away: {disrupted.disruption}")
    if ahead := _first(pods, lambda pod: claimed_attempt([pod]) > pod.attempt):
        _, message = _told(ahead)
        text = f"{message}; the PeftJob's status was set back, so the next attempt is {claimed_attempt([ahead]) + 1}"
        return Cause("Disruption", Reason.SUPERSEDED, text)
    if job is not None and _DISRUPTED_MARK in job.failure:
        return Cause("Disruption", Reason.DISRUPTED, f"a worker was taken away: {job.failure}")
    if pod := _first(pods, _failed_by_itself):
        reason, message = _told(pod)
        return Cause("Retryable", reason, message)
    if pod := _first(pods, lambda pod: bool(pod.failure) and pod.delete_at is None):
        return Cause("Retryable", Reason.INTERNAL_ERROR, f"{pod.where} failed: {pod.failure}")
    if job is None:
        return Cause("Disruption", Reason.DISRUPTED, "the child Job was deleted by somebody else")
    return Cause("Disruption", Reason.DISRUPTED, "a worker was deleted, or its node went away, without a last word")


def claimed_attempt(pods: Sequence[Pod]) -> int:
    """Return the latest attempt that pods found in the claim on the output, if they ended for it; else 0.

    None is later than theirs unless etcd was restored, or somebody changed the status: an attempt is written down
    before it starts.
    """
    words = [word for pod in pods if (word := _word(pod)) is not None]
    return max((word.claimed_attempt or 0 for word in words), default=0)


def reach_of(status: PeftJobStatus, words: Sequence[WorkerStatus] = ()) -> Reach:
    """Return how far the gang of a status came, by its progress and what its pods said last."""
    told: list[Progress | WorkerStatus] = [*([status.progress] if status.progress else []), *words]
    steps = [min(found.step, MAX_COUNT) for found in told if found.step]
    totals = [found.total_steps for found in told if found.total_steps]
    return Reach(max(steps, default=None), status.furthest_step or 0, max(totals, default=None))


def judge(cause: Cause, record: Record, max_restarts: int, reach: Reach, *, jitter: float, time: str) -> Verdict:
    """Return what follows from a cause.

    Args:
        cause: Of the gang's end.
        record: Of the ends before.
        max_restarts: `spec.maxRestarts`.
        reach: How far the gang came.
        jitter: In [0, 1).
        time: Now, as Kubernetes writes it.
    """
    row = 0 if reach.furthest > reach.before else record.disruptions_without_progress
    record = replace(record, disruptions_without_progress=row)
    if record.last_failure and reach.furthest >= record.last_failure.furthest_step + stretch(reach.total):
        record = replace(record, restarts_without_progress=0)
    if cause.kind == "Disruption":
        return _disrupted(cause, record, reach, jitter)
    failure = _failure(cause, record.last_failure, reach, time)
    record = replace(record, last_failure=failure)
    if cause.kind == "Permanent":
        return Verdict(True, cause.reason, cause.message, record)
    text = told_often(failure)
    if record.restarts_without_progress >= max_restarts:
        tried = f" (after {record.restarts_without_progress} of at most {max_restarts} restarts in a row)"
        return Verdict(True, cause.reason, text + (tried if max_restarts else ""), record)
    row = record.restarts_without_progress + 1
    record = replace(record, restarts=record.restarts + 1, restarts_without_progress=row)
    return Verdict(False, cause.reason, text, record, pause(row, jitter))


def _disrupted(cause: Cause, record: Record, reach: Reach, jitter: float) -> Verdict:
    row = 0 if reach.furthest > reach.before else record.disruptions_without_progress + 1
    record = replace(record, disruptions=record.disruptions + 1, disruptions_without_progress=row)
    if row >= MAX_DISRUPTIONS_WITHOUT_PROGRESS:
        where = f"a step beyond {reach.before}" if reach.before else "a step"
        text = (
            f"{row} disruptions in a row without {where}; the last one: {cause.message}; find out what takes the "
            f"workers away"
        )
        return Verdict(True, Reason.NO_PROGRESS, text, record)
    return Verdict(False, cause.reason, cause.message, record, pause(row, jitter))


def stretch(total: int | None) -> int:
    """Return the steps beyond a failure after which restarts are counted anew.

    A hundredth of the job's, so that failures that come back and back end it after a hundred rows of them at most.
    """
    return max(_LEAST_STRETCH, (total or 0) // 100)


def told_often(failure: Failure) -> str:
    """Return the message of a failure, with how often and where if it came back."""
    if failure.count == 1:
        return failure.message
    where = f"after step {failure.step}" if failure.step else "before a step was finished"
    return f"failed {failure.count} times {where}: {failure.message}"


def _failure(cause: Cause, last: Failure | None, reach: Reach, time: str) -> Failure:
    """Return the failure of a gang; it is counted on if the last one was the same."""
    is_same = last is not None and (last.reason, last.step) == (str(cause.reason), reach.step)
    return Failure(
        reason=str(cause.reason),
        message=cause.message[:MAX_MESSAGE],
        step=reach.step,
        count=last.count + 1 if last is not None and is_same else 1,
        furthest_step=reach.furthest,
        time=time,
    )


def pause(number: int, jitter: float) -> float:
    """Return the seconds before the next attempt, after so many ends in a row; the first try again is at once."""
    if number <= 1:
        return 0.0
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(number - 2, 16))
    return longest * (0.75 + 0.5 * jitter)


def _first(pods: Sequence[Pod], holds: Callable[[Pod], bool]) -> Pod | None:
    """Return the first pod for which something holds: those that say why they ended first, then in order of ranks."""
    ordered = sorted(pods, key=lambda pod: (_word(pod) is None, -1 if pod.index is None else pod.index))
    return next((pod for pod in ordered if holds(pod)), None)


def _failed_by_itself(pod: Pod) -> bool:
    """Tell whether its exit code names a cause; one that was deleted (by the Job controller, for another one's failure)
    may well have been killed at the end of its grace period.
    """
    return pod.exit_code is not None and pod.exit_code not in _NO_CAUSE and pod.delete_at is None


def _word(pod: Pod) -> TerminationMessage | None:
    """Return a pod's last word, if it is about its end."""
    return pod.last_word if pod.last_word is not None and pod.last_word.exit_code == pod.exit_code else None


def _told(pod: Pod) -> tuple[Reason | str, str]:
    """Return reason and message of a pod that failed by itself."""
    if pod.oom_killed:
        limit = f"its limit of {pod.memory_limit}" if pod.memory_limit else "the memory of its node"
        return Reason.OUT_OF_MEMORY, (
            f"{pod.where} was killed for using more than {limit}: raise resources.limits.memory in "
            f"spec.workers.podTemplate, or use more nodes or a smaller spec.training.microBatchSize"
        )
    if (word := _word(pod)) is not None:
        known = word.reason in {reason.value for reason in Reason}
        return (word.reason if known else Reason.INTERNAL_ERROR), word.message
    return Reason.INTERNAL_ERROR, (
        f"{pod.where} ended with exit code {pod.exit_code} and no last word: see its log (kubectl logs {pod.name})"
    )
