"""What the operator has seen of one PeftJob, frozen: the only thing that decisions are made from.

Made by `observe` from the API server's objects; read by `decide`, `restart` and `status`. Parsing here is lenient:
objects come from an API server of any version, and termination messages from pods that are not trusted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from peftjob_api import PeftJobSpec, PeftJobStatus, Reason, TerminationMessage, WorkerStatus, parse_worker_json
from peftjob_api.constants import LABEL_ATTEMPT, LABEL_JOB_INDEX, TRAINER_CONTAINER
from peftjob_api.peftjob import Metadata

from .settings import LOST_AFTER_SECONDS

Object = Mapping[str, Any]


def parse_time(text: str | None) -> datetime | None:
    """Return an RFC 3339 time, or None where there is none."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def format_time(time: datetime) -> str:
    """Return a time as Kubernetes writes it, in whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def conditions(obj: Object) -> dict[str, Object]:
    """Return the conditions of an object that hold, by type."""
    found = obj.get("status", {}).get("conditions") or []
    return {condition["type"]: condition for condition in found if condition.get("status") == "True"}


def attempt_of(obj: Object) -> int:
    """Return the attempt that a child belongs to; 0 where its label is no number."""
    text = obj["metadata"].get("labels", {}).get(LABEL_ATTEMPT, "")
    return int(text) if text.isdecimal() else 0


@dataclass(frozen=True)
class Pod:
    """One worker pod."""

    name: str
    uid: str
    attempt: int
    job_uid: str = ""
    """Of the Job that made it."""
    index: int | None = None
    """The completion index, which is the node rank."""
    node: str | None = None
    ip: str | None = None
    phase: str = "Pending"
    scheduled_at: datetime | None = None
    unschedulable: str = ""
    """What the scheduler says when it finds no node."""
    running: bool = False
    """Whether the trainer's container runs."""
    waiting: tuple[str, str] | None = None
    """Reason and message of a container that cannot start."""
    exit_code: int | None = None
    oom_killed: bool = False
    memory_limit: str = ""
    last_word: TerminationMessage | None = None
    failure: str = ""
    """Why it failed, if not by the trainer: what the kubelet says, or another container that ended with an error."""
    disruption: str = ""
    """What the condition DisruptionTarget says: a drain, an eviction, a preemption, a lost node."""
    delete_at: datetime | None = None
    """When its time to end by itself is over, for a pod that is being deleted."""
    grace_seconds: float | None = None
    """That time, from its deletion on."""

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.phase in ("Succeeded", "Failed")

    def lost(self, now: datetime) -> bool:
        """Tell whether its node did not end it in time: it may still run there, but nobody here can know."""
        late = timedelta(seconds=LOST_AFTER_SECONDS)
        return not self.ended and self.delete_at is not None and now >= self.delete_at + late

    @property
    def where(self) -> str:
        """The pod and its node, for messages."""
        return f"pod {self.name}" + (f" on node {self.node}" if self.node else "")

    @classmethod
    def of(cls, obj: Object) -> "Pod":
        """Read a Pod object."""
        metadata, spec, status = obj["metadata"], obj.get("spec", {}), obj.get("status", {})
        holding = conditions(obj)
        containers = status.get("containerStatuses") or []
        state: Object = next((c.get("state", {}) for c in containers if c["name"] == TRAINER_CONTAINER), {})
        # An init container or a sidecar of the template can fail as well.
        every = [*(status.get("initContainerStatuses") or []), *containers]
        waits = [c.get("state", {}).get("waiting") for c in every]
        waiting = next((w for w in waits if w and w.get("reason") not in _NORMAL_WAITS), None)
        ended = state.get("terminated") or {}
        if ended.get("reason") == "ContainerStatusUnknown":
            ended = {}  # its node came back without it: the exit code is the kubelet's invention
        target = holding.get("DisruptionTarget")
        scheduling: Object = next((c for c in status.get("conditions") or [] if c["type"] == "PodScheduled"), {})
        is_scheduled = scheduling.get("status") == "True"
        index = metadata.get("labels", {}).get(LABEL_JOB_INDEX, "")
        limits: Object = next(
            (c.get("resources", {}) for c in spec.get("containers", ()) if c["name"] == TRAINER_CONTAINER), {}
        )
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            attempt=attempt_of(obj),
            job_uid=next((o["uid"] for o in metadata.get("ownerReferences") or [] if o.get("controller")), ""),
            index=int(index) if index.isdecimal() else None,
            node=spec.get("nodeName"),
            ip=status.get("podIP"),
            phase=status.get("phase", "Pending"),
            scheduled_at=parse_time(scheduling.get("lastTransitionTime")) if is_scheduled else None,
            unschedulable=scheduling.get("message", "") if scheduling.get("reason") == "Unschedulable" else "",
            running="running" in state,
            waiting=(waiting.get("reason", ""), waiting.get("message", "")) if waiting else None,
            exit_code=ended.get("exitCode"),
            oom_killed=ended.get("reason") == "OOMKilled",
            memory_limit=str((limits.get("limits") or {}).get("memory", "")),
            last_word=parse_worker_json(TerminationMessage, ended["message"]) if ended.get("message") else None,
            failure=_failure(status, every) if status.get("phase") == "Failed" else "",
            disruption=(target.get("message") or target.get("reason") or "disrupted") if target else "",
            delete_at=parse_time(metadata.get("deletionTimestamp")),
            grace_seconds=metadata.get("deletionGracePeriodSeconds"),
        )


_NORMAL_WAITS = (None, "", "ContainerCreating", "PodInitializing")


def _failure(status: Object, containers: list[Object]) -> str:
    """Return why a pod failed, if it was not by the trainer."""
    for container in containers:
        code = container.get("state", {}).get("terminated", {}).get("exitCode")
        if container["name"] != TRAINER_CONTAINER and code:
            return f"its container {container['name']} ended with exit code {code}"
    return ": ".join(str(status[key]) for key in ("reason", "message") if status.get(key))


@dataclass(frozen=True)
class ChildJob:
    """One attempt: a batch/v1 Job that this PeftJob owns."""

    name: str
    uid: str
    attempt: int
    suspended: bool = False
    complete: bool = False
    failed: bool = False
    """Failed, or about to be: its pods are being ended."""
    failure: str = ""
    """The Job controller's message."""
    deleting: bool = False
    disowned: bool = False
    """Whether somebody took its ownerReference away: nobody would collect it."""

    @property
    def finished(self) -> bool:
        """Whether it starts no pods any more."""
        return self.complete or self.failed

    @classmethod
    def of(cls, obj: Object, owner: str | None = None) -> "ChildJob":
        """Read a Job object; `owner` is the uid of the PeftJob whose it should be."""
        metadata, holding = obj["metadata"], conditions(obj)
        failure = holding.get("Failed") or holding.get("FailureTarget")
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            attempt=attempt_of(obj),
            suspended=bool(obj.get("spec", {}).get("suspend")),
            complete="Complete" in holding,
            failed=failure is not None,
            failure=failure.get("message", "") if failure else "",
            deleting="deletionTimestamp" in metadata,
            disowned=owner is not None and owner not in [o["uid"] for o in metadata.get("ownerReferences") or []],
        )


@dataclass(frozen=True)
class Refusal:
    """Why the children of an attempt cannot be made."""

    attempt: int
    reason: Reason
    message: str
    permanent: bool


@dataclass(frozen=True)
class Snapshot:
    """All that is known about one PeftJob at one moment."""

    now: datetime
    metadata: Metadata
    spec: PeftJobSpec | None
    """None where it is not valid."""
    status: PeftJobStatus
    spec_error: str = ""
    jobs: tuple[ChildJob, ...] = ()
    pods: tuple[Pod, ...] = ()
    """Of all attempts."""
    worker: WorkerStatus | None = None
    """What rank 0 says, if it was asked and answered."""
    refusal: Refusal | None = None
    earlier: frozenset[str] = frozenset()
    """Uids of pods that a queue took away: of an earlier gang of the same Job."""
    warnings: tuple[str, ...] = ()
    """Messages of the Events about the Job, or about pods that do not start; read only when nothing else tells."""
    active_for: float | None = None
    """Seconds for which the gang has been complete, if that was counted."""
    resynced: bool = False
    """Whether the children were read anew because it was time to."""
    jitter: float = 0.0
    """In [0, 1): spreads what would happen everywhere at once."""
    raw_status: Object = field(default_factory=dict)
    """As stored; what a change of the status is told from."""

    def job(self) -> ChildJob | None:
        """Return the Job of the current attempt."""
        attempt = self.status.attempt or 0
        return next((job for job in self.jobs if job.attempt == attempt and not job.disowned), None)

    def active_seconds(self) -> float:
        """Return for how long the gang has been complete."""
        since = parse_time(self.status.active_since)
        if since is None:
            return 0.0
        return max(0.0, (self.now - since).total_seconds()) if self.active_for is None else self.active_for

    def gang(self) -> tuple[Pod, ...]:
        """Return the pods of the current gang: what runs between two starts of the current attempt's Job."""
        job = self.job()
        pods = (pod for pod in self.pods if pod.attempt == (self.status.attempt or 0) and pod.uid not in self.earlier)
        return tuple(pod for pod in pods if job is None or pod.job_uid == job.uid)
