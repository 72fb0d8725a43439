"""From the cluster to a snapshot. Used by `reconcile`.

Mostly from what the watches told (`cache`). Read from the API server itself is what must not be stale or cannot be
watched: the pods of a Job that has ended, Events where nothing else explains a wait, and, from time to time, the
children of unfinished PeftJobs. Rank 0 is asked for its progress.
"""

import dataclasses
import random
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from peftjob_api import PeftJob, PeftJobSpec, PeftJobStatus, WorkerStatus, format_errors
from peftjob_api.constants import LABEL_JOB_UID
from peftjob_api.peftjob import Metadata
from pydantic import ValidationError

from .cache import Cache, Key
from .kube import EVENTS, JOBS, PODS, Kube, owner_uid
from .settings import RESYNC_SECONDS
from .snapshot import ChildJob, Object, Pod, Refusal, Snapshot, parse_time
from .status import is_true
from .workers import Workers

_ASK_SECONDS = 2.0
_EXPLAIN_AFTER_SECONDS = 5.0


class Observer:
    """Makes snapshots, and remembers what the cluster may forget."""

    def __init__(self, cache: Cache, kube: Kube, workers: Workers) -> None:
        self.refusals: dict[str, Refusal] = {}
        """By uid: what the API server said to the last attempt's children."""
        self._cache = cache
        self._kube = kube
        self._workers = workers
        self._ended: dict[str, dict[str, Pod]] = {}
        self._read: dict[str, float] = {}
        self._asked: dict[str, float] = {}

    def remember(self, obj: Object) -> None:
        """Remember a pod whose trainer has ended, since it may be gone before it is looked at."""
        pod = Pod.of(obj)
        job_uid = obj["metadata"].get("labels", {}).get(LABEL_JOB_UID, "")
        if pod.exit_code is not None:
            self._ended.setdefault(job_uid, {})[pod.uid] = pod

    async def observe(self, key: Key) -> Snapshot | None:
        """Return what there is to know about a PeftJob; None when there is none."""
        found = self._cache.get("peftjobs", key)
        if not found:
            self._cache.forget(key)
            return None
        raw = max(found, key=lambda obj: obj["metadata"].get("creationTimestamp", ""))
        uid = raw["metadata"]["uid"]
        snapshot = self._own(read_peftjob(raw), self._cache.get("jobs", key), self._cache.get("pods", key))
        if is_true(snapshot.status, "Succeeded") or is_true(snapshot.status, "Failed"):
            self._forget(uid)
            if all(job.finished for job in snapshot.jobs):
                return snapshot
        if self._is_due(self._read, uid, RESYNC_SECONDS, at_first=False):
            await self._reread(key, uid)
            snapshot = self._own(snapshot, self._cache.get("jobs", key), self._cache.get("pods", key))
        job = snapshot.job()
        if job is not None and job.finished and snapshot.status.retry_at is None:
            await self._reread_pods(key, uid)  # the watch of pods may be behind that of Jobs
            snapshot = self._own(snapshot, self._cache.get("jobs", key), self._cache.get("pods", key))
        return dataclasses.replace(
            snapshot,
            worker=await self._ask(snapshot),
            warnings=await self._warnings(snapshot),
            refusal=self.refusals.get(uid),
            jitter=random.random(),
        )

    def _own(self, snapshot: Snapshot, jobs: list[Object], pods: list[Object]) -> Snapshot:
        """Return a snapshot with those children that this PeftJob owns, and pods that have ended and are gone."""
        uid = snapshot.metadata.uid
        own = [Pod.of(obj) for obj in pods if obj["metadata"].get("labels", {}).get(LABEL_JOB_UID) == uid]
        present = {pod.uid for pod in own}
        gone = [
            dataclasses.replace(pod, phase="Failed" if pod.exit_code else "Succeeded")
            for pod in self._ended.get(uid, {}).values()
            if pod.uid not in present and pod.attempt == (snapshot.status.attempt or 0)
        ]
        return dataclasses.replace(
            snapshot,
            jobs=tuple(ChildJob.of(obj) for obj in jobs if owner_uid(obj) == uid),
            pods=(*own, *gone),
        )

    async def _reread(self, key: Key, uid: str) -> None:
        namespace, _ = key
        selector = f"{LABEL_JOB_UID}={uid}"
        self._cache.replace("jobs", key, await self._kube.list(JOBS, namespace, labelSelector=selector), uid)
        await self._reread_pods(key, uid)

    async def _reread_pods(self, key: Key, uid: str) -> None:
        namespace, _ = key
        listed = await self._kube.list(PODS, namespace, labelSelector=f"{LABEL_JOB_UID}={uid}")
        self._cache.replace("pods", key, listed, uid)

    async def _ask(self, snapshot: Snapshot) -> WorkerStatus | None:
        """Return what rank 0 says, if there is one and it was not asked a moment ago."""
        job, uid = snapshot.job(), snapshot.metadata.uid
        if job is None or job.finished or job.deleting or snapshot.spec is None:
            return None
        first = next((pod for pod in snapshot.gang() if pod.index == 0 and pod.running), None)
        if first is None or first.delete_at or not self._is_due(self._asked, uid, _ASK_SECONDS):
            return None
        return await self._workers.status(snapshot.metadata.namespace, first)

    async def _warnings(self, snapshot: Snapshot) -> tuple[str, ...]:
        """Return what Events say about a gang that does not start, where pods do not say it themselves."""
        job, gang = snapshot.job(), snapshot.gang()
        if job is None or job.finished or job.suspended or snapshot.status.active_since or snapshot.spec is None:
            return ()
        if any(pod.waiting or pod.unschedulable for pod in gang):
            return ()
        silent = [pod for pod in gang if pod.scheduled_at and not pod.running]
        quiet_since = [pod.scheduled_at for pod in silent if pod.scheduled_at]
        condition = snapshot.status.condition("WorkersReady")
        since = min(quiet_since) if quiet_since else parse_time(condition.last_transition_time if condition else None)
        if since is None or (snapshot.now - since).total_seconds() < _EXPLAIN_AFTER_SECONDS:
            return ()
        messages = []
        for uid in [job.uid] if len(gang) < snapshot.spec.workers.nodes else [pod.uid for pod in silent[:1]]:
            events = await self._kube.list(
                EVENTS, snapshot.metadata.namespace, fieldSelector=f"involvedObject.uid={uid},type=Warning"
            )
            messages += [f"{event.get('reason', '')}: {event.get('message', '')}" for event in events]
        return tuple(reversed(messages))

    def _forget(self, uid: str) -> None:
        self.refusals.pop(uid, None)
        self._ended.pop(uid, None)
        self._read.pop(uid, None)
        self._asked.pop(uid, None)

    def _is_due(self, times: dict[str, float], uid: str, seconds: float, *, at_first: bool = True) -> bool:
        """Tell whether something was last done long enough ago, and note that it is done now."""
        now = time.monotonic()
        last = times.get(uid)
        if last is not None and now - last < seconds:
            return False
        times[uid] = now
        return last is not None or at_first


def read_peftjob(raw: Mapping[str, Any]) -> Snapshot:
    """Return a snapshot of the PeftJob alone. What an older CRD let through is told, not raised."""
    metadata = Metadata.model_validate(raw["metadata"])
    stored = raw.get("status") or {}
    try:
        status = PeftJobStatus.model_validate(stored)
    except ValidationError:
        status = PeftJobStatus.model_validate({"attempt": stored["attempt"]} if "attempt" in stored else {})
    spec: PeftJobSpec | None = None
    error = ""
    try:
        manifest = {key: value for key, value in raw.items() if key != "status"}
        spec = PeftJob.model_validate(manifest, by_alias=True, by_name=False).spec
    except ValidationError as invalid:
        error = format_errors(invalid)
    return Snapshot(datetime.now(UTC), metadata, spec, status, spec_error=error, raw_status=stored)
