"""From the cluster to a snapshot. Used by `reconcile`.

Mostly from what the watches told (`cache`). Read from the API server itself is what must not be stale or cannot be
watched: the children of a gang that has ended, Events where nothing else explains a wait, and, from time to time, the
children of unfinished PeftJobs. Rank 0 is asked for its progress in the background: no reconcile waits for a worker.
"""

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from peftjob_api import PeftJob, PeftJobSpec, PeftJobStatus, WorkerStatus, format_errors
from peftjob_api.constants import LABEL_JOB, LABEL_JOB_UID
from peftjob_api.peftjob import Metadata
from pydantic import ValidationError

from .cache import Cache, Key
from .kube import EVENTS, JOBS, PEFTJOBS, PODS, Kube, belongs_to
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
    gang: tuple[str, float] | None = None
    """`status.activeSince` of the running gang, and the tick at which that was."""

    due: dict[tuple[str, datetime], float] = field(default_factory=dict)
    """The tick at which the grace period of a pod ends, by its uid and the time that the pod says."""

    def dated(self, pods: list[Pod], now: datetime, ticks: float) -> list[Pod]:
        """Return pods with the end of their grace period as it was first seen, however the clock is set since."""
        seen, dated = self.due, []
        self.due = {}
        for pod in pods:
            if pod.delete_at is not None:
                left = (pod.delete_at - now).total_seconds()
                most = left if pod.grace_seconds is None else float(pod.grace_seconds)
                key = pod.uid, pod.delete_at
                due = self.due[key] = seen.get(key, ticks + min(left, most))
                pod = dataclasses.replace(pod, delete_at=now + timedelta(seconds=due - ticks))
            dated.append(pod)
        return dated

    def active(self, since: str | None, now: datetime, ticks: float) -> float | None:
        """Return the seconds for which the gang has been complete; a clock that is set changes nothing of them."""
        began = parse_time(since)
        if since is None or began is None:
            return None
        if self.gang is None or self.gang[0] != since:
            self.gang = since, ticks - max(0.0, (now - began).total_seconds())
        return ticks - self.gang[1]


class Observer:
    """Makes snapshots, and remembers what the cluster may forget."""

    def __init__(
        self,
        cache: Cache,
        kube: Kube,
        workers: Workers,
        wake: Callable[[Key], None],
        clock: Callable[[], datetime],
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what to read from, and whom to call when rank 0 of a PeftJob has answered.

        Durations are counted by `ticks`, in seconds, since a clock may be set.
        """
        self._cache = cache
        self._kube = kube
        self._workers = workers
        self._wake = wake
        self._clock = clock
        self._ticks = ticks
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
        now = self._ticks()
        if memory.read_at is None:
            memory.read_at = now
        is_old = now - memory.read_at >= RESYNC_SECONDS
        if is_old or _is_ending(snapshot):
            snapshot = await self.reread(key, snapshot)  # a watch may miss a deletion; that of pods may be behind
        job = snapshot.job()
        if job is not None and job.suspended and not job.finished:
            # It starts no pods, so all there are came before; their end is accounted for, or is so by this look.
            memory.preempted |= {pod.uid for pod in snapshot.gang()}
            snapshot = self._own(key, snapshot)
        return dataclasses.replace(
            snapshot,
            worker=self._ask(key, snapshot, memory),
            warnings=await self._warnings(snapshot),
            refusal=memory.refusal,
            jitter=random.random(),
            active_for=memory.active(snapshot.status.active_since, snapshot.now, self._ticks()),
            resynced=is_old,
        )

    def _own(self, key: Key, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with those children that this PeftJob owns, and pods that have ended and are gone."""
        uid = snapshot.metadata.uid
        memory = self.memory(key, uid)
        pods = [o for o in self._cache.get("pods", key) if o["metadata"].get("labels", {}).get(LABEL_JOB_UID) == uid]
        own = memory.dated([Pod.of(obj) for obj in pods], snapshot.now, self._ticks())
        present = {pod.uid for pod in own}
        gone = [
            dataclasses.replace(pod, phase="Succeeded" if pod.exit_code == 0 else "Failed")
            for pod in memory.ended.values()
            if pod.uid not in present and pod.attempt == (snapshot.status.attempt or 0)
        ]
        jobs = [ChildJob.of(obj, uid) for obj in self._cache.get("jobs", key) if belongs_to(obj, uid)]
        return dataclasses.replace(
            snapshot,
            jobs=tuple(dataclasses.replace(j, deleting=True) if j.uid in memory.deleted else j for j in jobs),
            pods=(*own, *gone),
            earlier=frozenset(memory.preempted),
        )

    async def reread(self, key: Key, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot with the children that the API server has now."""
        uid = snapshot.metadata.uid
        memory = self.memory(key, uid)
        for kind, collection in (("jobs", JOBS), ("pods", PODS)):
            mark, deleted = self._cache.mark(kind, key), frozenset(memory.deleted)
            listed = await self._kube.list(collection, key[0], labelSelector=f"{LABEL_JOB_UID}={uid}")
            self._cache.replace(kind, key, listed, uid, mark)
            # Deleted, and there as if it were not: the store was set back.
            back = {obj["metadata"]["uid"] for obj in listed if "deletionTimestamp" not in obj["metadata"]}
            memory.deleted -= back & deleted
        memory.read_at = self._ticks()
        return self._own(key, snapshot)

    async def read_own(self, key: Key, uid: str) -> None:
        """Read a PeftJob anew, of which the watch told something else than the API server has."""
        found = await self._kube.get(PEFTJOBS, *key)
        if found is None or found["metadata"]["uid"] != uid:
            self._cache.remove(uid)
        if found is not None:
            self._cache.put("peftjobs", key, found)

    def _ask(self, key: Key, snapshot: Snapshot, memory: Memory) -> WorkerStatus | None:
        """Return what rank 0 said last, and have it asked again, if it was not a moment ago."""
        job = snapshot.job()
        if job is None or job.finished or job.deleting or snapshot.spec is None:
            return None
        first = next((pod for pod in snapshot.gang() if pod.index == 0 and pod.running and not pod.delete_at), None)
        if first is None:
            return None
        now, last = self._ticks(), memory.asked_at
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
