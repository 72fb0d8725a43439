"""A namespace of a loopback control plane: PeftJobs, and the kubelet played by hand. Used by tests/integration."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from peftjob_cluster import fake_nodes
from peftjob_cluster.control_plane import ControlPlane
from peftjob_cluster.kube import ApiError

from .kubectl import condition
from .waiting import wait_for

Object = dict[str, Any]

_PEFTJOBS = "/apis/peftjob.io/v1alpha1/namespaces/{}/peftjobs"
_JOBS = "/apis/batch/v1/namespaces/{}/jobs"


def result(name: str, **status: Any) -> str:
    """Return the termination message of a worker that published."""
    adapter = {"uri": f"s3://adapters/{name}", "sha256": "0" * 64, "sizeBytes": 1}
    message = {"reason": "Finished", "message": "", "exitCode": 0, "rank": 0, "adapter": adapter}
    return json.dumps({**message, **({"status": status} if status else {})})


def failure(reason: str, exit_code: int, message: str, **fields: Any) -> str:
    """Return the termination message of a worker that failed."""
    return json.dumps({"reason": reason, "message": message, "exitCode": exit_code, "rank": 0, **fields})


class Namespace:
    """One namespace."""

    def __init__(self, plane: ControlPlane, name: str) -> None:
        self.plane = plane
        self.api = plane.api
        self.name = name
        self.path = f"/api/v1/namespaces/{name}"
        self.peftjobs = _PEFTJOBS.format(name)
        self.jobs = _JOBS.format(name)
        self.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
        # Pods cannot be made before; the Job controller would back off.
        wait_for("the default service account", lambda: self.find(f"{self.path}/serviceaccounts/default"), 30, 0.1)

    def find(self, path: str) -> Object | None:
        """Return an object, or None where there is none."""
        try:
            found: Object = self.api.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    def submit(
        self,
        name: str,
        *,
        nodes: int = 2,
        run_time: str | None = None,
        message: str | None = None,
        template: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> str:
        """Create a PeftJob; its pods end after `run_time` with a result, or when a test says so."""
        annotations = {fake_nodes.MESSAGE: result(name) if message is None else message}
        if run_time:
            annotations[fake_nodes.RUN_TIME] = run_time
        manifest = {
            "apiVersion": "peftjob.io/v1alpha1",
            "kind": "PeftJob",
            "metadata": {"name": name, "labels": dict(labels or {})},
            "spec": {
                "baseModel": {"uri": "s3://models/m"},
                "dataset": {"train": "s3://data/d.jsonl"},
                "output": {"uri": f"s3://adapters/{name}"},
                "workers": {
                    "nodes": nodes,
                    "processesPerNode": 1,
                    "podTemplate": {"metadata": {"annotations": annotations}, **(template or {})},
                },
                **spec,
            },
        }
        self.api.create(self.peftjobs, manifest)
        return name

    def job(self, name: str) -> Object:
        """Return a PeftJob."""
        found: Object = self.api.get(f"{self.peftjobs}/{name}")
        return found

    def patch(self, name: str, **spec: Any) -> None:
        """Change a PeftJob's spec."""
        self.api.merge(f"{self.peftjobs}/{name}", {"spec": spec})

    def wait(self, name: str, what: str, holds: Callable[[Object], bool], timeout: float = 30) -> Object:
        """Wait until something holds for a PeftJob; return it."""

        def probe() -> Object | None:
            job = self.job(name)
            return job if holds(job) else None

        def explain() -> str:
            return json.dumps({"status": self.job(name).get("status"), "events": self.events(name)}, indent=1)

        return wait_for(f"{name}: {what}", probe, timeout, 0.1, explain)

    def wait_state(self, name: str, state: str, timeout: float = 30) -> Object:
        """Wait until a PeftJob's state is that one; return it."""
        return self.wait(name, state, lambda job: job.get("status", {}).get("state") == state, timeout)

    def wait_ready(self, name: str, reason: str, timeout: float = 30) -> Object:
        """Wait until the condition WorkersReady has a reason; return the condition."""
        job = self.wait(name, reason, lambda job: condition(job, "WorkersReady").get("reason") == reason, timeout)
        return condition(job, "WorkersReady")

    def pods(self, name: str, attempt: int | None = None) -> list[Object]:
        """Return the pods of a PeftJob, in order of their index."""
        selector = f"peftjob.io/job-name%3D{name}" + (f",peftjob.io/attempt%3D{attempt}" if attempt else "")
        items: list[Object] = self.api.get(f"{self.path}/pods?labelSelector={selector}")["items"]
        return sorted(items, key=lambda pod: int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]))

    def running(self, name: str, attempt: int = 1, timeout: float = 30) -> list[Object]:
        """Wait until the gang of an attempt is running and the status says so; return its pods."""
        self.wait(
            name, f"attempt {attempt} runs",
            lambda job: job.get("status", {}).items() >= {"state": "Running", "attempt": attempt}.items(),
            timeout,
        )  # fmt: skip
        return self.pods(name, attempt)

    def end(
        self, pod: Object, exit_code: int, message: str = "", *, reason: str = "Error", disruption: str = ""
    ) -> None:
        """Write the status that a kubelet writes when the trainer has ended."""
        path = f"{self.path}/pods/{pod['metadata']['name']}"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = self.api.get(path)["status"]["conditions"]
        if disruption:
            conditions.append(
                {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": disruption}
            )
        terminated = {
            "exitCode": exit_code,
            "reason": "Completed" if exit_code == 0 else reason,
            "message": message,
            "startedAt": now,
            "finishedAt": now,
        }
        container = {"name": "trainer", "image": "x", "imageID": "", "restartCount": 0, "ready": False}
        status = {
            "phase": "Failed" if exit_code else "Succeeded",
            "conditions": conditions,
            "containerStatuses": [{**container, "state": {"terminated": terminated}}],
        }
        self.api.merge(f"{path}/status", {"status": status})

    def finish(self, name: str, attempt: int = 1) -> None:
        """End a running gang with a result."""
        for pod in self.pods(name, attempt):
            index = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
            self.end(pod, 0, result(name, step=9, totalSteps=9, loss=0.5) if index == "0" else "")

    def child_jobs(self, name: str) -> list[str]:
        """Return the names of a PeftJob's Jobs."""
        items = self.api.get(f"{self.jobs}?labelSelector=peftjob.io/job-name%3D{name}")["items"]
        return sorted(job["metadata"]["name"] for job in items)

    def events(self, name: str) -> list[tuple[str, str, str]]:
        """Return type, reason and message of the Events about a PeftJob, in their order."""
        query = f"fieldSelector=involvedObject.name%3D{name},involvedObject.kind%3DPeftJob"
        items = self.api.get(f"{self.path}/events?{query}")["items"]
        items.sort(key=lambda event: event["metadata"]["resourceVersion"].zfill(20))
        return [(event["type"], event["reason"], event["message"]) for event in items]
