"""The two-node cluster as ground for plans: pods in containers, kubelets, and cables that can be pulled.

The process enters the control plane's network first, before any thread. S3 and the operator run on the first node, so
only the second one is lost.
"""

import json
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from peftjob_api.constants import CLAIM_NAME, ENV_GANG, LABEL_JOB, LABEL_JOB_INDEX, TRAINER_CONTAINER
from peftjob_cluster import lifecycle, network
from peftjob_cluster.control_plane import takes_pods
from peftjob_cluster.daemons import Daemons
from peftjob_cluster.network import CONTROL_PLANE, NODES
from peftjob_cluster.paths import Layout
from peftjob_cluster.shell import ClusterError, wait_for
from peftjob_testkit.cluster import IN_CLUSTER_S3, SYSTEM, installed_operator, s3_server

from .inputs import put_inputs
from .jobs import DATA, MODELS, Jobs, Object
from .judging import Acceptance, End
from .plans import Plan
from .processes import marked, send
from .store import BUCKET, Trap

LOST: Final = "n2"
STRETCH: Final = 2
"""Times as many steps as in the lab: here they are not slowed down."""
_TRAINER: Final = {
    "name": TRAINER_CONTAINER,
    "resources": {"requests": {"cpu": "500m"}},
    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
}
TEMPLATE: Final = {"spec": {"containers": [_TRAINER]}}
"""Without a request the kernel gives containers next to nothing on a machine that has other work, and threads that
wait for each other make that worse."""
_LOOK_SECONDS: Final = 0.4
_BACK_SECONDS: Final = 180.0


@dataclass
class PodWorker:
    """A worker pod, with what is known of it after it is gone."""

    uid: str
    name: str
    job: str
    index: int
    where: str
    folder: Path
    """Of its logs, on its node's disk."""
    began: float = field(default_factory=time.monotonic)
    code: int | None = None
    _log: str = ""

    def processes(self) -> list[int]:
        """Return its processes, the launcher first."""
        return marked(f"{ENV_GANG}={self.uid}")

    def log(self) -> str:
        """Return what it wrote, as far as that was read while it was there."""
        with suppress(OSError):
            lines = [line for file in sorted(self.folder.glob("*.log")) for line in file.read_text().splitlines()]
            # Time, stream and a mark of whole lines come first.
            self._log = "".join(f"{line.split(' ', 3)[-1]}\n" for line in lines) or self._log
        return self._log


class TwoNodes:
    """Use it with `with`."""

    def __init__(self) -> None:
        """Enter the cluster's network; it must be up."""
        self.layout = Layout.default()
        _, environment = lifecycle.inside(self.layout, [])
        os.environ.update(environment)
        network.join(self.layout, CONTROL_PLANE)
        self._api = lifecycle.administrator(self.layout)
        self._namespace = f"faults-{uuid.uuid4().hex[:6]}"
        self._all: dict[str, PodWorker] = {}
        self._twice: list[tuple[str, str]] = []
        self._accepted: dict[str, list[Acceptance]] = {}
        self._cut_off: list[tuple[network.Node, str]] = []
        self._over = threading.Event()
        # A look at a claim may wait for a store that is away, which no look at pods must.
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._watch_pods, self._watch_claims)]

    def __enter__(self) -> "TwoNodes":
        installed_operator()
        store, keys = s3_server()
        self.jobs = Jobs(self._api, store, self._namespace, IN_CLUSTER_S3, STRETCH, TEMPLATE)
        for bucket in (MODELS, DATA, BUCKET):
            store.ensure_bucket(bucket)
        with tempfile.TemporaryDirectory() as folder:
            put_inputs(store, Path(folder))
        self._api.create("/api/v1/namespaces", {"metadata": {"name": self._namespace}})
        secret = {"metadata": {"name": "s3-credentials"}, "stringData": keys}
        self._api.create(f"/api/v1/namespaces/{self._namespace}/secrets", secret)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.pause_api(paused=False)
        self.cut_off_s3(away=False)
        for thread in self._threads:
            thread.join(60)
        lifecycle.restore_node(self.layout, LOST)
        self._api.delete(f"/api/v1/namespaces/{self._namespace}")
        for key in self.jobs.store.keys(BUCKET, f"{self._namespace}/"):
            self.jobs.store.client.delete_object(Bucket=BUCKET, Key=key)

    def running(self, name: str) -> Sequence[PodWorker]:
        """Return the workers of a job that have not ended."""
        return [worker for worker in self.workers(name) if worker.code is None and worker.processes()]

    def workers(self, name: str) -> list[PodWorker]:
        """Return all workers that a job ever had."""
        return [worker for worker in list(self._all.values()) if worker.job == name]

    def set_trap(self, name: str, trap: Trap | None) -> None:
        """Do nothing: there is no proxy before S3 here, and plans for here wait for no writes."""

    def found(self, plan: Plan, job: Object | None) -> End:
        """Return what there is of a job that is over, then delete it."""
        twice = [text for name, text in self._twice if name == plan.name]
        accepted = self._accepted.get(plan.name, [])
        return self.jobs.found(plan, job, lambda: list(self.running(plan.name)), accepted, twice)

    def operator_processes(self) -> list[int]:
        """Return the operator's processes on this machine."""
        pods = self._api.get(
            f"/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io%2Fname%3Dpeftjob-operator"
        )
        return [pid for pod in pods["items"] for pid in marked(f"HOSTNAME={pod['metadata']['name']}")]

    def cut_off_s3(self, *, away: bool) -> None:
        """Have the S3 server's node swallow what is sent to it, from wherever, or let it through again."""
        if away:
            pods = self._api.get("/api/v1/namespaces/s3/pods")["items"]
            nodes = {node.name: node for node in NODES}
            self._cut_off = [(nodes[pod["spec"]["nodeName"]], pod["status"]["podIP"]) for pod in pods]
        for node, address in self._cut_off:
            network.set_blackhole(self.layout, node, address, on=away)

    def pause_api(self, *, paused: bool) -> None:
        """Stop the API server's process, or let it go on."""
        pid = Daemons(self.layout).pid(lifecycle.API_SERVER)
        if pid is not None:
            send(pid, signal.SIGSTOP if paused else signal.SIGCONT)

    def restore(self, node: str) -> None:
        """Bring a lost node back, and wait until it takes pods; else the next job's would all go to the other one.

        Raises:
            ClusterError: It does not for so long.
        """
        lifecycle.restore_node(self.layout, node)
        found = f"/api/v1/nodes/{node}"
        wait_for(f"node {node} takes pods", lambda: takes_pods(self._api.get(found)), limit=_BACK_SECONDS)

    def is_lost(self, node: str) -> bool:
        """Tell whether a node's cable is pulled."""
        return not network.link_is_up(self.layout, next(n for n in NODES if n.name == node))

    def _watch_pods(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            with suppress(ClusterError, OSError):
                for pod in self._api.get(self.jobs.pods_path)["items"]:
                    self._see(pod)
            for worker in list(self._all.values()):
                worker.log()

    def _watch_claims(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            for job in {worker.job for worker in list(self._all.values())}:
                self._see_claim(job)

    def _see(self, pod: Object) -> None:
        metadata, uid = pod["metadata"], pod["metadata"]["uid"]
        states: list[Object] = [c.get("state", {}) for c in pod["status"].get("containerStatuses", [])]
        worker = self._all.get(uid)
        if worker is None and any("running" in state for state in states):
            node = pod["spec"]["nodeName"]
            logs = self.layout.run / node / "pods" / f"{self._namespace}_{metadata['name']}_{uid}" / "trainer"
            labels = metadata["labels"]
            worker = PodWorker(uid, metadata["name"], labels[LABEL_JOB], int(labels[LABEL_JOB_INDEX]), node, logs)
            for other in self.running(worker.job):
                if other.index == worker.index and not self.is_lost(other.where):
                    self._twice.append((worker.job, f"{other.name} on {other.where}, {worker.name} began"))
            self._all[uid] = worker
        ended: Any = next((state["terminated"] for state in states if "terminated" in state), None)
        if worker is not None and ended is not None:
            worker.code = int(ended["exitCode"])

    def _see_claim(self, job: str) -> None:
        with suppress(ClientError, BotoCoreError, ValueError):
            record = json.loads(self.jobs.store.get(BUCKET, f"{self.jobs.output(job)}/{CLAIM_NAME}"))
            seen = Acceptance(record["number"], record["attempt"], record["gang"])
            row = self._accepted.setdefault(job, [])
            if not row or row[-1] != seen:
                row.append(seen)
