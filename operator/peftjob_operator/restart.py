"""Why a gang ended, and what follows; pure. Used by `decide`, once for each gang, when all its pods have ended.

A gang ends as a whole, so most of what its pods say are consequences: a rank that lost its peers (71), or was told to
stop (75), names no cause. Named causes win over disruptions, which win over what merely failed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from peftjob_api import PERMANENT, ExitCode, Reason, TerminationMessage

from .settings import MAX_DISRUPTIONS_WITHOUT_PROGRESS
from .snapshot import ChildJob, Pod

Kind = Literal["Permanent", "Retryable", "Disruption"]

_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 600.0
_NO_CAUSE = frozenset({ExitCode.DONE, ExitCode.LOST_PEER, ExitCode.INTERRUPTED})
_DISRUPTED_MARK = "DisruptionTarget"


@dataclass(frozen=True)
class Cause:
    """Why a gang ended."""

    kind: Kind
    reason: Reason | str
    message: str


@dataclass(frozen=True)
class Counts:
    """What a PeftJob's status counts."""

    restarts: int = 0
    disruptions: int = 0
    disruptions_without_progress: int = 0


@dataclass(frozen=True)
class Verdict:
    """What follows from the end of a gang."""

    failed: bool
    reason: Reason | str
    message: str
    counts: Counts
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


def judge(cause: Cause, counts: Counts, max_restarts: int, *, made_progress: bool, jitter: float) -> Verdict:
    """Return what follows from a cause.

    Args:
        cause: Of the gang's end.
        counts: As they stand in the status.
        max_restarts: `spec.maxRestarts`.
        made_progress: Whether the gang made a step.
        jitter: In [0, 1).
    """
    if cause.kind == "Permanent":
        return Verdict(True, cause.reason, cause.message, counts)
    if cause.kind == "Disruption":
        row = 0 if made_progress else counts.disruptions_without_progress + 1
        new = Counts(counts.restarts, counts.disruptions + 1, row)
        if row >= MAX_DISRUPTIONS_WITHOUT_PROGRESS:
            return Verdict(
                True, Reason.NO_PROGRESS,
                f"{row} disruptions in a row without a new step; the last one: {cause.message}; find out what takes "
                f"the workers away", new,
            )  # fmt: skip
        return Verdict(False, cause.reason, cause.message, new, pause(row, jitter))
    if counts.restarts >= max_restarts:
        tried = f" (after {counts.restarts} of at most {max_restarts} restarts)" if max_restarts else ""
        return Verdict(True, cause.reason, f"{cause.message}{tried}", counts)
    row = 0 if made_progress else counts.disruptions_without_progress
    new = Counts(counts.restarts + 1, counts.disruptions, row)
    return Verdict(False, cause.reason, cause.message, new, pause(new.restarts, jitter))


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
