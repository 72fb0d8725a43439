"""The reconcile: observe, decide, write the status, act. Everything that changes the cluster is here.

The status is written first, so that nothing is done that is not on record, and only if it changed.
"""

import asyncio
import logging

from peftjob_api import PeftJobStatus, Reason
from peftjob_api.constants import KIND

from . import build
from .cache import Cache, Key, Object
from .decide import Action, CreateAttempt, DeleteJob, DeletePeftJob, KillPod, RestoreParts, decide, remains
from .events import announcements, event
from .kube import CONFIG_MAPS, EVENTS, JOBS, PEFTJOBS, PODS, SERVICES, ApiError, Kube, belongs_to, owner_uid
from .observe import Observer
from .settings import Settings
from .snapshot import Refusal, Snapshot
from .status import merge_patch
from .workqueue import Retry

log = logging.getLogger(__name__)


class Reconciler:
    """Brings one PeftJob at a time closer to what its spec says."""

    def __init__(self, settings: Settings, cache: Cache, kube: Kube, observer: Observer) -> None:
        self._settings = settings
        self._cache = cache
        self._kube = kube
        self._observer = observer
        self._telling: set[asyncio.Task[None]] = set()

    async def reconcile(self, key: Key) -> float | None:
        """Do what is to be done now; return the seconds until the next look, if nothing changes before.

        Raises:
            Retry: What was seen has changed meanwhile.
            ApiError, OSError: The API server refused or did not answer; to be tried again.
        """
        snapshot = await self._observer.observe(key)
        if snapshot is None:
            return None
        decision = decide(snapshot)
        if decision.status != snapshot.status:
            await self._write_status(key, snapshot, decision.status.to_wire())
            self._announce(snapshot, decision.status)
        for action in decision.actions:
            await self._act(key, snapshot, action)
        return decision.requeue

    async def _write_status(self, key: Key, snapshot: Snapshot, wire: Object) -> None:
        patch = merge_patch(snapshot.raw_status, wire)
        if not patch:
            return
        metadata = snapshot.metadata
        try:
            changed = await self._kube.patch_status(*key, metadata.resource_version, patch)
        except ApiError as error:
            if error.status in (404, 409):
                await self._observer.read_own(key, metadata.uid)
                raise Retry from error
            raise
        self._cache.put("peftjobs", key, changed)

    def _announce(self, snapshot: Snapshot, status: PeftJobStatus) -> None:
        """Record Events in the background: nothing depends on them."""
        for announcement in announcements(snapshot.status, status):
            task = asyncio.create_task(self._record(event(snapshot.metadata, announcement)))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _record(self, obj: dict[str, object]) -> None:
        try:
            await self._kube.create(EVENTS, obj)
        except (ApiError, OSError) as error:
            log.info("an Event was not recorded: %s", error)

    async def _act(self, key: Key, snapshot: Snapshot, action: Action) -> None:
        namespace, name = key
        match action:
            case CreateAttempt(attempt):
                if snapshot.status.attempt is not None:  # not the first: no watch may be behind now
                    snapshot = await self._observer.reread(key, snapshot)
                    if remains(snapshot):
                        raise Retry
                await self._create(key, snapshot, attempt)
            case DeleteJob(job):
                log.info("%s/%s: deleting %s", *key, job.name)
                if await self._kube.delete(JOBS, namespace, job.name, job.uid, propagation="Foreground"):
                    self._observer.memory(key, snapshot.metadata.uid).deleted.add(job.uid)
                else:
                    await self._observer.reread(key, snapshot)
            case KillPod(pod):
                log.warning("%s/%s: %s is lost: deleting it by force", *key, pod.where)
                if not await self._kube.delete(PODS, namespace, pod.name, pod.uid, force=True):
                    await self._observer.reread(key, snapshot)
            case RestoreParts():
                await self._make_parts(snapshot)
            case DeletePeftJob():
                log.info("%s/%s: its time to live is over", *key)
                await self._kube.delete(PEFTJOBS, namespace, name, snapshot.metadata.uid)

    async def _create(self, key: Key, snapshot: Snapshot, attempt: int) -> None:
        """Make the children of an attempt; what the API server refuses is for the next decision."""
        metadata, spec = snapshot.metadata, snapshot.spec
        assert spec is not None
        try:
            foreign = await self._make_parts(snapshot)
            if foreign is None:
                foreign = await self._create_job(key, build.job(metadata, spec, attempt, self._settings))
            refusal = name_conflict(attempt, foreign, metadata.name) if foreign is not None else None
        except ApiError as error:
            refusal = refusal_of(attempt, error)
            if refusal is None:
                raise
        memory = self._observer.memory(key, metadata.uid)
        before, memory.refusal = memory.refusal, refusal
        if refusal is None:
            log.info("%s/%s: attempt %d created", *key, attempt)
        elif refusal != before:
            raise Retry  # to tell it

    async def _make_parts(self, snapshot: Snapshot) -> Object | None:
        """Make Service and ConfigMap, or make them what they shall be; return a stranger's that has their name."""
        metadata, spec = snapshot.metadata, snapshot.spec
        assert spec is not None
        strangers = await asyncio.gather(
            self._kube.ensure(SERVICES, build.service(metadata)),
            self._kube.ensure(CONFIG_MAPS, build.config_map(metadata, spec)),
        )
        return next((obj for obj in strangers if obj is not None), None)

    async def _create_job(self, key: Key, job: dict[str, object]) -> Object | None:
        """Create the Job; return a stranger's that has its name. One of ours is there when an answer got lost."""
        try:
            made: Object = await self._kube.create(JOBS, job)
        except ApiError as error:
            if error.status != 409:
                raise
            found = await self._kube.get(JOBS, key[0], str(job["metadata"]["name"]))  # type: ignore[index]
            if found is None:
                raise Retry from error
            if not belongs_to(found, owner_uid(job)):
                return found
            made = found
        self._cache.put("jobs", key, made)
        return None


def refusal_of(attempt: int, error: ApiError) -> Refusal | None:
    """Return what an error of the API server means for an attempt; None where it says nothing about the objects."""
    if error.status == 403 and "quota" in error.message.lower():
        text = f"{error.message}: free quota in this namespace, or ask for less in spec.workers"
        return Refusal(attempt, Reason.QUOTA_EXCEEDED, text, permanent=False)
    if "being terminated" in error.message or "is forbidden: User " in error.message:
        return None  # the namespace goes; the operator itself lacks a right
    if error.status in (400, 403, 422):
        text = f"the API server refuses the workers' Job: {error.message}: correct spec.workers.podTemplate"
        return Refusal(attempt, Reason.INVALID_POD_TEMPLATE, text, permanent=True)
    return None


def name_conflict(attempt: int, foreign: Object, owner: str) -> Refusal:
    """Return what it means that an object of a child's name is there and not ours.

    What an earlier PeftJob of the same name left goes by itself.
    """
    kind, name = foreign.get("kind", "an object"), foreign["metadata"]["name"]
    owners = foreign["metadata"].get("ownerReferences") or []
    if any((o["kind"], o["name"]) == (KIND, owner) for o in owners):
        text = f"{kind} {name} of an earlier PeftJob {owner} is being deleted; attempt {attempt} starts after that"
        return Refusal(attempt, Reason.STARTING, text, permanent=False)
    text = f"{kind} {name} exists and belongs to somebody else: delete it, or give the PeftJob another name"
    return Refusal(attempt, Reason.NAME_CONFLICT, text, permanent=False)
