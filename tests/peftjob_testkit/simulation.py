"""A cluster in memory that a test can stop between any two API calls: API server, Job controller, kubelets, watches.

Used by tests/unit/controller to run the real reconcile against everything that may happen in between. The cluster is
strict where Kubernetes is (resourceVersions, uid preconditions, foreground deletion) and coarse elsewhere.
"""

import asyncio
import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from peftjob_operator.cache import Cache
from peftjob_operator.kube import CONFIG_MAPS, EVENTS, JOBS, PEFTJOBS, PODS, SERVICES, ApiError, Kube
from peftjob_operator.observe import Observer
from peftjob_operator.reconcile import Reconciler
from peftjob_operator.settings import Settings
from peftjob_operator.snapshot import format_time
from peftjob_operator.workers import Workers
from peftjob_operator.workqueue import Retry

from .builders import NAME, NOW, Object, peftjob, worker

KEY = ("default", NAME)
GRACE_SECONDS = 10
_KINDS = {PEFTJOBS: "peftjobs", JOBS: "jobs", PODS: "pods"}


class Crash(BaseException):
    """The operator died."""


class World:
    """The cluster's state, and what the watches have not told yet."""

    def __init__(self, nodes: int = 2, **spec: Any) -> None:
        self.now: datetime = NOW
        self.nodes = nodes
        self.objects: dict[str, dict[str, Object]] = {"peftjobs": {}, "jobs": {}, "pods": {}}
        self.told: list[tuple[str, str, Object | None]] = []
        """Changes on their way to the operator: kind, uid, the object or None when it is gone."""
        self.dead_nodes: set[str] = set()
        self.published = False
        self._versions = itertools.count(1000)
        self._uids = itertools.count(1)
        self.write("peftjobs", peftjob(workers={"nodes": nodes, "processesPerNode": 1}, **spec))

    @property
    def job(self) -> Object:
        """The PeftJob."""
        return next(iter(self.objects["peftjobs"].values()))

    def status(self) -> Object:
        """Return the PeftJob's status."""
        return cast(Object, self.job.get("status", {}))

    def holds(self, type_: str) -> bool:
        """Tell whether a condition of the PeftJob holds."""
        return any(c["type"] == type_ and c["status"] == "True" for c in self.status().get("conditions", []))

    def write(self, kind: str, obj: Object) -> Object:
        """Store an object under a new version, and tell the watches."""
        obj["metadata"]["resourceVersion"] = str(next(self._versions))
        uid = obj["metadata"]["uid"]
        self.objects[kind][uid] = obj
        self.told.append((kind, uid, copy.deepcopy(obj)))
        return copy.deepcopy(obj)

    def remove(self, kind: str, uid: str) -> None:
        """Remove an object, and tell the watches."""
        del self.objects[kind][uid]
        self.told.append((kind, uid, None))

    def uid(self) -> str:
        """Return a uid that was never used."""
        return f"uid-{next(self._uids)}"

    def living(self) -> list[Object]:
        """Return the pods that have not ended."""
        return [pod for pod in self.objects["pods"].values() if not _ended(pod)]

    def spec(self, **fields: Any) -> None:
        """Change the PeftJob's spec, as a user."""
        job = copy.deepcopy(self.job)
        job["spec"].update(fields)
        job["metadata"]["generation"] += 1
        self.write("peftjobs", job)

    # --- controllers ----------------------------------------------------------------------------------------------
    def run_job_controller(self) -> None:
        """Make, end and count pods, as the Job controller and the garbage collector do."""
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


class FakeKube:
    """The API server to the operator, which dies before or after the call that a test names."""

    def __init__(self, world: World, on_create: Callable[[Object], None]) -> None:
        self.world = world
        self.calls_left: int | None = None
        """Calls until the operator dies."""
        self.dies_after = False
        self.down = False
        self._on_create = on_create

    def _call(self) -> Iterator[None]:
        if self.down:
            raise OSError("no answer")
        if self.calls_left is not None:
            self.calls_left -= 1
        if self.calls_left == 0 and not self.dies_after:
            raise Crash
        yield
        if self.calls_left == 0:
            raise Crash

    async def list(self, collection: str, namespace: str, **query: str) -> list[Object]:
        """Return the children, as they are now."""
        found: list[Object] = []
        for _ in self._call():
            if collection != EVENTS:
                found = copy.deepcopy(list(self.world.objects[_KINDS[collection]].values()))
        return found

    async def get(self, collection: str, namespace: str, name: str) -> Object | None:
        """Return an object."""
        found = None
        for _ in self._call():
            objects = self.world.objects[_KINDS[collection]].values()
            found = copy.deepcopy(next((o for o in objects if o["metadata"]["name"] == name), None))
        return found

    async def ensure(self, collection: str, obj: Object) -> Object | None:
        """Make a Service or ConfigMap; nobody here looks at them."""
        assert collection in (SERVICES, CONFIG_MAPS)
        for _ in self._call():
            pass
        return None

    async def create(self, collection: str, obj: Object) -> Object:
        """Create a Job."""
        if collection == EVENTS:
            return obj
        for _ in self._call():
            name = obj["metadata"]["name"]
            if any(o["metadata"]["name"] == name for o in self.world.objects["jobs"].values()):
                raise ApiError(409, "AlreadyExists", name)
            self._on_create(obj)
            obj = copy.deepcopy(obj)
            obj["metadata"]["uid"] = self.world.uid()
            obj["status"] = {}
            obj = self.world.write("jobs", obj)
        return obj

    async def patch_status(self, namespace: str, name: str, version: str, patch: Object) -> Object:
        """Merge a patch into the PeftJob's status."""
        changed: Object = {}
        for _ in self._call():
            job = copy.deepcopy(self.world.job)
            if job["metadata"]["resourceVersion"] != version:
                raise ApiError(409, "Conflict", "the object has been modified")
            job["status"] = merged(job.get("status", {}), patch)
            changed = self.world.write("peftjobs", job)
        return changed

    async def delete(
        self, collection: str, namespace: str, name: str, uid: str, *, propagation: str = "", force: bool = False
    ) -> bool:
        """Delete an object; a Job in the foreground."""
        found = False
        for _ in self._call():
            obj = self.world.objects[_KINDS[collection]].get(uid)
            found = obj is not None
            if obj is None:
                continue
            if collection == PODS:
                self.world.delete_pod(obj, force=force)
            elif "deletionTimestamp" not in obj["metadata"]:
                assert propagation == "Foreground"
                obj = copy.deepcopy(obj)
                obj["metadata"]["deletionTimestamp"] = format_time(self.world.now)
                self.world.write("jobs", obj)
        return found


def merged(target: Object, patch: Mapping[str, Any]) -> Object:
    """Return the result of a JSON merge patch."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            inner = result.get(key)
            result[key] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            result[key] = value
    return result


class Process:
    """One life of the operator: its memory, and what its watches have told it."""

    def __init__(
        self, world: World, on_create: Callable[[Object], None] = lambda job: None, workers: object | None = None
    ) -> None:
        self.woken = 0
        """How often rank 0 had something to tell."""
        self.kube = FakeKube(world, on_create)
        self._world = world
        self._seen = {kind: copy.deepcopy(objects) for kind, objects in world.objects.items()}
        world.told.clear()
        self.cache = Cache(clock=lambda: world.now.timestamp())
        kube = cast(Kube, self.kube)
        asked = cast(Workers, workers or _Silent())
        self.observer = Observer(self.cache, kube, asked, self._wake, lambda: world.now)
        self._reconciler = Reconciler(Settings("image"), self.cache, kube, self.observer)
        self._index()
        for pod in self._seen["pods"].values():
            self.observer.remember(pod)

    def _wake(self, key: object) -> None:
        assert key == KEY
        self.woken += 1

    def _index(self) -> None:
        for kind, objects in self._seen.items():
            self.cache.attach(kind, {KEY: list(objects.values())})

    def tell(self, kind: str | None = None, *, lose_deletions: bool = False) -> None:
        """Deliver what happened, of one kind or all of them; a watch may lose deletions when it begins anew."""
        rest = []
        for what, uid, obj in self._world.told:
            if kind not in (None, what):
                rest.append((what, uid, obj))
            elif obj is not None:
                self._seen[what][uid] = obj
                if what == "pods":
                    self.observer.remember(obj)
            elif not lose_deletions:
                self._seen[what].pop(uid, None)
        self._world.told[:] = rest
        self._index()

    async def reconcile(self) -> str:
        """Reconcile once; return what came of it."""
        try:
            await self._reconciler.reconcile(KEY)
            await asyncio.sleep(0)  # Events
        except Retry:
            return "retry"
        except (ApiError, OSError) as error:
            return str(error)
        return "ok"


class _Silent:
    """Workers that never answer."""

    async def status(self, namespace: str, pod: object) -> None:
        return None
