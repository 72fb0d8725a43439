"""The operator killed, the API server gone, a node that does not answer: the job ends the same, once."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from peftjob_cluster.control_plane import API_SERVER, KWOK, ControlPlane
from peftjob_testkit.kubectl import condition
from peftjob_testkit.loopback import Namespace
from peftjob_testkit.operator import OPERATOR_USER, Operator
from peftjob_testkit.waiting import wait_for

KILLS = 10


@pytest.fixture(scope="module")
def ns(namespace: Callable[[str], Namespace]) -> Namespace:
    return namespace("faults")


def created(plane: ControlPlane) -> Counter[str]:
    """Return how often the operator made which Job, Service or ConfigMap."""
    made: Counter[str] = Counter()
    for event in plane.audit_events():
        ref = event.get("objectRef", {})
        if event["user"]["username"] != OPERATOR_USER or event["verb"] != "create" or ref["resource"] == "events":
            continue
        if event["responseStatus"]["code"] == 201:
            made[f"{ref['resource']}/{ref['name']}"] += 1
    return made


def test_killed_at_ten_moments_of_ten_lives(ns: Namespace, plane: ControlPlane, operator: Operator) -> None:
    """Jobs begin one after the other, so that each kill meets all parts of a life: start, running, end, finished."""
    moments = random.Random(9)
    names = [f"life-{number}" for number in range(KILLS)]
    for number, name in enumerate(names):
        ns.submit(name, run_time=f"{moments.randrange(300, 2500)}ms")
        time.sleep(moments.random() * 1.5)
        operator.kill()
        if number % 3 == 0:
            time.sleep(moments.random())
        operator.start()
    for name in names:
        status = ns.wait_state(name, "Succeeded", 60)["status"]
        assert (status["attempt"], status.get("restarts", 0), status.get("disruptions", 0)) == (1, 0, 0)
        assert ns.child_jobs(name) == [f"{name}-1"]
        assert len(ns.pods(name)) == 2
    made = created(plane)
    for name in names:
        for child in (f"jobs/{name}-1", f"services/{name}-workers", f"configmaps/{name}-run"):
            assert made[child] == 1, child
    assert {name.split("/")[0] for name in made} == {"jobs", "services", "configmaps"}
    assert len(made) == 3 * KILLS


def test_killed_through_failures_and_retries(ns: Namespace, plane: ControlPlane, operator: Operator) -> None:
    """A job whose every gang fails ends after the same number of attempts, however often the operator dies."""
    moments = random.Random(5)
    names = [ns.submit(f"sick-{n}", run_time="400ms", template=failing(), maxRestarts=1) for n in range(3)]
    for _ in range(4):
        time.sleep(moments.random())
        operator.kill()
        operator.start()
    for name in names:
        status = ns.wait_state(name, "Failed", 60)["status"]
        assert (status["attempt"], status["restarts"], status.get("disruptions", 0)) == (2, 1, 0)
        assert ns.child_jobs(name) == [f"{name}-2"]
        assert created(plane)[f"jobs/{name}-1"] == created(plane)[f"jobs/{name}-2"] == 1


def failing() -> dict[str, object]:
    """Return a template whose pods end with an error that is worth a retry."""
    return {
        "metadata": {"annotations": {"cluster.peftjob.test/exit-code": "70", "cluster.peftjob.test/run-time": "400ms"}}
    }


def test_down_when_the_job_finished(ns: Namespace, operator: Operator) -> None:
    ns.submit("unwatched")
    ns.running("unwatched")
    operator.kill()
    ns.finish("unwatched")
    wait_for("the Job complete", lambda: condition(ns.api.get(f"{ns.jobs}/unwatched-1"), "Complete"), 15, 0.1)
    operator.start()
    status = ns.wait_state("unwatched", "Succeeded")["status"]
    assert (status["attempt"], status["progress"]["display"]) == (1, "9/9")


def test_down_when_the_job_finished_and_its_pods_went(ns: Namespace, operator: Operator) -> None:
    ns.submit("forgotten", run_time="1500ms")
    ns.running("forgotten")
    operator.kill()
    wait_for("the Job complete", lambda: condition(ns.api.get(f"{ns.jobs}/forgotten-1"), "Complete"), 15, 0.1)
    for pod in ns.pods("forgotten"):
        ns.api.delete(f"{ns.path}/pods/{pod['metadata']['name']}")
    wait_for("no pods", lambda: not ns.pods("forgotten"), 10, 0.1)
    operator.start()
    status = ns.wait_state("forgotten", "Succeeded")["status"]  # the fake trainer finds its result again
    assert (status["attempt"], status["disruptions"], status.get("restarts", 0)) == (2, 1, 0)
    assert "ResultLost" in [reason for _, reason, _ in ns.events("forgotten")]


def test_the_api_server_restarts(ns: Namespace, plane: ControlPlane, operator: Operator) -> None:
    for name in ("before", "across"):
        ns.submit(name, nodes=1)
        ns.running(name)
    plane.stop_component(API_SERVER)
    time.sleep(2)
    operator.send(signal.SIGSTOP)  # nobody tells it of what happens now
    plane.start_component(API_SERVER)
    ns.api.request("DELETE", f"{ns.jobs}/before-1", {"propagationPolicy": "Foreground"})
    wait_for("the Job gone", lambda: ns.find(f"{ns.jobs}/before-1") is None, 30, 0.2)
    operator.send(signal.SIGCONT)
    ns.finish("across")
    ns.wait_state("across", "Succeeded", 60)
    ns.submit("after", nodes=1, run_time="200ms")
    ns.wait_state("after", "Succeeded", 30)


@pytest.fixture
def kubelets(plane: ControlPlane) -> Iterator[None]:
    """Start the fake nodes again, whatever the test did."""
    yield
    plane.start_component(KWOK)


def test_a_pod_on_a_node_that_does_not_answer_is_given_up(ns: Namespace, plane: ControlPlane, kubelets: None) -> None:
    ns.submit("lost")
    pods = ns.running("lost")
    plane.stop_component(KWOK)
    path = f"{ns.path}/pods/{pods[1]['metadata']['name']}"
    ns.api.request("DELETE", path, {"gracePeriodSeconds": 1})
    assert ns.api.get(path)["metadata"]["finalizers"] == ["batch.kubernetes.io/job-tracking"]
    began = time.monotonic()
    ns.wait("lost", "a disruption", lambda job: job["status"].get("disruptions") == 1, 45)
    assert 25 < time.monotonic() - began < 40
    job = ns.job("lost")
    assert condition(job, "WorkersReady")["reason"] == "NodeLost"
    assert pods[1]["spec"]["nodeName"] in condition(job, "WorkersReady")["message"]
    wait_for("the lost pod deleted", lambda: ns.find(path) is None, 20, 0.2)


def test_the_job_of_the_lost_node_goes_on(ns: Namespace) -> None:
    ns.running("lost", 2, timeout=60)
    assert ns.job("lost")["status"].get("restarts", 0) == 0
    ns.finish("lost", 2)
    ns.wait_state("lost", "Succeeded")


def test_a_deletion_that_no_watch_told_of_is_noticed(ns: Namespace) -> None:
    """Last: of the time when the API server restarted."""
    ns.running("before", 2, timeout=90)
    assert ns.job("before")["status"]["disruptions"] == 1
