"""What shall be done about a PeftJob, and what its status shall say, told from a snapshot; pure. Used by `reconcile`.

A state machine without memory: each call looks at everything and returns the next status and the actions that lead
there. The status is written before anything is done, so an operator that dies in between does the same again:

* `attempt` without a Job, and no `retryAt`: the Job of this attempt is still to be made;
* `retryAt`: the attempt is over and accounted for; what is left of it goes, then the next one is made;
* `activeSince`: the gang was complete; a Job that is gone by now was taken away.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from peftjob_api import AdapterInfo, PeftJobSpec, PeftJobStatus, Reason, TerminationMessage, WorkerStatus

from .admission import is_queued
from .restart import LONGEST_PAUSE_SECONDS, Cause, Record, cause_of, claimed_attempt, judge, reach_of
from .settings import LOST_AFTER_SECONDS, POLL_SECONDS, WAIT_SECONDS
from .snapshot import ChildJob, Pod, Snapshot, format_time, parse_time
from .status import (
    checkpoint_of,
    how_it_runs,
    is_true,
    progress_is_due,
    progress_of,
    scheduled_times,
    state_of,
    why_not_ready,
    with_condition,
)

MAX_ATTEMPTS = 9999
_SOON = 2.0
GIVEN_BACK_SECONDS = 30.0
"""Until a gang that gave its nodes back tries again, at least; up to twice as long, by chance."""


@dataclass(frozen=True)
class CreateAttempt:
    """Make the children of an attempt."""

    attempt: int


@dataclass(frozen=True)
class DeleteJob:
    """End a gang: its pods get SIGTERM and their grace period."""

    job: ChildJob


@dataclass(frozen=True)
class KillPod:
    """Delete a lost pod by force."""

    pod: Pod


@dataclass(frozen=True)
class DeletePeftJob:
    """Delete the PeftJob itself, whose time to live is over."""


@dataclass(frozen=True)
class RestoreParts:
    """Make Service and ConfigMap what they shall be, in case somebody changed or deleted them."""


Action = CreateAttempt | DeleteJob | KillPod | DeletePeftJob | RestoreParts


@dataclass(frozen=True)
class Decision:
    """What follows from a snapshot."""

    status: PeftJobStatus
    actions: tuple[Action, ...] = ()
    requeue: float | None = None
    """Seconds until the next look, if nothing changes before."""


def decide(snapshot: Snapshot) -> Decision:
    """Return what follows from a snapshot."""
    decision = _decide(replace(snapshot, status=_recalled(snapshot)))
    if decision.status == snapshot.status:
        return decision
    status = decision.status.model_copy(update={"observed_generation": snapshot.metadata.generation})
    return Decision(status, decision.actions, decision.requeue)


def _recalled(s: Snapshot) -> PeftJobStatus:
    """Return the status with the attempt that the children are of, if somebody cleared it or set it back.

    An attempt is written down before anything of it is made, so none is ever ahead of the status by itself.
    """
    newest = max([0, *(job.attempt for job in s.jobs), *(pod.attempt for pod in s.pods)])
    if newest <= (s.status.attempt or 0):
        return s.status
    return s.status.model_copy(update={"attempt": newest, "start_time": s.status.start_time or format_time(s.now)})


def _decide(s: Snapshot) -> Decision:
    if s.metadata.deletion_timestamp:
        return Decision(s.status)  # the garbage collector takes the children, by their ownerReferences
    if is_true(s.status, "Succeeded") or is_true(s.status, "Failed"):
        return _after_the_end(s)
    spec = s.spec
    if spec is None:
        return _fail(s, Reason.INVALID_SPEC, f"{s.spec_error}: delete the PeftJob and create it anew")
    job = s.job()
    if job is not None and job.complete:
        if (word := _result(s)) and word.adapter:
            return _succeed(s, spec, word, word.adapter)
        if s.status.retry_at is None:
            text = f"{job.name} completed, but its pods are gone and with them the result; one more gang looks for it"
            return _ended(s, spec, Cause("Disruption", Reason.RESULT_LOST, text))
    if spec.suspend:
        return _suspend(s)
    if s.status.retry_at is not None or job is None or job.deleting:
        was_taken = s.status.retry_at is None and s.status.active_since is not None
        return _ended(s, spec, cause_of(None, s.gang(), s.now)) if was_taken else _start(s, spec)
    if is_queued(job):
        return _queue(s, job)
    lost = any(pod.lost(s.now) for pod in s.gang())
    all_ended = len(s.gang()) >= spec.workers.nodes and all(pod.ended for pod in s.gang())
    if lost or job.failed or (all_ended and any(pod.phase == "Failed" for pod in s.gang())):
        if lost or all(pod.ended for pod in s.gang()):
            return _ended(s, spec, cause_of(job, s.gang(), s.now))
        return Decision(s.status, requeue=_SOON)  # the cause is told from all pods at once
    return _run(s, spec, job)


def _after_the_end(s: Snapshot) -> Decision:
    """Nothing is made again; what still runs is ended; after its time to live the PeftJob goes."""
    actions = _cleanup(s, [job for job in s.jobs if _may_run(s, job) or job.disowned])
    ttl = s.spec.ttl_seconds_after_finished if s.spec else None
    ended = parse_time(s.status.completion_time)
    left = None if ttl is None or ended is None else (ended + timedelta(seconds=ttl) - s.now).total_seconds()
    if left is not None and left <= 0:
        return Decision(s.status, (*actions, DeletePeftJob()))
    return Decision(s.status, actions, _earliest(WAIT_SECONDS if remains(s, unfinished=True) else None, left))


def _start(s: Snapshot, spec: PeftJobSpec) -> Decision:
    """Make the first or the next attempt, once nothing of an earlier one is left and its pause is over."""
    status = _released(s, s.status)
    retry_at = parse_time(status.retry_at)
    is_next = status.attempt is None or retry_at is not None
    attempt = (status.attempt or 0) + 1 if is_next else status.attempt or 1
    left = (retry_at - s.now).total_seconds() if retry_at is not None else 0.0
    if left > LONGEST_PAUSE_SECONDS:
        left = 0.0  # no pause is that long: the clock was set back
    if remains(s) or left > 0:
        if retry_at is None or status.state == "Suspended":  # else the condition has the cause, which says more
            when = "when all earlier workers have ended" if remains(s) else f"at {status.retry_at}"
            text = f"attempt {attempt} starts {when}"
            status = _not_ready(s, status, Reason.RESTARTING, text).model_copy(update={"state": "Restarting"})
        return Decision(status, _cleanup(s, s.jobs), _SOON if remains(s) else left)
    if attempt > MAX_ATTEMPTS:
        return _fail(s, Reason.NO_PROGRESS, f"{MAX_ATTEMPTS} attempts were made: create the PeftJob anew")
    refusal = s.refusal if s.refusal and s.refusal.attempt == attempt else None
    if refusal and refusal.permanent:
        return _fail(s, refusal.reason, refusal.message)
    reason, text = (refusal.reason, refusal.message) if refusal else (Reason.STARTING, _asked(spec, attempt, status))
    status = _not_ready(s, status, reason, text).model_copy(
        update={
            "state": "Starting",
            "attempt": attempt,
            "start_time": status.start_time or format_time(s.now),
            "retry_at": None,
            "progress": None,
        }
    )
    soon = refusal is not None and refusal.reason is Reason.STARTING
    return Decision(status, (CreateAttempt(attempt),), _SOON if soon else WAIT_SECONDS)


def _asked(spec: PeftJobSpec, attempt: int, status: PeftJobStatus) -> str:
    pods = spec.workers.nodes
    then = f", to go on after step {status.checkpoint.step}" if status.checkpoint else ""
    return f"attempt {attempt}: {pods} worker pod{'s' if pods > 1 else ''} asked for{then}"


def _run(s: Snapshot, spec: PeftJobSpec, job: ChildJob) -> Decision:
    """Tell how a gang is doing; end it if it takes too long, to start or in all."""
    status, nodes = _released(s, s.status), spec.workers.nodes
    gang = s.gang()
    present = sum(pod.running or pod.phase == "Succeeded" for pod in gang)
    if status.active_since is None and present < nodes:
        return _wait_for_gang(s, spec, job, status)
    active_since = parse_time(status.active_since) or s.now
    worker = s.worker if s.worker is None or s.worker.attempt in (None, status.attempt) else None
    state = state_of(worker, status.state)
    status = status.model_copy(update={"active_since": format_time(active_since), "state": state})
    status = _condition(s, status, "WorkersReady", True, *how_it_runs(worker, nodes))
    deadline = spec.active_deadline_seconds
    left = None
    if deadline is not None:
        left = deadline - (status.active_seconds or 0) - s.active_seconds()
        if left <= 0:
            return _fail(
                s, Reason.DEADLINE_EXCEEDED,
                f"workers ran for {deadline} s in all, which is spec.activeDeadlineSeconds: raise it and create the "
                f"PeftJob anew",
            )  # fmt: skip
    if worker is not None:
        new = progress_of(worker, status.progress, s.now)
        if progress_is_due(status.progress, new, s.now):
            status = status.model_copy(update={"progress": new})
        status = _as_told(s, spec, status, worker)
    return Decision(status, requeue=_earliest(POLL_SECONDS, left, _until_lost(s)))


def _wait_for_gang(s: Snapshot, spec: PeftJobSpec, job: ChildJob, status: PeftJobStatus) -> Decision:
    """Say why a gang is not complete; give its nodes back if only a part of it has some, for too long."""
    nodes = spec.workers.nodes
    times = scheduled_times(s.gang())
    left = None
    if times and len(times) < nodes:
        left = (times[0] + timedelta(seconds=spec.workers.start_timeout_seconds) - s.now).total_seconds()
        if left <= 0:
            text = (
                f"only {len(times)} of {nodes} workers had a node after {spec.workers.start_timeout_seconds} s "
                f"(spec.workers.startTimeoutSeconds); the gang gave its nodes back and tries again"
            )
            status = _over(s, status, Reason.START_TIMEOUT, text, pause=GIVEN_BACK_SECONDS * (1 + s.jitter))
            return Decision(status, _cleanup(s, [job]), _SOON)
    # Not how many run by now: each count would cost a write.
    reason, text = why_not_ready(s, nodes) or (Reason.STARTING, _asked(spec, job.attempt, status))
    status = _not_ready(s, status, reason, text).model_copy(update={"state": "Starting"})
    actions = (*_cleanup(s, ()), *((RestoreParts(),) if s.resynced else ()))
    return Decision(status, actions, _earliest(WAIT_SECONDS, left, _until_lost(s)))


def _queue(s: Snapshot, job: ChildJob) -> Decision:
    """A queue holds the Job, from the start or after a preemption."""
    status = s.status
    if status.active_since is not None:
        status = _stopped(s, status).model_copy(update={"disruptions": (status.disruptions or 0) + 1})
    text = f"a queue holds {job.name} back"
    status = _condition(s, status, "Suspended", True, Reason.QUEUED, text)
    status = _not_ready(s, status, Reason.QUEUED, text).model_copy(update={"state": "Queued"})
    return Decision(status, _cleanup(s, ()), _until_lost(s))


def _suspend(s: Snapshot) -> Decision:
    """Take the workers away; a later resume starts the next attempt."""
    status = s.status
    if (s.job() is not None or status.active_since is not None) and status.retry_at is None:
        status = _stopped(s, status).model_copy(update={"retry_at": format_time(s.now)})
    text = "spec.suspend is true: no workers, until it is false"
    status = _condition(s, status, "Suspended", True, Reason.SUSPENDED, text)
    status = _not_ready(s, status, Reason.SUSPENDED, text).model_copy(update={"state": "Suspended"})
    return Decision(status, _cleanup(s, s.jobs), WAIT_SECONDS if remains(s) else None)


def _ended(s: Snapshot, spec: PeftJobSpec, cause: Cause) -> Decision:
    """Account for the end of a gang: fail, or take its children away and try again."""
    status = s.status
    words = [pod.last_word.status for pod in s.gang() if pod.last_word and pod.last_word.status]
    reach = reach_of(status, words)
    if cause.reason is Reason.RESULT_LOST:
        reach = replace(reach, step=None)  # the next gang makes no step either
    for word in words:
        status = _as_told(s, spec, status, word)
    verdict = judge(cause, Record.of(status), spec.max_restarts, reach, jitter=s.jitter, time=format_time(s.now))
    status = status.model_copy(update={**vars(verdict.record), "furthest_step": reach.furthest})
    if verdict.failed:
        return _fail(s, verdict.reason, verdict.message, status)
    status = _over(s, status, verdict.reason, verdict.message, verdict.pause)
    if (claimed := min(claimed_attempt(s.gang()), MAX_ATTEMPTS)) > (status.attempt or 0):
        status = status.model_copy(update={"attempt": claimed})
    return Decision(status, _cleanup(s, s.jobs), _SOON)


def _over(s: Snapshot, status: PeftJobStatus, reason: Reason | str, message: str, pause: float) -> PeftJobStatus:
    """Return the status after an attempt that is followed by another one."""
    status = _not_ready(s, status, reason, message)
    update = {"state": "Restarting", "retry_at": format_time(s.now + timedelta(seconds=pause))}
    return _stopped(s, status).model_copy(update=update)


def _result(s: Snapshot) -> TerminationMessage | None:
    """Return the last word of rank 0's pod, if it ended well; a result has an adapter in it."""
    first = next((pod for pod in s.gang() if pod.index == 0 and pod.exit_code == 0), None)
    return first.last_word if first else None


def _succeed(s: Snapshot, spec: PeftJobSpec, word: TerminationMessage, adapter: AdapterInfo) -> Decision:
    # Where it lies is not for a worker to say.
    adapter = adapter.model_copy(update={"uri": spec.output.uri})
    status = _finished(s, _stopped(s, _released(s, s.status)), "Succeeded")
    if worker := word.status:
        if worker.step is not None:
            status = status.model_copy(update={"progress": progress_of(worker, status.progress, s.now)})
        status = _as_told(s, spec, status, worker)
    status = status.model_copy(update={"adapter": adapter, "checkpoint": None})  # which it made obsolete
    text = f"the adapter lies at {adapter.uri}; sha256 of its manifest.json: {adapter.sha256}"
    return Decision(_condition(s, status, "Succeeded", True, Reason.ADAPTER_PUBLISHED, text), requeue=0.0)


def _as_told(s: Snapshot, spec: PeftJobSpec, status: PeftJobStatus, worker: WorkerStatus) -> PeftJobStatus:
    """Return the status with what a worker says of its plan, settings, data and checkpoint."""
    told = {
        "plan": worker.plan or status.plan,
        "resolved": worker.resolved or status.resolved,
        "data": worker.data or status.data,
        "checkpoint": checkpoint_of(worker, status.checkpoint, spec.output.uri, s.now),
    }
    return status.model_copy(update=told)


def _fail(s: Snapshot, reason: Reason | str, message: str, status: PeftJobStatus | None = None) -> Decision:
    status = _finished(s, _stopped(s, s.status if status is None else status), "Failed")
    status = _condition(s, status, "Failed", True, reason, message)
    return Decision(status, _cleanup(s, [job for job in s.jobs if _may_run(s, job)]), 0.0)


def _finished(s: Snapshot, status: PeftJobStatus, state: str) -> PeftJobStatus:
    status = _not_ready(s, status, Reason.FINISHED, "the job is over")
    return status.model_copy(update={"state": state, "completion_time": format_time(s.now), "retry_at": None})


def _stopped(s: Snapshot, status: PeftJobStatus) -> PeftJobStatus:
    """Return the status with the time of the running gang, and how far it came, accounted for."""
    status = status.model_copy(update={"furthest_step": reach_of(status).furthest or None})
    if status.active_since is None:
        return status
    seconds = (status.active_seconds or 0) + round(s.active_seconds())
    return status.model_copy(update={"active_seconds": seconds, "active_since": None})


def _released(s: Snapshot, status: PeftJobStatus) -> PeftJobStatus:
    """Return the status of a job that neither a person nor a queue holds back (any more)."""
    if not is_true(status, "Suspended"):
        return status
    return _condition(s, status, "Suspended", False, Reason.RESUMED, "the job goes on")


def _not_ready(s: Snapshot, status: PeftJobStatus, reason: Reason | str, message: str) -> PeftJobStatus:
    return _condition(s, status, "WorkersReady", False, reason, message)


def _condition(
    s: Snapshot, status: PeftJobStatus, type_: Any, holds: bool, reason: Reason | str, message: str
) -> PeftJobStatus:
    return with_condition(status, type_, holds, reason, message, now=s.now, generation=s.metadata.generation)


def _cleanup(s: Snapshot, jobs: Any) -> tuple[Action, ...]:
    """Return the deletion of Jobs that are not being deleted yet, and of pods whose nodes do not answer."""
    deleted = [DeleteJob(job) for job in jobs if not job.deleting]
    return (*deleted, *(KillPod(pod) for pod in s.pods if pod.lost(s.now)))


def remains(s: Snapshot, *, unfinished: bool = False) -> bool:
    """Tell whether Jobs are left (or, with `unfinished`, Jobs that may start pods), or pods that run."""
    jobs = [job for job in s.jobs if not (unfinished and job.finished)]
    return bool(jobs) or any(not pod.ended for pod in s.pods)


def _may_run(s: Snapshot, job: ChildJob) -> bool:
    """Tell whether something of a Job runs or may start. One whose pods have all ended is kept, for their logs."""
    pods = [pod for pod in s.pods if pod.attempt == job.attempt]
    nodes = s.spec.workers.nodes if s.spec else 1
    return not job.finished and not (len(pods) >= nodes and all(pod.ended for pod in pods))


def _until_lost(s: Snapshot) -> float | None:
    """Return the seconds until the first pod that is being deleted counts as lost."""
    late = timedelta(seconds=LOST_AFTER_SECONDS)
    times: list[datetime] = [pod.delete_at + late for pod in s.pods if pod.delete_at and not pod.ended]
    return max(1.0, (min(times) - s.now).total_seconds()) if times else None


def _earliest(*seconds: float | None) -> float | None:
    found = [value for value in seconds if value is not None]
    return max(0.5, min(found)) if found else None
