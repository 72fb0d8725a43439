"""The operator as a process on a loopback control plane, with no more rights than the chart gives it."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peftjob_cluster.children import Children, free_ports
from peftjob_cluster.control_plane import ControlPlane
from peftjob_cluster.shell import ClusterError

from .chart import CHART, NAMESPACE, RELEASE, tool
from .waiting import wait_for

OPERATOR_USER = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
ROOT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/peftjob-trainer:test"
_NAME = "operator"


class Operator:
    """The process; it can be killed and started again."""

    def __init__(self, plane: ControlPlane) -> None:
        self._kubeconfig = plane.kubeconfig(OPERATOR_USER, ["system:serviceaccounts", "system:authenticated"])
        self._children = Children(plane.folder / "log")

    def start(self, patience: float = 30) -> None:
        """Start it, and wait until its loop turns, for so many seconds."""
        health, metrics = free_ports(2)
        environment = {
            "KUBECONFIG": str(self._kubeconfig),
            "PEFTJOB_OPERATOR_TRAINER_IMAGE": IMAGE,
            "PEFTJOB_OPERATOR_HEALTH_PORT": str(health),
            "PEFTJOB_OPERATOR_METRICS_PORT": str(metrics),
            "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("crds", "operator")),
        }
        self._children.start(_NAME, [sys.executable, "-m", "peftjob_operator"], environment)

        def healthy() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{health}/healthz", timeout=1) as answer:
                    return bool(answer.status == 200)
            except urllib.error.URLError as error:
                raise ClusterError(str(error)) from error

        self._children.wait("the operator", healthy, patience)

    def kill(self) -> None:
        """Kill it as a node's failure would."""
        self._children.stop_all()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._children.is_alive(_NAME)

    def send(self, sig: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP."""
        os.kill(self.pid, sig)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._children.pid(_NAME)

    def log(self, lines: int = 60) -> str:
        """Return the end of its log."""
        return self._children.tail(_NAME, lines)

    def resident_mib(self) -> float:
        """Return its resident memory in MiB."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024


def wait_for_crd(plane: ControlPlane) -> None:
    """Wait until the API server serves PeftJobs; `kubectl wait` fails where there is no condition at all yet."""

    def serves() -> bool:
        try:
            return "items" in plane.api.get("/apis/peftjob.io/v1alpha1/peftjobs")
        except ClusterError:
            return False

    wait_for("the CRD", serves, 30, 0.1)


@contextmanager
def install_operator(plane: ControlPlane, patience: float = 30) -> Iterator[Operator]:
    """Install the chart's CRD and rights, without its Deployment, and run the operator as a process.

    Args:
        plane: Where to.
        patience: Seconds for it to start.
    """
    rendered = subprocess.run(
        [str(tool("helm")), "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", "v1.34.4"]
        + [arg for name in _TEMPLATES for arg in ("--show-only", f"templates/{name}.yaml")],
        env={"HOME": str(plane.folder), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    plane.kubectl("apply", "-f", "-", stdin=rendered)
    wait_for_crd(plane)
    operator = Operator(plane)
    operator.start(patience)
    try:
        yield operator
    finally:
        operator.kill()


_TEMPLATES = ("crd-peftjobs", "operator-clusterrole")
