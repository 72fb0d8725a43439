"""A real API server that knows PeftJobs, one for the whole session. Tests keep apart by namespaces."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peftjob_cluster.control_plane import ControlPlane
from peftjob_testkit.chart import tool
from peftjob_testkit.kubectl import Kubectl
from peftjob_testkit.operator import wait_for_crd

CRD = Path(__file__).resolve().parents[2] / "crds/peftjob.io_peftjobs.yaml"


@pytest.fixture(scope="session")
def api_server() -> Iterator[ControlPlane]:
    """Return a control plane (API server, controller manager, no nodes) with the committed CRD."""
    with ControlPlane(controller_manager=True) as plane:
        # Client-side, as a user would: it stores the whole CRD in an annotation, which is limited to 256 KiB.
        plane.kubectl("apply", "-f", CRD)
        wait_for_crd(plane)
        yield plane


@pytest.fixture(scope="session")
def kubectl_in(api_server: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kubectl]:
    """Return a function that creates a namespace and returns the administrator's kubectl in it."""
    cache = tmp_path_factory.mktemp("kubectl")  # what the API server offers, asked after it knew PeftJobs
    command = (str(tool("kubectl")), "--kubeconfig", str(api_server.admin_kubeconfig), "--cache-dir", str(cache))

    def create(namespace: str) -> Kubectl:
        api_server.kubectl("create", "namespace", namespace)
        return Kubectl(namespace, command)

    return create
