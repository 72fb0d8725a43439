"""A real Kubernetes control plane on loopback, without nodes or with kwok's fake ones; no root, up in seconds.

For integration tests and benchmarks::

    with ControlPlane(controller_manager=True, fake_nodes=2) as cluster:
        cluster.kubectl("apply", "-f", "crds/peftjobs.yaml")
        kubeconfig = cluster.kubeconfig("system:serviceaccount:peftjob:operator", groups=["system:serviceaccounts"])
        ...
        requests = [event for event in cluster.audit_events() if event["user"]["username"].endswith(":operator")]

It ends only what it started, and that also when the test run itself is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from peftjob_cluster import components, fake_nodes
from peftjob_cluster.children import Children, binaries, free_ports
from peftjob_cluster.kube import Api
from peftjob_cluster.pki import Authority
from peftjob_cluster.shell import ClusterError, run

ETCD = "etcd"
API_SERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
SCHEDULER = "kube-scheduler"
KWOK = "kwok"


class ControlPlane:
    """etcd and an API server with an audit log, and as asked the controller manager, the scheduler and fake nodes."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        controller_manager: bool = False,
        scheduler: bool = False,
        fake_nodes: int = 0,
        pod_run_seconds: float | None = 2.0,
        client_qps: int | None = None,
        node_grace_seconds: int = 24,
        apiserver_flags: Sequence[str] = (),
    ) -> None:
        """Prepare only; ``start`` or ``with`` starts.

        ``fake_nodes`` brings the scheduler and the controller manager along. Pods on fake nodes run for
        ``pod_run_seconds`` (``None``: until deleted); the annotations in ``fake_nodes`` direct single pods.
        ``client_qps`` lifts the request limit that controller manager and scheduler put on themselves;
        ``node_grace_seconds`` is how long a node may say nothing before it is called unreachable.
        """
        self._with_nodes = fake_nodes
        self._with_manager = controller_manager or fake_nodes > 0
        self._with_scheduler = scheduler or fake_nodes > 0
        self._run_seconds = pod_run_seconds
        self._qps = [f"--kube-api-qps={client_qps}", f"--kube-api-burst={2 * client_qps}"] if client_qps else []
        self._node_grace_seconds = node_grace_seconds
        self._apiserver_flags = list(apiserver_flags)
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="peftjob-control-plane-"))
        self.audit_log = self.folder / "audit.log"
        self._children = Children(self.folder / "log")
        self._authority = Authority(self.folder / "pki")
        self._commands: dict[str, list[str]] = {}
        self.admin_kubeconfig = self.folder / "pki" / "admin.kubeconfig"
        self.api: Api

    def start(self) -> ControlPlane:
        """Start everything and wait until it works."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End everything; a folder of its own making is removed."""
        self._children.stop_all()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> ControlPlane:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def kubeconfig(self, user: str, groups: Sequence[str] = (), namespace: str = "default") -> Path:
        """Return a kubeconfig for any user with any groups; what the user may do is for RBAC to say."""
        file = "user-" + "".join(c if c.isalnum() else "-" for c in user)
        path = self._authority.folder / f"{file}.kubeconfig"
        identity = self._authority.issue(file, user, groups)
        return self._authority.kubeconfig(path, self.endpoints.api_url, identity, namespace)

    def kubectl(self, *args: str | Path, stdin: str | None = None) -> str:
        """Run kubectl as the administrator and return its output."""
        ours = binaries() / "kubectl"
        program = str(ours) if ours.exists() else "kubectl"
        return run(
            [program, "--kubeconfig", self.admin_kubeconfig, *args],
            stdin=stdin,
            env={**os.environ, "HOME": str(self.folder)},
        )

    def audit_events(self) -> Iterator[dict[str, Any]]:
        """Read the audit log so far: one event for each request, of whatever user."""
        if not self.audit_log.exists():
            return
        with self.audit_log.open() as lines:
            for line in lines:
                if line.endswith("\n"):
                    yield json.loads(line)

    def pid(self, component: str) -> int:
        """Return the process id of a component, for measuring it."""
        return self._children.pid(component)

    def send(self, component: str, sig: signal.Signals) -> None:
        """Send a component a signal, such as SIGSTOP."""
        os.kill(self._children.pid(component), sig)

    def stop_component(self, component: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """End one component, to see what others make of it."""
        self._children.stop(component, sig)

    def start_component(self, component: str) -> None:
        """Start a component again as it was; the API server is waited for."""
        self._children.start(component, self._commands[component], {"HOME": str(self.folder)})
        if component == API_SERVER:
            self._children.wait(API_SERVER, self.api.ready, 60)

    def _start(self) -> None:
        wanted = [ETCD, API_SERVER]
        wanted += [CONTROLLER_MANAGER] * self._with_manager + [SCHEDULER] * self._with_scheduler
        wanted += [KWOK] * (self._with_nodes > 0)
        bin_ = binaries(*wanted)
        api, etcd, peer, kwok = free_ports(4)
        self.endpoints = components.Endpoints("127.0.0.1", api, etcd, peer)
        self._commands[ETCD] = components.etcd(bin_, self.folder / "etcd", self.endpoints)
        self.start_component(ETCD)
        self._authority.create()
        hosts = [*components.API_HOSTS, "localhost"]
        serving = self._authority.issue(
            "apiserver", "kube-apiserver", hosts=hosts, ips=["127.0.0.1", components.API_SERVICE_IP]
        )
        admin = self._authority.issue("admin", "admin", [components.ADMINISTRATORS])
        self._authority.kubeconfig(self.admin_kubeconfig, self.endpoints.api_url, admin)
        self.api = Api(self.endpoints.api_url, self._authority.certificate, admin)
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(components.AUDIT_POLICY)
        self._commands[API_SERVER] = components.apiserver(
            bin_,
            self.endpoints,
            self._authority,
            serving,
            admin,
            audit_log=self.audit_log,
            audit_policy=policy,
            nodes=False,
            extra=self._apiserver_flags,
        )
        self.start_component(API_SERVER)
        if self._with_manager:
            kubeconfig = self.kubeconfig("system:kube-controller-manager")
            self._commands[CONTROLLER_MANAGER] = components.controller_manager(
                bin_, kubeconfig, self._authority, node_grace_seconds=self._node_grace_seconds, extra=self._qps
            )
            self.start_component(CONTROLLER_MANAGER)
        if self._with_scheduler:
            kubeconfig = self.kubeconfig("system:kube-scheduler")
            self._commands[SCHEDULER] = components.scheduler(bin_, kubeconfig, self._qps)
            self.start_component(SCHEDULER)
        if self._with_nodes:
            self._start_nodes(bin_, kwok)
        if self._with_manager:
            path = "/api/v1/namespaces/default/serviceaccounts/default"
            self._children.wait("the default service account", lambda: self.api.get(path), 60)

    def _start_nodes(self, bin_: Path, port: int) -> None:
        for index in range(self._with_nodes):
            self.api.create("/api/v1/nodes", fake_nodes.node(f"fake-{index}"))
        stages = self.folder / "stages.yaml"
        stages.write_text(fake_nodes.stages(self._run_seconds))
        self._commands[KWOK] = [
            str(bin_ / "kwok"),
            f"--kubeconfig={self.kubeconfig('kwok', [components.ADMINISTRATORS])}",
            "--manage-all-nodes=true",
            f"--config={stages}",
            f"--server-address=127.0.0.1:{port}",
            "--node-lease-duration-seconds=40",
        ]
        self.start_component(KWOK)
        self._children.wait("the fake nodes", self._nodes_ready, 60)

    def _nodes_ready(self) -> bool:
        nodes = self.api.get("/api/v1/nodes")["items"]
        if len(nodes) < self._with_nodes:
            raise ClusterError(f"{len(nodes)} nodes")
        return all(takes_pods(node) for node in nodes)


def ready(obj: dict[str, Any]) -> bool:
    """Tell whether a Node's or Pod's ``Ready`` condition holds."""
    conditions = obj.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def takes_pods(node: dict[str, Any]) -> bool:
    """Tell whether a Node is ready and has no taint."""
    return ready(node) and not node["spec"].get("taints")
