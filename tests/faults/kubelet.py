"""A small kubelet for all machines of the lab: runs each pod as real processes, and writes what a kubelet writes.

It looks at all pods again and again and brings processes and statuses together, so that an API server that is away, or
a machine that comes back, needs no case of its own. Containers are process groups forked by `zygote`. Of what a kubelet
does, this has: environment, ConfigMap, termination message, grace periods, heartbeats, and pods that were deleted while
it was away.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from peftjob_api.constants import (
    ENV_HANG_SECONDS,
    ENV_RUN_CONFIG,
    LABEL_JOB,
    LABEL_JOB_INDEX,
    RUN_CONFIG_KEY,
    TERMINATION_MAX_BYTES,
)
from peftjob_cluster.kube import Api, ApiError
from peftjob_cluster.shell import ClusterError

from .machines import Machine, Machines
from .processes import group

Object = dict[str, Any]

LOOK_SECONDS: Final = 0.25
BEAT_SECONDS: Final = 2.0
LEASE_SECONDS: Final = 10
DISK_BYTES: Final = 32 * 2**20
"""Of a pod's temporary files."""
STEP_SECONDS: Final = 0.2
"""That a step is stretched by."""
_CPUS, _MEMORY = "1", str(2 * 2**30)
HANG_SECONDS: Final = 20
"""Without progress before a gang ends itself; less than the default, so that plans are short."""
_EVERYWHERE: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "eth0",
    "HOME": "/nonexistent",
    "PATH": "/usr/bin:/bin",
    "PYTHONUNBUFFERED": "1",
}
_ONLY_THREAD: Final = {
    **_EVERYWHERE,
    "DS_ACCELERATOR": "cpu",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""The zygote's environment: no library may start a thread, for a fork has none of them."""


@dataclass
class LabWorker:
    """A pod's processes."""

    uid: str
    name: str
    namespace: str
    job: str
    index: int
    machine: Machine
    folder: Path
    pid: int = 0
    """Of the launcher, and of its process group."""
    code: int | None = None
    """The launcher's, once it has ended."""
    kill_at: float | None = None
    """When its grace is over; None: it was not told to end."""
    began: float = field(default_factory=time.monotonic)

    @property
    def where(self) -> str:
        """The name of its machine."""
        return self.machine.name

    def processes(self) -> list[int]:
        """Return its processes, the launcher first."""
        return group(self.pid) if self.pid else []

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        with suppress(ProcessLookupError):
            if self.pid:
                os.killpg(self.pid, number)

    def log(self) -> str:
        """Return what it wrote."""
        with suppress(FileNotFoundError):
            return (self.folder / "log").read_text(errors="replace")
        return ""


class Kubelet:
    """Of all machines."""

    def __init__(self, api: Api, machines: Machines, folder: Path) -> None:
        """Start the zygote; `start` begins to work."""
        self.api, self.machines, self.folder = api, machines, folder
        self.workers: dict[str, LabWorker] = {}
        """All that ever ran, by the pod's uid."""
        self.twice: list[tuple[str, str]] = []
        """Jobs, and what was seen: a rank that began while another of its index still ran."""
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self._names: dict[str, str] = {}
        self._secrets: dict[tuple[str, str], Mapping[str, str]] = {}
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._beaten: dict[str, float] = {}
        clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        with (folder / "zygote.log").open("ab") as log:
            self._zygote = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "faults.zygote"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**clean, **_ONLY_THREAD, "MPLCONFIGDIR": str(folder)},
                start_new_session=True,
            )
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._work)]

    @property
    def zygote(self) -> int:
        """Its process, for measuring it."""
        return self._zygote.pid

    def start(self) -> None:
        """Wait until the zygote has imported everything, and begin."""
        assert self._zygote.stdout is not None
        if not self._zygote.stdout.readline():
            raise ClusterError(f"the zygote ended:\n{(self.folder / 'zygote.log').read_text()[-2000:]}")
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all processes."""
        self._over.set()
        for thread in self._threads[1:]:
            if thread.is_alive():
                thread.join(35)
        for worker in self.workers.values():
            worker.signal(signal.SIGKILL)
        self._zygote.kill()
        self._zygote.wait()

    def register(self, machine: Machine) -> None:
        """Make a machine's Node."""
        room = {"cpu": "16", "memory": "64Gi", "pods": "1"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": machine.name, "labels": {"kubernetes.io/hostname": machine.name}},
            "status": {"capacity": room, "allocatable": room},
        }
        self.api.create("/api/v1/nodes", node)
        self._beat(machine)

    def of_job(self, job: str) -> list[LabWorker]:
        """Return the workers of a job that have processes, in order of their start."""
        with self._lock:
            return [w for w in self.workers.values() if w.job == job and w.code is None]

    def _work(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            with suppress(ClusterError, OSError):  # the API server is away: look again
                for machine in self.machines.all.values():
                    if machine.answers and time.monotonic() - self._beaten.get(machine.name, 0) >= BEAT_SECONDS:
                        self._beat(machine)
                self._look(self.api.get("/api/v1/pods")["items"])

    def _listen(self) -> None:
        """Hear from the zygote which launchers have ended."""
        assert self._zygote.stdout is not None
        for line in self._zygote.stdout:
            word = json.loads(line)
            with self._lock:
                if "started" in word:
                    self.workers[word["started"]].pid = word["pid"]
                    continue
                running = (w for w in self.workers.values() if w.code is None)  # others may have had the same pid
                worker = next((w for w in running if w.pid == word["ended"]), None)
                if worker is not None:
                    worker.signal(signal.SIGKILL)  # as the kernel does to a container without its first process
                    worker.code = word["code"]

    def _beat(self, machine: Machine) -> None:
        """Renew a machine's lease, and say that it is ready."""
        now = datetime.now(UTC)
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": machine.name, "namespace": "kube-node-lease"},
            "spec": {
                "holderIdentity": machine.name,
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
        self.api.apply(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{machine.name}", lease)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the lab's kubelet runs"}
        times = {"lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
        patch = {"status": {"conditions": [{**condition, **times}]}}
        self.api.request(
            "PATCH", f"/api/v1/nodes/{machine.name}/status", patch, "application/strategic-merge-patch+json"
        )
        self._beaten[machine.name] = time.monotonic()

    def _look(self, pods: list[Object]) -> None:
        present = set()
        for pod in pods:
            machine = self.machines.all.get(pod["spec"].get("nodeName", ""))
            uid = pod["metadata"]["uid"]
            present.add(uid)
            if machine is None or not machine.answers:
                continue
            worker = self.workers.get(uid)
            try:
                if worker is None:
                    self._meet(pod, machine)
                else:
                    self._tend(pod, worker)
            except ApiError as error:
                if error.status not in (404, 409):  # it changed, or went, meanwhile
                    raise
        for worker in list(self.workers.values()):
            if worker.uid not in present and worker.machine.answers and worker.code is None and worker.pid:
                worker.signal(signal.SIGKILL)  # deleted by force: nobody waits for it

    def _meet(self, pod: Object, machine: Machine) -> None:
        """Begin with a pod that has no processes here."""
        phase, is_deleted = pod["status"].get("phase"), "deletionTimestamp" in pod["metadata"]
        if phase in ("Succeeded", "Failed") or (is_deleted and phase == "Pending"):
            if is_deleted:
                self._delete(pod)
        elif phase == "Pending":
            self._begin(pod, machine)

    def _begin(self, pod: Object, machine: Machine) -> None:
        metadata = pod["metadata"]
        labels = metadata["labels"]
        folder = self.folder / metadata["uid"]
        folder.mkdir(exist_ok=True)
        worker = LabWorker(
            metadata["uid"], metadata["name"], metadata["namespace"], labels[LABEL_JOB], int(labels[LABEL_JOB_INDEX]),
            machine, folder,
        )  # fmt: skip
        environment = self._environment(pod, folder)
        host = f"{pod['spec']['hostname']}.{pod['spec']['subdomain']}"
        with self._lock:
            for other in self.of_job(worker.job):
                if (other.index, other.namespace) == (worker.index, worker.namespace) and other.machine.is_reachable:
                    self.twice.append((worker.job, f"{other.name} on {other.machine.name}, {worker.name} began"))
            self._names[host] = machine.address
            self.hosts.write_text(
                "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in self._names.items())
            )
            self.workers[worker.uid] = worker
            order = {
                "uid": worker.uid,
                "network": machine.holder,
                "folder": str(folder),
                "hosts": str(self.hosts),
                "environment": environment,
                "disk": DISK_BYTES,
                "step_seconds": STEP_SECONDS,
            }
            assert self._zygote.stdin is not None
            self._zygote.stdin.write(json.dumps(order).encode() + b"\n")
            self._zygote.stdin.flush()
        state = {"running": {"startedAt": _now()}}
        self._write(pod, "Running", state, podIP=machine.address, podIPs=[{"ip": machine.address}], startTime=_now())

    def _tend(self, pod: Object, worker: LabWorker) -> None:
        metadata, phase = pod["metadata"], pod["status"].get("phase")
        is_deleted = "deletionTimestamp" in metadata
        if worker.code is not None:
            if phase not in ("Succeeded", "Failed"):
                self._write_end(pod, worker)
            elif is_deleted:
                self._delete(pod)
            return
        if is_deleted and worker.kill_at is None and worker.pid:
            worker.kill_at = time.monotonic() + metadata.get("deletionGracePeriodSeconds", 30)
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM)
        if worker.kill_at is not None and time.monotonic() > worker.kill_at:
            worker.signal(signal.SIGKILL)
        if phase == "Pending":  # its start was not written, for the API server was away
            address = worker.machine.address
            state = {"running": {"startedAt": _now()}}
            self._write(pod, "Running", state, podIP=address, podIPs=[{"ip": address}], startTime=_now())

    def _write_end(self, pod: Object, worker: LabWorker) -> None:
        assert worker.code is not None
        code = worker.code if worker.code >= 0 else 128 - worker.code
        message = ""
        with suppress(FileNotFoundError):
            message = (worker.folder / "termination-log").read_text()[:TERMINATION_MAX_BYTES]
        reason = "Error" if code else "Completed"
        ended = {"exitCode": code, "reason": reason, "message": message, "startedAt": _now(), "finishedAt": _now()}
        self._write(pod, "Failed" if code else "Succeeded", {"terminated": ended})

    def _write(self, pod: Object, phase: str, state: Object, **fields: Any) -> None:
        """Write a pod's status, beside the conditions that others wrote."""
        metadata = pod["metadata"]
        runs = phase == "Running"
        container = {"name": "trainer", "image": "x", "imageID": "", "restartCount": 0, "ready": runs, "state": state}
        ready = [{"type": t, "status": str(runs), "lastTransitionTime": _now()} for t in ("Ready", "ContainersReady")]
        others = [c for c in pod["status"].get("conditions", []) if c["type"] not in ("Ready", "ContainersReady")]
        status = {"phase": phase, "containerStatuses": [container], "conditions": [*others, *ready], **fields}
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        patch = {"metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}, "status": status}
        self.api.merge(path, patch)

    def _delete(self, pod: Object) -> None:
        """Say that nothing of a pod is left."""
        metadata = pod["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        self.api.request("DELETE", f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}", options)

    def _environment(self, pod: Object, folder: Path) -> dict[str, str]:
        """Return the environment of a pod's container, its ConfigMap written to its folder."""
        namespace = pod["metadata"]["namespace"]
        (container,) = pod["spec"]["containers"]
        values: dict[str, str] = {}
        for entry in container["env"]:
            source = entry.get("valueFrom", {})
            if "secretKeyRef" in source:
                found = self._secret(namespace, source["secretKeyRef"]["name"])
                if source["secretKeyRef"]["key"] in found:
                    values[entry["name"]] = found[source["secretKeyRef"]["key"]]
            elif "resourceFieldRef" in source:
                values[entry["name"]] = _CPUS if source["resourceFieldRef"]["resource"] == "limits.cpu" else _MEMORY
            elif "fieldRef" in source:
                values[entry["name"]] = _field(pod, source["fieldRef"]["fieldPath"])
            else:
                values[entry["name"]] = entry.get("value", "")
        name = next(v["configMap"]["name"] for v in pod["spec"]["volumes"] if "configMap" in v)
        config = self.api.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        (folder / "run.json").write_text(config["data"][RUN_CONFIG_KEY])
        return {**_EVERYWHERE, ENV_HANG_SECONDS: str(HANG_SECONDS), **values, ENV_RUN_CONFIG: str(folder / "run.json")}

    def _secret(self, namespace: str, name: str) -> Mapping[str, str]:
        if (namespace, name) not in self._secrets:
            data = self.api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")["data"]
            self._secrets[namespace, name] = {key: base64.b64decode(value).decode() for key, value in data.items()}
        return self._secrets[namespace, name]


def _field(pod: Object, path: str) -> str:
    """Return what a fieldRef names: a path of names, or a key of annotations or labels in brackets."""
    value: Any = pod
    name, _, key = path.partition("['")
    for part in name.split("."):
        value = value[part]
    return str(value[key.removesuffix("']")] if key else value)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
