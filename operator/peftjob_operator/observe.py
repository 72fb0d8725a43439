"""From the cluster to a snapshot. Used by `reconcile`.

Mostly from what the watches told (`cache`). Read from the API server itself is what must not be stale or cannot be
watched: the children of a gang that has ended, Events where nothing else explains a wait, and, from time to time, the
children of unfinished PeftJobs. Rank 0 is asked for its progress in the background: no reconcile waits for a worker.
"""

import asyncio
import dataclasses
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from peftjob_api import PeftJob, PeftJobSpec, PeftJobStatus, WorkerStatus, format_errors
from peftjob_api.constants import LABEL_JOB, LABEL_JOB_UID
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
_MOST_ASKED_AT_ONCE = 32


@dataclass
class Memory:
    """What is known of one PeftJob and cannot be read again."""

    ended: dict[str, Pod] = field(default_factory=dict)
    """Pods that ended, by uid: they may be gone before they are looked at."""
    preempted: set[str] = field(default_factory=set)
    """Uids of pods that a queue took away."""
    deleted: set[str] = field(default_factory=set)
    """Uids of Jobs that this operator deleted; the watch may not know it yet."""
    refusal: Refusal | None = None
    """What the API server said to the last attempt's children."""
    told: tuple[str, WorkerStatus] | None = None
    """What rank 0 said last, and the uid of its pod."""
    asking: asyncio.Task[None] | None = None
    asked_at: float | None = None
    read_at: float | None = None
    """When the children were last read, or first seen: the watches are complete at the start."""


class Observer:
    """Makes snapshots, and remembers what the cluster may forget."""

    def __init__(
        self,
        cache: Cache,
        kube: Kube,
        workers: Workers,
        wake: Callable[[Key], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take what to read from, and whom to call when rank 0 of a PeftJob has answered."""
        self._cache = cache
        self._kube = kube
        self._workers = workers
        self._wake = wake
        self._clock = clock
        self._memories: dict[Key, dict[str, Memory]] = {}
        self._asking = asyncio.Semaphore(_MOST_ASKED_AT_ONCE)

    def memory(self, key: Key, uid: str) -> Memory:
        """Return the memory of a PeftJob."""
        return self._memories.setdefault(key, {}).setdefault(uid, Memory())

    def remember(self, obj: Object) -> None:
        """Remember a pod that has ended or is being taken away, since it may be gone before it is looked at."""
        pod, labels = Pod.of(obj), obj["metadata"].get("labels", {})
        if pod.ended or pod.exit_code is not None or pod.disruption:
            key = obj["metadata"].get("namespace", ""), labels.get(LABEL_JOB, "")
            self.memory(key, labels.get(LABEL_JOB_UID, "")).ended[pod.uid] = pod

    async def observe(self, key: Key) -> Snapshot | None:
        """Return what there is to know about a PeftJob; None when there is none."""
        found = self._cache.get("peftjobs", key)
        if not found:
            self._cache.forget(key)
            self._memories.pop(key, None)
            return None
        raw = max(found, key=lambda obj: obj["metadata"].get("creationTimestamp", ""))
        uid = raw["metadata"]["uid"]
        snapshot = self._own(key, read_peftjob(raw, self._clock()))
        is_over = is_true(snapshot.status, "Succeeded") or is_true(snapshot.status, "Failed")
        if is_over and all(job.finished for job in snapshot.jobs):
            self._memories.pop(key, None)
            return snapshot
        memory = self.memory(key, uid)
        if memory.read_at is None:
            memory.read_at = snapshot.now.timestamp()
        if snapshot.now.timestamp() - memory.read_at >= RESYNC_SECONDS or _is_ending(snapshot):
            snapshot = await self.reread(key, snapshot)  # a watch may miss a deletion; that of pods may be behind
        job = snapshot.job()
        if job is not None and job.suspended and not job.finished:  # it starts no pods: all there are came before
            memory.preempted |= {pod.uid for pod in snapshot.gang()}
            snapshot = self._own(key, snapshot)
        return dataclasses.replace(
            snapshot,
            worker=self._ask(key, snapshot, memory),
            warnings=await self._warnings(snapshot),
            refusal=memory.refusal,
            jitter=random.random(),
        )

    def _own(self, key: Key, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with those children that this PeftJob owns, and pods that have ended and are gone."""
        uid = snapshot.metadata.uid
        memory = self.memory(key, uid)
        pods = [o for o in self._cache.get("pods", key) if o["metadata"].get("labels", {}).get(LABEL_JOB_UID) == uid]
        own = [Pod.of(obj) for obj in pods]
        present = {pod.uid for pod in own}
        gone = [
            dataclasses.replace(pod, phase="Succeeded" if pod.exit_code == 0 else "Failed")
            for pod in memory.ended.values()
            if pod.uid not in present and pod.attempt == (snapshot.status.attempt or 0)
        ]
        jobs = [ChildJob.of(obj) for obj in self._cache.get("jobs", key) if owner_uid(obj) == uid]
        return dataclasses.replace(
            snapshot,
            jobs=tuple(dataclasses.replace(j, deleting=True) if j.uid in memory.deleted else j for j in jobs),
            pods=(*own, *gone),
            earlier=frozenset(memory.preempted),
        )

    async def reread(self, key: Key, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with the children that the API server has now."""
        uid = snapshot.metadata.uid
        for kind, collection in (("jobs", JOBS), ("pods", PODS)):
            mark = self._cache.mark(kind, key)
            listed = await self._kube.list(collection, key[0], labelSelector=f"{LABEL_JOB_UID}={uid}")
            self._cache.replace(kind, key, listed, uid, mark)
        self.memory(key, uid).read_at = snapshot.now.timestamp()
        return self._own(key, snapshot)

    def _ask(self, key: Key, snapshot: Snapshot, memory: Memory) -> WorkerStatus | None:
        """Return what rank 0 said last, and have it asked again, if it was not a moment ago."""
        job = snapshot.job()
        if job is None or job.finished or job.deleting or snapshot.spec is None:
            return None
        first = next((pod for pod in snapshot.gang() if pod.index == 0 and pod.running and not pod.delete_at), None)
        if first is None:
            return None
        now, last = snapshot.now.timestamp(), memory.asked_at
        if (memory.asking is None or memory.asking.done()) and (last is None or now - last >= _ASK_SECONDS):
            memory.asked_at = now
            memory.asking = asyncio.create_task(self._ask_now(key, first, memory))
        return memory.told[1] if memory.told and memory.told[0] == first.uid else None

    async def _ask_now(self, key: Key, first: Pod, memory: Memory) -> None:
        async with self._asking:
            said = await self._workers.status(key[0], first)
        if said is not None:
            memory.told = first.uid, said
            self._wake(key)

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


def _is_ending(snapshot: Snapshot) -> bool:
    """Tell whether the current gang has ended, or seems to, and is not accounted for: the next decision is for good."""
    job, gang = snapshot.job(), snapshot.gang()
    if job is None or snapshot.status.retry_at is not None:
        return False
    return job.finished or (any(pod.phase == "Failed" for pod in gang) and all(pod.ended for pod in gang))


def read_peftjob(raw: Mapping[str, Any], now: datetime) -> Snapshot:
    """Return a snapshot of the PeftJob alone. What an older CRD let through is told, not raised."""
    metadata = Metadata.model_validate(raw["metadata"])
    stored = raw.get("status") or {}
    spec: PeftJobSpec | None = None
    error = ""
    try:
        manifest = {key: value for key, value in raw.items() if key != "status"}
        spec = PeftJob.model_validate(manifest, by_alias=True, by_name=False).spec
    except ValidationError as invalid:
        error = format_errors(invalid)
    return Snapshot(now, metadata, spec, read_status(stored), spec_error=error, raw_status=stored)


def read_status(stored: Mapping[str, Any]) -> PeftJobStatus:
    """Return a stored status without what another version of this operator wrote and this one does not understand.

    What is left matters: a PeftJob whose end were forgotten would start anew.
    """
    kept = dict(stored)
    while True:
        try:
            return PeftJobStatus.model_validate(kept)
        except ValidationError as invalid:
            name, *rest = invalid.errors()[0]["loc"]
            if name == "conditions" and rest and isinstance(rest[0], int):
                kept["conditions"] = [c for i, c in enumerate(kept["conditions"]) if i != rest[0]]
            elif name in kept:
                del kept[name]
            else:
                return PeftJobStatus()
