"""PeftJobs of plans, as any cluster's API server and S3 show them; the same for the lab and the two-node cluster."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from peftjob_cluster.kube import Api, ApiError
from peftjob_testkit.objects import ObjectStore

from .judging import Acceptance, End
from .plans import SAVED_EVERY, STEPS, Plan
from .store import BUCKET

Object = dict[str, Any]

MODELS: Final = "models"
DATA: Final = "datasets"
_LABEL: Final = "labelSelector=peftjob.io%2Fjob-name%3D"
_PATIENCE_SECONDS: Final = 90.0
_GONE_SECONDS: Final = 60.0


class Worker(Protocol):
    """A worker pod that ran, as a plan's driver and a striking hand see it."""

    uid: str
    name: str
    index: int
    code: int | None
    """Of its launcher, once it has ended."""
    began: float
    """When it began to run, on the monotonic clock."""

    @property
    def where(self) -> str:
        """The name of its node."""
        ...

    def processes(self) -> list[int]:
        """Return its processes, the launcher first."""
        ...

    def log(self) -> str:
        """Return what it wrote."""
        ...


@dataclass(frozen=True)
class Jobs:
    """The PeftJobs of a namespace."""

    api: Api
    store: ObjectStore
    namespace: str
    endpoint: str
    """The address of S3 as workers see it."""
    stretch: int = 1
    """How many times longer jobs are."""
    template: Mapping[str, Any] | None = None
    """Of worker pods."""

    @property
    def _path(self) -> str:
        return f"/apis/peftjob.io/v1alpha1/namespaces/{self.namespace}/peftjobs"

    @property
    def pods_path(self) -> str:
        """Where the API server has pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def output(self, name: str) -> str:
        """Return the key of a job's output, which no earlier run of the suite has used."""
        return f"{self.namespace}/{name}"

    def submit(self, plan: Plan) -> None:
        """Create a plan's PeftJob."""
        self.insist(lambda: self.api.create(self._path, self._manifest(plan)))

    def job(self, name: str) -> Object | None:
        """Return a PeftJob; None: there is none."""
        return self.find(f"{self._path}/{name}")

    def patch(self, name: str, spec: Mapping[str, Any]) -> None:
        """Change a PeftJob's spec."""
        self.insist(lambda: self.api.merge(f"{self._path}/{name}", {"spec": dict(spec)}))

    def pods(self, name: str) -> list[Object]:
        """Return a PeftJob's pods."""
        return self._labelled(self.pods_path, name)

    def delete_pod(self, name: str) -> None:
        """Delete a pod, as kubectl does."""
        self.insist(lambda: self.api.request("DELETE", f"{self.pods_path}/{name}"))

    def evict(self, name: str) -> None:
        """Evict a pod, as a drain does."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        self.insist(lambda: self.api.create(f"{self.pods_path}/{name}/eviction", eviction))

    def children(self, name: str) -> list[str]:
        """Return `Kind/name` of a PeftJob's Jobs, Services and ConfigMaps."""
        collections = {
            "Job": f"/apis/batch/v1/namespaces/{self.namespace}/jobs",
            "Service": f"/api/v1/namespaces/{self.namespace}/services",
            "ConfigMap": f"/api/v1/namespaces/{self.namespace}/configmaps",
        }
        return [
            f"{kind}/{item['metadata']['name']}"
            for kind, path in collections.items()
            for item in self._labelled(path, name)
        ]

    def found(
        self,
        plan: Plan,
        job: Object | None,
        running: Callable[[], list[Worker]],
        accepted: Sequence[Acceptance] = (),
        twice: Sequence[str] = (),
    ) -> End:
        """Return what there is of a job that is over; its PeftJob is deleted after the look.

        Args:
            plan: The job's.
            job: As it ended.
            running: Returns its workers that have not ended.
            accepted: What the store accepted of its claim.
            twice: Its ranks that ran twice at one time.
        """
        name, prefix = plan.name, f"{self.output(plan.name)}/"
        files = {key.removeprefix(prefix): self.store.get(BUCKET, key) for key in self.store.keys(BUCKET, prefix)}
        uploads = self.store.client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", [])
        pods = self.pods(name)
        return End(
            job=job,
            files=files,
            children=self.children(name),
            unended=[p["metadata"]["name"] for p in pods if p["status"].get("phase") not in ("Succeeded", "Failed")],
            processes=[pid for worker in running() for pid in worker.processes()],
            uploads=[upload["Key"] for upload in uploads],
            accepted=tuple(accepted),
            twice=tuple(twice),
            events=self._events(name),
            left_after_deletion=self._delete(name, running),
        )

    def _events(self, name: str) -> list[tuple[str, str, str]]:
        """Return type, reason and message of the Events about a PeftJob, in their order."""
        query = f"fieldSelector=involvedObject.name%3D{name},involvedObject.kind%3DPeftJob"
        path = f"/api/v1/namespaces/{self.namespace}/events?{query}"
        items = self.insist(lambda: self.api.get(path))["items"]
        items.sort(key=lambda event: event["metadata"]["resourceVersion"].zfill(20))
        return [(event["type"], event["reason"], event["message"]) for event in items]

    def _delete(self, name: str, running: Callable[[], list[Worker]]) -> list[str]:
        """Delete a PeftJob, and its output; return what of it is still there after a while."""

        def left() -> list[str]:
            pods = [f"Pod/{pod['metadata']['name']}" for pod in self.pods(name)]
            return [*self.children(name), *pods, *(f"a worker of {worker.name}" for worker in running())]

        body = {"propagationPolicy": "Background"}
        self.insist(lambda: self.api.request("DELETE", f"{self._path}/{name}", body))
        deadline = time.monotonic() + _GONE_SECONDS
        while (found := left()) and time.monotonic() < deadline:
            time.sleep(0.5)
        for key in self.store.keys(BUCKET, f"{self.output(name)}/"):
            self.store.client.delete_object(Bucket=BUCKET, Key=key)
        return found

    def _manifest(self, plan: Plan) -> Object:
        """Return the PeftJob of a plan; every one trains the same."""
        template = {"podTemplate": dict(self.template)} if self.template else {}
        spec = {
            "baseModel": {"uri": f"s3://{MODELS}/faults"},
            "task": {"type": "CausalLM"},
            "method": {"type": "LoRA", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
            "dataset": {
                "train": f"s3://{DATA}/faults/train.jsonl",
                "validation": f"s3://{DATA}/faults/validation.jsonl",
                "maxLength": 64,
            },
            "training": {
                "maxSteps": plan.steps or STEPS * self.stretch,
                "batchSize": 8,
                "learningRate": 1e-2,
                "precision": "FP32",
                "logEverySteps": 1,
            },
            "workers": {"nodes": plan.shape.nodes, "processesPerNode": plan.shape.per_node, **template},
            "sharding": "Full",
            "checkpoint": {"everySteps": SAVED_EVERY * self.stretch},
            "output": {"uri": f"s3://{BUCKET}/{self.output(plan.name)}"},
            "storage": {"s3": {"endpoint": self.endpoint, "secretName": "s3-credentials"}},
            "maxRestarts": plan.max_restarts,
        }
        return {"apiVersion": "peftjob.io/v1alpha1", "kind": "PeftJob", "metadata": {"name": plan.name}, "spec": spec}

    def _labelled(self, path: str, name: str) -> list[Object]:
        items: list[Object] = self.insist(lambda: self.api.get(f"{path}?{_LABEL}{name}"))["items"]
        return items

    def find(self, path: str) -> Object | None:
        """Return an object; None: there is none."""
        try:
            found: Object = self.insist(lambda: self.api.get(path))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    @staticmethod
    def insist(ask: Callable[[], Any]) -> Any:
        """Ask the API server until it answers, for as long as a strike may keep it away."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return ask()
            except ApiError:
                raise
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)


def status_text(job: Object | None) -> str:
    """Return a job's status for people."""
    return json.dumps((job or {}).get("status"), indent=1)
