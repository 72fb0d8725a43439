"""Delete, suspend and resume, and an operator that is killed: nothing twice, nothing left, the job ends the same."""

import random
import re
import time
from collections.abc import Callable

from peftjob_testkit.cluster import Cluster
from peftjob_testkit.kubectl import Kubectl, Object, condition
from peftjob_testkit.waiting import wait_for

LONG = {"maxSteps": 4000, "batchSize": 16, "learningRate": 1e-3, "precision": "FP32", "logEverySteps": 10}
KILLS = 10


def training(job: Object) -> bool:
    """Say whether a PeftJob has made a step."""
    return (job.get("status", {}).get("progress", {}).get("step") or 0) > 0


def children(kubectl: Kubectl, name: str) -> list[str]:
    """Return kind/name of every object that carries the PeftJob's label."""
    text = kubectl.run("get", "jobs,pods,services,configmaps", "-l", f"peftjob.io/job-name={name}", "-o", "name")
    return text.split()


def test_delete_while_training_leaves_nothing(cluster: Cluster, small_job: Callable[..., Object]) -> None:
    name = cluster.submit(small_job("deleted", nodes=2, training=LONG))
    cluster.kubectl.wait_job(name, "training", training, timeout=240)
    cluster.kubectl.delete("peftjob", name, wait=True)
    wait_for("children to be gone", lambda: not children(cluster.kubectl, name) or None, 120)


def test_suspend_while_training_then_resume(cluster: Cluster, small_job: Callable[..., Object]) -> None:
    name = cluster.submit(small_job("suspended", nodes=2, training={**LONG, "maxSteps": 600}, suspend=True))
    job = cluster.kubectl.wait_state(name, "Suspended", timeout=60)
    assert condition(job, "Suspended")["status"] == "True"
    assert cluster.kubectl.list("jobs", f"peftjob.io/job-name={name}") == []
    cluster.kubectl.patch("peftjob", name, {"spec": {"suspend": False}})
    cluster.kubectl.wait_job(name, "training", training, timeout=240)
    cluster.kubectl.patch("peftjob", name, {"spec": {"suspend": True}})
    cluster.kubectl.wait_state(name, "Suspended", timeout=60)
    wait_for(
        "pods to be gone", lambda: not cluster.kubectl.list("pods", f"peftjob.io/job-name={name}") or None, timeout=120
    )
    cluster.kubectl.patch("peftjob", name, {"spec": {"suspend": False}})
    job = cluster.kubectl.wait_state(name, "Succeeded", timeout=300)
    assert condition(job, "Suspended")["status"] == "False"
    assert job["status"]["attempt"] == 2
    assert job["status"].get("restarts", 0) == 0
    assert went_on_after(cluster, name) > 0, "it began where it was suspended"


def went_on_after(cluster: Cluster, name: str) -> int:
    """Return the step whose checkpoint the last gang says that it went on from."""
    first = f"peftjob.io/job-name={name},batch.kubernetes.io/job-completion-index=0"
    log = cluster.kubectl.run("logs", "-l", first, "--tail=-1")
    found = re.search(r"going on after step (\d+), from s3://", log)
    assert found is not None, log
    return int(found[1])


def operator_pod(system: Kubectl) -> Object | None:
    """Return the operator's running pod."""
    pods = system.list("pods", "app.kubernetes.io/name=peftjob-operator")
    return next((pod for pod in pods if pod["status"].get("phase") == "Running"), None)


def kill_operator(system: Kubectl) -> None:
    """Kill the operator as a node's failure would: at once, with no grace."""
    pod = operator_pod(system)
    if pod is not None:
        system.run("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")


def test_the_job_ends_the_same_when_the_operator_is_killed_again_and_again(
    cluster: Cluster, installed: Kubectl, small_job: Callable[..., Object]
) -> None:
    """Ten kills at seeded moments, the last while the job finishes."""
    chance = random.Random(7)
    name = cluster.submit(small_job("operator-killed", nodes=2, training={**LONG, "maxSteps": 40}))
    for _ in range(KILLS):
        kill_operator(installed)
        time.sleep(chance.uniform(0.5, 5))
    job = cluster.kubectl.wait_state(name, "Succeeded", timeout=300)
    assert job["status"]["attempt"] == 1
    assert job["status"].get("restarts", 0) == 0
    jobs = cluster.kubectl.list("jobs", f"peftjob.io/job-name={name}")
    assert [found["metadata"]["name"] for found in jobs] == [f"{name}-1"]
    assert len(cluster.kubectl.list("pods", f"peftjob.io/job-name={name}")) == 2
    assert job["status"]["adapter"]["sha256"]


KILL_RANKS = (
    "for p in /proc/[0-9]*; do if grep -q 'peftjob_trainer[.]rank' $p/cmdline 2>/dev/null; "
    "then kill -9 ${p#/proc/}; fi; done"
)


def test_a_killed_rank_is_a_counted_failure_and_a_deleted_pod_is_not(
    cluster: Cluster, small_job: Callable[..., Object]
) -> None:
    training_ = {**LONG, "maxSteps": 400}
    killed = cluster.submit(small_job("rank-killed", nodes=2, training=training_, maxRestarts=1))
    cluster.kubectl.wait_job(killed, "training", training, timeout=240)
    cluster.kubectl.run("exec", f"pod/{pod_name(cluster, killed, 1)}", "--", "/bin/sh", "-c", KILL_RANKS)
    job = cluster.kubectl.wait_job(killed, "a second attempt", second_attempt, timeout=180)
    assert job["status"]["restarts"] == 1
    before = job["status"]["checkpoint"]["step"]
    job = cluster.kubectl.wait_job(killed, "training again", training, timeout=240)
    assert job["status"]["progress"]["step"] > before, "it went on"
    cluster.kubectl.run("delete", "pod", pod_name(cluster, killed, 0), "--wait=false")
    job = cluster.kubectl.wait_state(killed, "Succeeded", timeout=400)
    assert (job["status"]["attempt"], job["status"]["restarts"], job["status"]["disruptions"]) == (3, 1, 1)
    assert went_on_after(cluster, killed) > before
    assert "checkpoint" not in job["status"], "none is left"


def second_attempt(job: Object) -> bool:
    """Say whether a PeftJob is at its second attempt or later."""
    return bool(job["status"].get("attempt", 0) >= 2)


def pod_name(cluster: Cluster, name: str, index: int) -> str:
    """Return the name of the running pod of one completion index."""
    selector = f"peftjob.io/job-name={name},batch.kubernetes.io/job-completion-index={index}"
    pods = cluster.kubectl.list("pods", selector)
    return str(next(p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Running"))
