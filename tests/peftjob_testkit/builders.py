"""PeftJobs, Jobs and worker pods as the API server returns them, and snapshots. Used by tests/unit/controller."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from peftjob_api import PeftJobStatus
from peftjob_api import constants as names
from peftjob_operator.observe import read_peftjob
from peftjob_operator.snapshot import ChildJob, Pod, Snapshot, format_time

Object = dict[str, Any]

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
NAME, UID = "tune", "uid-tune"
URI = "s3://adapters/tune"
ADAPTER = {"uri": URI, "sha256": "ab" * 32, "sizeBytes": 7}


def at(seconds: float = 0) -> str:
    """Return a time so many seconds after `NOW`."""
    return format_time(NOW + timedelta(seconds=seconds))


def spec(**fields: Any) -> Object:
    """Return the spec of a PeftJob with two workers."""
    return {
        "baseModel": {"uri": "s3://models/m"},
        "dataset": {"train": "s3://data/d.jsonl"},
        "output": {"uri": URI},
        "workers": {"nodes": 2, "processesPerNode": 1},
        **fields,
    }


def condition(type_: str, status: str, reason: str, message: str = "", since: float = -60) -> Object:
    """Return a condition."""
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": at(since),
        "observedGeneration": 1,
    }


def status(attempt: int | None = 1, *conditions: Object, **fields: Any) -> Object:
    """Return the status of a PeftJob whose attempt has begun; `attempt=None` for one that nobody has looked at."""
    if attempt is None:
        return {}
    return {"attempt": attempt, "startTime": at(-600), "conditions": list(conditions), "state": "Starting", **fields}


def running(attempt: int = 1, since: float = -100, **fields: Any) -> Object:
    """Return the status of a PeftJob whose workers all run."""
    ready = condition("WorkersReady", "True", "Running", "all 2 workers run", since)
    return status(attempt, ready, activeSince=at(since), **{"state": "Running", **fields})


def peftjob(
    status: Mapping[str, Any] | None = None, *, generation: int = 1, metadata: Mapping[str, Any] = {}, **fields: Any
) -> Object:
    """Return a PeftJob; `fields` are of its spec."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": NAME,
            "namespace": "default",
            "uid": UID,
            "generation": generation,
            "resourceVersion": "100",
            "creationTimestamp": at(-700),
            **metadata,
        },
        "spec": spec(**fields),
        **({"status": dict(status)} if status else {}),
    }


def labels(attempt: int) -> dict[str, str]:
    """Return the labels by which the operator finds the children of an attempt."""
    return {names.LABEL_JOB: NAME, names.LABEL_JOB_UID: UID, names.LABEL_ATTEMPT: str(attempt)}


def child_job(
    attempt: int = 1,
    *,
    uid: str = "",
    suspended: bool = False,
    complete: bool = False,
    failed: str = "",
    failure_type: str = "Failed",
    deleting: bool = False,
) -> Object:
    """Return the Job of an attempt; `failed` is the Job controller's message."""
    conditions = [{"type": "Complete", "status": "True"}] if complete else []
    if failed:
        conditions.append({"type": failure_type, "status": "True", "message": failed})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{NAME}-{attempt}",
            "namespace": "default",
            "uid": uid or f"uid-job-{attempt}",
            "resourceVersion": "100",
            "labels": labels(attempt),
            "ownerReferences": [{"kind": names.KIND, "name": NAME, "uid": UID, "controller": True}],
            **({"deletionTimestamp": at(-1)} if deleting else {}),
        },
        "spec": {"suspend": suspended},
        "status": {"conditions": conditions},
    }


def worker(
    index: int = 0,
    attempt: int = 1,
    *,
    phase: str = "Running",
    uid: str = "",
    job_uid: str = "",
    node: str | None = "",
    scheduled: float = -200,
    unschedulable: str = "",
    waiting: tuple[str, str] | None = None,
    exit_code: int | None = None,
    terminated: Mapping[str, Any] = {},
    word: str | None = None,
    disruption: str | None = None,
    delete_at: float | None = None,
    memory_limit: str = "",
    **fields: Any,
) -> Object:
    """Return a worker pod; `node=None` for one that has no node, `delete_at` for the end of its grace period."""
    if node == "":
        node = f"node-{index}"
    state: Object = {}
    if exit_code is not None:
        phase = "Succeeded" if exit_code == 0 else "Failed"
        message = {"message": word} if word is not None else {}
        state = {"terminated": {"exitCode": exit_code, **message, **terminated}}
    elif waiting:
        state = {"waiting": {"reason": waiting[0], "message": waiting[1]}}
    elif phase == "Running" and node is not None:
        state = {"running": {"startedAt": at(-100)}}
    conditions: list[Object] = []
    if node is not None:
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": at(scheduled)})
    elif unschedulable:
        conditions.append(
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unschedulable}
        )
    if disruption is not None:
        conditions.append({"type": "DisruptionTarget", "status": "True", "message": disruption})
    limits = {"resources": {"limits": {"memory": memory_limit}}} if memory_limit else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{NAME}-{attempt}-{index}-x",
            "namespace": "default",
            "uid": uid or f"uid-pod-{attempt}-{index}",
            "resourceVersion": "100",
            "labels": {**labels(attempt), names.LABEL_JOB_INDEX: str(index)},
            "ownerReferences": [
                {
                    "kind": "Job",
                    "name": f"{NAME}-{attempt}",
                    "uid": job_uid or f"uid-job-{attempt}",
                    "controller": True,
                }
            ],
            **({"deletionTimestamp": at(delete_at)} if delete_at is not None else {}),
        },
        "spec": {
            **({"nodeName": node} if node else {}),
            "containers": [{"name": names.TRAINER_CONTAINER, **limits}],
        },
        "status": {
            "phase": "Pending" if waiting or node is None else phase,
            "podIP": "10.0.0.1",
            "conditions": conditions,
            **({"containerStatuses": [{"name": names.TRAINER_CONTAINER, "state": state}]} if state else {}),
            **fields,
        },
    }


def snapshot(
    job: Mapping[str, Any], jobs: Sequence[Object] = (), pods: Sequence[Object] = (), now: float = 0, **seen: Any
) -> Snapshot:
    """Return the snapshot of a PeftJob and its children, so many seconds after `NOW`."""
    own = read_peftjob(job, NOW + timedelta(seconds=now))
    own = dataclasses.replace(own, jobs=tuple(ChildJob.of(obj, UID) for obj in jobs), pods=tuple(map(Pod.of, pods)))
    return dataclasses.replace(own, **seen)


def applied(job: Mapping[str, Any], status: PeftJobStatus) -> Object:
    """Return a PeftJob with another status."""
    return {**job, "status": status.to_wire()}
