"""A node vanishes, kubelet and network at once: the job goes on elsewhere, and the lost gang publishes nothing."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peftjob_testkit.cluster import Cluster
from peftjob_testkit.kubectl import Kubectl, Object
from peftjob_testkit.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
BACK_WITHIN = 180.0


def node(verb: str, name: str) -> None:
    """Run a verb of the embedded cluster's node commands."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests/cluster")}
    subprocess.run([sys.executable, "-m", "peftjob_cluster", "node", verb, name], env=env, check=True)


@pytest.fixture
def restored(cluster: Cluster) -> Iterator[None]:
    """Bring the node back, whatever the test did, and wait until it is Ready."""
    yield
    node("restore", "n2")
    cluster.kubectl.run("wait", "--for=condition=Ready", "node/n2", "--timeout=120s", timeout=130)


def step(job: Object) -> int:
    """Return the number of steps that a PeftJob's status tells."""
    return int(job.get("status", {}).get("progress", {}).get("step") or 0)


def test_back_at_training_on_the_other_node(cluster: Cluster, small_job: Callable[..., Object], restored: None) -> None:
    """One worker, on the node that vanishes: its successor runs on the node that is left."""
    training = {"maxSteps": 100000, "batchSize": 16, "precision": "FP32"}
    workers = {
        "nodes": 1,
        "processesPerNode": 1,
        "podTemplate": {
            "spec": {
                "affinity": {
                    "nodeAffinity": {
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {
                                "weight": 100,
                                "preference": {
                                    "matchExpressions": [
                                        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}
                                    ]
                                },
                            }
                        ]
                    }
                }
            }
        },
    }
    name = cluster.submit(small_job("lost", training=training, workers=workers))
    cluster.kubectl.wait_job(name, "training", lambda job: step(job) > 0, timeout=240)
    assert cluster.node_names(name) == ["n2"]
    node("kill", "n2")
    lost_at = time.monotonic()
    job = cluster.kubectl.wait_job(
        name,
        "training again",
        lambda job: job["status"].get("attempt") == 2 and job["status"].get("state") == "Running" and step(job) > 0,
        timeout=BACK_WITHIN,
    )
    print(f"back at training after {time.monotonic() - lost_at:.0f} s")
    assert job["status"]["disruptions"] == 1
    assert job["status"].get("restarts", 0) == 0

    node("restore", "n2")  # the superseded worker's network is back; what it does now must not matter
    cluster.kubectl.delete("peftjob", name, wait=True)
    wait_for("pods to be gone", lambda: not cluster.kubectl.list("pods", f"peftjob.io/job-name={name}") or None, 180)


def test_a_result_that_vanished_with_its_node_is_found(
    cluster: Cluster, small_job: Callable[..., Object], installed: Kubectl
) -> None:
    """The operator is away while the job finishes and its pods are deleted; then it reads the result from the store."""
    name = cluster.submit(small_job("vanished", nodes=1))
    cluster.kubectl.wait_job(name, "its Job", lambda job: job.get("status", {}).get("attempt") == 1, timeout=60)
    scale(installed, 0)
    try:
        wait_for(
            "the child Job to complete",
            lambda: (
                [
                    c
                    for j in cluster.kubectl.list("jobs", f"peftjob.io/job-name={name}")
                    for c in j["status"].get("conditions", [])
                    if c["type"] == "Complete"
                ]
                or None
            ),
            240,
        )
        cluster.kubectl.run("delete", "pods", "-l", f"peftjob.io/job-name={name}", "--grace-period=0", "--force")
    finally:
        scale(installed, 1)
    job = cluster.kubectl.wait_state(name, "Succeeded", timeout=180)
    assert job["status"]["attempt"] == 2
    bucket, _, prefix = job["status"]["adapter"]["uri"].removeprefix("s3://").partition("/")
    manifest = json.loads(cluster.store.get(bucket, f"{prefix}/manifest.json"))
    assert manifest["attempt"] == 1, "the second gang must report the first one's result, not train again"


def scale(system: Kubectl, replicas: int) -> None:
    """Set the number of operator pods, and wait until they are there or gone."""
    system.run("scale", "deployment/peftjob-operator", f"--replicas={replicas}")
    if replicas:
        system.run("rollout", "status", "deployment/peftjob-operator", "--timeout=120s", timeout=130)
    else:
        wait_for(
            "the operator to be gone",
            lambda: not system.list("pods", "app.kubernetes.io/name=peftjob-operator") or None,
            60,
        )
