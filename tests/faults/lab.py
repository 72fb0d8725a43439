"""The lab: a whole PeftJob cluster on one machine without containers, in which hundreds of faults cost minutes.

Real are etcd, API server, controllers and scheduler, the operator as a process with the chart's rights, the S3 server,
the network between machines (a namespace each), and every worker: launcher and ranks of our trainer, forked with their
libraries imported. Ours are the kubelet and a proxy before S3. Needs root; `enter_own_network` comes first.
"""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from peftjob_cluster.children import Children
from peftjob_cluster.control_plane import ControlPlane
from peftjob_cluster.s3 import S3Server
from peftjob_testkit.objects import ObjectStore
from peftjob_testkit.operator import Operator, install_operator
from peftjob_testkit.waiting import wait_for

from .inputs import put_inputs
from .jobs import DATA, MODELS, Jobs, Object, Worker
from .judging import End
from .kubelet import Kubelet, LabWorker
from .machines import GATEWAY, Machines
from .plans import Plan
from .store import BUCKET, StoreProxy, Trap

NAMESPACE: Final = "lab"
NODE_GRACE_SECONDS: Final = 8
"""After which the cluster calls a node unreachable that says nothing; by default Kubernetes takes 50."""
START_SECONDS: Final = 180.0
"""For the operator to start, beside jobs that want all CPUs."""


class Lab:
    """Use it with `with`; all of it goes when this process ends, however that happens."""

    jobs: Jobs
    plane: ControlPlane
    operator: Operator
    kubelet: Kubelet
    proxy: StoreProxy
    machines: Machines

    def __init__(self, machines: int) -> None:
        """Prepare a lab of so many machines, each of which holds one pod at a time."""
        self._count = machines
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="peftjob-lab-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        children = Children(folder / "networks")
        self._stack.callback(children.stop_all)
        self.machines = Machines(children)
        s3 = self._stack.enter_context(S3Server(buckets=(MODELS, DATA, BUCKET)))
        self.proxy = StoreProxy(GATEWAY, s3.endpoint)
        self._stack.callback(self.proxy.close)
        store = ObjectStore(s3.endpoint, s3.access_key, s3.secret_key)
        put_inputs(store, folder)
        plane = ControlPlane(controller_manager=True, scheduler=True, node_grace_seconds=NODE_GRACE_SECONDS)
        self.plane = self._stack.enter_context(plane)
        self.jobs = Jobs(self.plane.api, store, NAMESPACE, self.proxy.endpoint)
        self.kubelet = Kubelet(self.plane.api, self.machines, folder)
        self._stack.callback(self.kubelet.stop)
        self.plane.api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        secret = {"metadata": {"name": "s3-credentials"}, "stringData": keys}
        self.plane.api.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
        self.operator = self._stack.enter_context(install_operator(self.plane, START_SECONDS))
        for number in range(self._count):
            self.kubelet.register(self.machines.add(number))
        account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default"
        wait_for("the default service account", lambda: self.jobs.find(account), 30, 0.1)
        self.kubelet.start()

    def running(self, name: str) -> Sequence[LabWorker]:
        """Return the workers of a job that have not ended."""
        return self.kubelet.of_job(name)

    def workers(self, name: str) -> list[Worker]:
        """Return all workers that a job ever had."""
        return [worker for worker in list(self.kubelet.workers.values()) if worker.job == name]

    def set_trap(self, name: str, trap: Trap | None) -> None:
        """Let a strike wait for a write of a job; None: none does any more."""
        self.proxy.set_trap(name, trap)

    def found(self, plan: Plan, job: Object | None) -> End:
        """Return what there is of a job that is over, then delete it."""
        twice = [text for name, text in self.kubelet.twice if name == plan.name]
        accepted = self.proxy.accepted[plan.name]
        return self.jobs.found(plan, job, lambda: list(self.running(plan.name)), accepted, twice)

    def said(self) -> str:
        """Return the end of the operator's log."""
        return self.operator.log(300)
