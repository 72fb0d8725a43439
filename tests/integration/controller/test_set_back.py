"""etcd restored from an older snapshot under a real API server: the operator goes on from what there is now."""

import os
import shutil
from collections.abc import Iterator

import pytest
from peftjob_cluster.control_plane import API_SERVER, CONTROLLER_MANAGER, ETCD, KWOK, SCHEDULER, ControlPlane
from peftjob_testkit.loopback import Namespace, failure
from peftjob_testkit.operator import install_operator
from peftjob_testkit.waiting import wait_for

pytestmark = pytest.mark.skipif(not os.environ.get("PEFTJOB_ALL_FAULTS"), reason="a control plane of its own")


@pytest.fixture
def own_plane() -> Iterator[ControlPlane]:
    with ControlPlane(fake_nodes=2, pod_run_seconds=3600) as plane:
        yield plane


def test_a_store_that_is_set_back(own_plane: ControlPlane) -> None:
    """The snapshot is of the first attempt; the second one published, and a third PeftJob came after it."""
    plane, store = own_plane, own_plane.folder / "etcd"
    with install_operator(plane) as operator:
        ns = Namespace(plane, "back")
        for name in ("done", "going"):
            ns.submit(name)
            ns.running(name)
        plane.stop_component(ETCD)
        shutil.copytree(store, plane.folder / "snapshot")
        plane.start_component(ETCD)
        for name in ("done", "going"):
            ns.end(ns.pods(name, 1)[1], 70, failure("InternalError", 70, "it broke"))
            ns.running(name, 2, timeout=60)
        ns.finish("done", 2)
        ns.wait_state("done", "Succeeded", 60)
        ns.submit("after")
        ns.running("after", timeout=60)

        others = (KWOK, SCHEDULER, CONTROLLER_MANAGER)
        for component in (*others, API_SERVER, ETCD):
            plane.stop_component(component)
        shutil.rmtree(store)
        shutil.copytree(plane.folder / "snapshot", store)
        for component in (ETCD, API_SERVER, *reversed(others)):
            plane.start_component(component)

        assert ns.job("done")["status"]["attempt"] == 1
        assert ns.find(f"{ns.peftjobs}/after") is None
        wait_for("its end", lambda: not operator.is_alive, 60, 0.2, operator.log)
        assert "set back" in operator.log()
        operator.kill()
        operator.start()  # as the kubelet does
        ns.finish("done", 1)  # the fake trainer finds its result again
        late = failure("Superseded", 75, "attempt 2 claimed it", claimedAttempt=2)
        for pod in ns.pods("going", 1):
            ns.end(pod, 75, late)
        ns.running("going", 3, timeout=60)
        ns.finish("going", 3)
        for name in ("done", "going"):
            status = ns.wait_state(name, "Succeeded", 150)["status"]
            assert status.get("restarts", 0) == 0
            assert ns.child_jobs(name) == [f"{name}-{status['attempt']}"]
        ns.submit("after", nodes=1, run_time="200ms")
        ns.wait_state("after", "Succeeded", 150)
        assert operator.is_alive
