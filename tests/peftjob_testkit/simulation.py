"""A cluster in memory that a test can stop between any two API calls: API server, Job controller, kubelets, watches.

Used by tests/unit/controller to run the real reconcile against everything that may happen in between. The cluster is
strict where Kubernetes is (resourceVersions, uid preconditions, foreground deletion) and coarse elsewhere.
"""

import asyncio
import copy
import itertools
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from peftjob_operator.cache import Cache
from peftjob_operator.kube import ApiError
from peftjob_operator.observe import Observer
from peftjob_operator.reconcile import Reconciler
from peftjob_operator.settings import Settings
from peftjob_operator.snapshot import format_time
from peftjob_operator.workers import Workers
from peftjob_operator.workqueue import Retry

from .api_in_memory import Crash, FakeKube
from .builders import NAME, NOW, Object, peftjob, worker

KEY = ("default", NAME)
GRACE_SECONDS = 10
_WATCHED = ("peftjobs", "jobs", "pods")
Change = tuple[str, str, Object | None]
"""Kind, uid, and the object, or None when it is gone."""


class World:
    """The cluster's state, and what the watches have not told yet."""

    def __init__(self, nodes: int = 2, **spec: Any) -> None:
        self.now: datetime = NOW
        self.nodes = nodes
        self.ticks = 0.0
        """Seconds that passed, whatever clocks say."""
        self.objects: dict[str, dict[str, Object]] = {kind: {} for kind in (*_WATCHED, "services", "configmaps")}
        self.watches: list[list[Change]] = []
        """Changes on their way to each operator."""
        self.events: list[tuple[str, str, str]] = []
        """Type, reason and message of the Events that were recorded."""
        self.dead_nodes: set[str] = set()
        self.published = False
        self.has_queue = False
        """Whether a queue holds every Job back from its creation on."""
        self.version = 1000
        """Of the last change."""
        self._done: set[str] = set()
        self._uids = itertools.count(1)
        self.write("peftjobs", peftjob(workers={"nodes": nodes, "processesPerNode": 1}, **spec))

    @property
    def job(self) -> Object:
        """The PeftJob."""
        return next(iter(self.objects["peftjobs"].values()))

    def status(self) -> Object:
        """Return the PeftJob's status; nothing if it is gone."""
        return cast(Object, self.job.get("status", {}) if self.objects["peftjobs"] else {})

    def holds(self, type_: str) -> bool:
        """Tell whether a condition of the PeftJob holds."""
        return any(c["type"] == type_ and c["status"] == "True" for c in self.status().get("conditions", []))

    def write(self, kind: str, obj: Object) -> Object:
        """Store an object under a new version, and tell the watches."""
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        uid = obj["metadata"]["uid"]
        self.objects[kind][uid] = obj
        self._tell(kind, uid, obj)
        return copy.deepcopy(obj)

    def remove(self, kind: str, uid: str) -> None:
        """Remove an object, and tell the watches."""
        self.version += 1
        del self.objects[kind][uid]
        self._tell(kind, uid, None)

    def _tell(self, kind: str, uid: str, obj: Object | None) -> None:
        if kind in _WATCHED:
            for watch in self.watches:
                watch.append((kind, uid, copy.deepcopy(obj)))

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.ticks += seconds
        self.now += timedelta(seconds=seconds)

    def uid(self) -> str:
        """Return a uid that was never used."""
        return f"uid-{next(self._uids)}"

    def once(self, what: str) -> bool:
        """Tell whether this was never asked before."""
        is_new = what not in self._done
        self._done.add(what)
        return is_new

    def did(self, what: str) -> bool:
        """Tell whether `once` was asked of this."""
        return what in self._done

    def save(self) -> Callable[[], None]:
        """Return what sets the API server's store back to now, versions and all, without telling any watch."""
        objects, version = copy.deepcopy(self.objects), self.version

        def restore() -> None:
            self.objects, self.version = copy.deepcopy(objects), version

        return restore

    def living(self) -> list[Object]:
        """Return the pods that have not ended."""
        return [pod for pod in self.objects["pods"].values() if not _ended(pod)]

    def spec(self, **fields: Any) -> None:
        """Change the PeftJob's spec, as a user."""
        job = copy.deepcopy(self.job)
        job["spec"].update(fields)
        job["metadata"]["generation"] += 1
        self.write("peftjobs", job)

    def delete_peftjob(self) -> None:
        """Delete the PeftJob, as a user."""
        self.remove("peftjobs", self.job["metadata"]["uid"])

    # --- controllers ----------------------------------------------------------------------------------------------
    def run_job_controller(self) -> None:
        """Make, end and count pods, as the Job controller and the garbage collector do."""
        for kind in ("jobs", "services", "configmaps"):
            for uid, obj in list(self.objects[kind].items()):
                if _owner(obj) and _owner(obj) not in self.objects["peftjobs"]:
                    if kind != "jobs":
                        self.remove(kind, uid)
                    elif "deletionTimestamp" not in obj["metadata"]:
                        gone = copy.deepcopy(obj)
                        gone["metadata"]["deletionTimestamp"] = format_time(self.now)
                        self.write(kind, gone)
        for job in list(self.objects["jobs"].values()):
            pods = [p for p in self.objects["pods"].values() if _owner(p) == job["metadata"]["uid"]]
            conditions = {c["type"] for c in job["status"].get("conditions", [])}
            if "deletionTimestamp" in job["metadata"]:
                for pod in pods:
                    self.delete_pod(pod) if not _ended(pod) else self.remove("pods", pod["metadata"]["uid"])
                if not any(_owner(p) == job["metadata"]["uid"] for p in self.objects["pods"].values()):
                    self.remove("jobs", job["metadata"]["uid"])
            elif conditions & {"Complete", "Failed"}:
                continue
            elif job["spec"].get("suspend"):
                for pod in pods:
                    self.delete_pod(pod)
            elif any(p["status"]["phase"] == "Failed" for p in pods):
                for pod in pods:
                    if not _ended(pod):
                        self.delete_pod(pod)
                if all(_ended(p) for p in pods):
                    self._conclude(job, "Failed", "Job has reached the specified backoff limit")
            elif len(pods) == self.nodes and all(p["status"]["phase"] == "Succeeded" for p in pods):
                self._conclude(job, "Complete", "")
            elif not any("deletionTimestamp" in p["metadata"] for p in pods):
                have = {p["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for p in pods}
                attempt = int(job["metadata"]["labels"]["peftjob.io/attempt"])
                for index in range(self.nodes):
                    if str(index) not in have:
                        uid = self.uid()
                        node = next(n for n in (f"node-{index}", f"node-{index + 2}") if n not in self.dead_nodes)
                        pod = worker(
                            index, attempt, uid=uid, job_uid=job["metadata"]["uid"], phase="Pending", node=node
                        )
                        pod["metadata"]["name"] += uid
                        self.write("pods", pod)

    def _conclude(self, job: Object, type_: str, message: str) -> None:
        job = copy.deepcopy(job)
        job["status"]["conditions"] = [{"type": type_, "status": "True", "message": message}]
        self.write("jobs", job)

    def run_node_controller(self) -> None:
        """Delete the pods of nodes that do not answer."""
        for pod in self.living():
            if pod["spec"]["nodeName"] in self.dead_nodes:
                self.delete_pod(pod)

    def delete_pod(self, pod: Object, *, force: bool = False) -> None:
        """Begin to delete a pod; `force` takes it away at once, whatever still runs on its node."""
        if force:
            self.remove("pods", pod["metadata"]["uid"])
        elif "deletionTimestamp" not in pod["metadata"]:
            pod = copy.deepcopy(pod)
            pod["metadata"]["deletionTimestamp"] = format_time(self.now + timedelta(seconds=GRACE_SECONDS))
            pod["metadata"]["deletionGracePeriodSeconds"] = GRACE_SECONDS
            self.write("pods", pod)

    def run_kubelet(self, pod: Object, exit_code: int, message: str) -> None:
        """Take a pod one step on: it starts; it ends with a code; a deleted one ends with 75 and goes."""
        if pod["spec"].get("nodeName") in self.dead_nodes:
            return None
        uid = pod["metadata"]["uid"]
        if _ended(pod):
            if "deletionTimestamp" in pod["metadata"]:
                self.remove("pods", uid)
            return None
        state = pod["status"].get("containerStatuses", [{}])[0].get("state", {})
        pod = copy.deepcopy(pod)
        if "deletionTimestamp" in pod["metadata"]:
            exit_code, message = 75, ""
        elif "running" not in state:
            return self._set_state(pod, "Running", {"running": {}})
        if exit_code == 0 and pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "0":
            self.published = True
        phase = "Failed" if exit_code else "Succeeded"
        return self._set_state(pod, phase, {"terminated": {"exitCode": exit_code, "message": message}})

    def _set_state(self, pod: Object, phase: str, state: Object) -> None:
        pod["status"].update(phase=phase, containerStatuses=[{"name": "trainer", "state": state}])
        self.write("pods", pod)


def _ended(pod: Mapping[str, Any]) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def _owner(obj: Mapping[str, Any]) -> str:
    return next((o["uid"] for o in obj["metadata"].get("ownerReferences", []) if o.get("controller")), "")


class Process:
    """One life of the operator: its memory, and what its watches have told it."""

    def __init__(
        self, world: World, on_create: Callable[[Object], None] = lambda job: None, workers: object | None = None
    ) -> None:
        self.woken = 0
        """How often rank 0 had something to tell."""
        self.kube = FakeKube(world, on_create)
        self._world = world
        self._told: list[Change] = []
        self._seen: dict[str, dict[str, Object]] = {kind: {} for kind in _WATCHED}
        world.watches.append(self._told)
        self.cache = Cache(clock=lambda: world.ticks)
        asked = cast(Workers, workers or _Silent())
        self.observer = Observer(
            self.cache, self.kube, asked, self._wake, clock=lambda: world.now, ticks=lambda: world.ticks
        )
        self._reconciler = Reconciler(Settings("image"), self.cache, self.kube, self.observer)
        self.list_anew()

    def end(self) -> None:
        """Listen no longer: this life is over."""
        self._world.watches = [watch for watch in self._world.watches if watch is not self._told]

    def _wake(self, key: object) -> None:
        assert key == KEY
        self.woken += 1

    def _index(self) -> None:
        for kind, objects in self._seen.items():
            self.cache.attach(kind, {KEY: list(objects.values())} if objects else {})

    def list_anew(self) -> None:
        """Begin all watches anew, as after 410 Gone: what went meanwhile is not told of."""
        for kind in _WATCHED:
            self._seen[kind].update(copy.deepcopy(self._world.objects[kind]))
        for pod in self._world.objects["pods"].values():
            self.observer.remember(copy.deepcopy(pod))
        self._told.clear()
        self._index()

    def tell(self, kind: str | None = None, *, lose_deletions: bool = False) -> None:
        """Deliver what happened, of one kind or all of them; a watch may lose deletions when it begins anew."""
        rest = []
        for what, uid, obj in self._told:
            if kind not in (None, what):
                rest.append((what, uid, obj))
            elif obj is not None:
                self._see(what, uid, obj)
            elif not lose_deletions:
                self._seen[what].pop(uid, None)
        self._told[:] = rest
        self._index()

    def tell_in_disorder(self, chance: random.Random) -> None:
        """Deliver what happened in any order, some of it twice and some of it not at all."""
        told = [change for change in self._told for _ in range(chance.choice((0, 1, 1, 2)))]
        chance.shuffle(told)
        self._told[:] = told
        self.tell()

    def _see(self, kind: str, uid: str, obj: Object) -> None:
        self._seen[kind][uid] = obj
        if kind == "pods":
            self.observer.remember(obj)

    async def reconcile(self) -> str:
        """Reconcile once; return what came of it.

        Raises:
            Crash: It died of a fault.
        """
        outcome = "ok"
        try:
            await self._reconciler.reconcile(KEY)
        except Retry:
            outcome = "retry"
        except (ApiError, OSError) as error:
            outcome = str(error)
        finally:
            await asyncio.gather(*self._reconciler._telling, return_exceptions=True)  # Events
            await asyncio.sleep(0)  # what rank 0 says
        if self.kube.dead:
            raise Crash
        return outcome


class _Silent:
    """Workers that never answer."""

    async def status(self, namespace: str, pod: object) -> None:
        return None
