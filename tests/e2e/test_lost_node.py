"""A node vanishes, kubelet and network at once: the job goes on elsewhere, and the lost gang publishes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peftjob_cluster import network
from peftjob_cluster.paths import Layout
from peftjob_testkit.cluster import Cluster
from peftjob_testkit.kubectl import Kubectl, Object
from peftjob_testkit.waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
BACK_WITHIN = 180.0
LOST = "n2"
PREFER_LOST = {
    "nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "preference": {
                    "matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [LOST]}]
                },
            }
        ]
    }
}
WORKERS = {"nodes": 1, "processesPerNode": 1, "podTemplate": {"spec": {"affinity": PREFER_LOST}}}


def node(verb: str, name: str) -> None:
    """Run a verb of the embedded cluster's node commands."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests/cluster")}
    subprocess.run([sys.executable, "-m", "peftjob_cluster", "node", verb, name], env=env, check=True)


def plug_in(name: str) -> None:
    """Bring a node's network back, but not its kubelet: what runs there goes on, and nobody tells it to end."""
    network.set_link(Layout.default(), next(n for n in network.NODES if n.name == name), up=True)


@pytest.fixture
def restored(cluster: Cluster) -> Iterator[None]:
    """Bring the node back, whatever the test did, and wait until it is Ready."""
    yield
    node("restore", LOST)
    cluster.kubectl.run("wait", "--for=condition=Ready", f"node/{LOST}", "--timeout=120s", timeout=130)


def step(job: Object) -> int:
    """Return the number of steps that a PeftJob's status tells."""
    return int(job.get("status", {}).get("progress", {}).get("step") or 0)


def processes_of(pod_uid: str) -> list[int]:
    """Return the processes of a worker pod on this machine, by what the operator put into their environment."""
    mark = f"PEFTJOB_GANG={pod_uid}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def log_of(namespace: str, pod: str) -> str:
    """Return what a container of a pod wrote, from its node's disk: the API server knows the pod no more."""
    files = sorted((ROOT / ".cluster/run").glob(f"{LOST}/pods/{namespace}_{pod}_*/trainer/*.log"))
    return "".join(file.read_text(errors="replace") for file in files)


def test_back_at_training_and_the_superseded_gang_publishes_nothing(
    cluster: Cluster, small_job: Callable[..., Object], restored: None
) -> None:
    """The lost worker is frozen, comes back after its successor published, and finishes its training."""
    training = {"maxSteps": 1500, "batchSize": 16, "precision": "FP32"}
    name = cluster.submit(small_job("lost", training=training, workers=WORKERS))
    cluster.kubectl.wait_job(name, "training", lambda job: step(job) > 0, timeout=240)
    assert cluster.node_names(name) == [LOST]
    (pod,) = cluster.kubectl.list("pods", f"peftjob.io/job-name={name}")
    frozen = processes_of(pod["metadata"]["uid"])
    assert frozen
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    node("kill", LOST)
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
    job = cluster.kubectl.wait_state(name, "Succeeded", timeout=300)
    bucket, _, prefix = job["status"]["adapter"]["uri"].removeprefix("s3://").partition("/")
    assert json.loads(cluster.store.get(bucket, f"{prefix}/manifest.json"))["attempt"] == 2
    before = cluster.store.digest(bucket, prefix)

    plug_in(LOST)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    said = wait_for(
        "the superseded gang to say so",
        lambda: (text := log_of(cluster.kubectl.namespace, pod["metadata"]["name"])) and "Superseded" in text and text,
        timeout=300,
        explain=lambda: log_of(cluster.kubectl.namespace, pod["metadata"]["name"])[-3000:],
    )
    assert "publishes nothing" in said
    assert cluster.store.digest(bucket, prefix) == before


def test_a_result_that_vanished_with_its_node_is_found(
    cluster: Cluster, small_job: Callable[..., Object], installed: Kubectl, restored: None
) -> None:
    """The operator is away while the job finishes and its node vanishes; then it reads the result from the store."""
    name = cluster.submit(small_job("vanished", workers=WORKERS))
    cluster.kubectl.wait_job(name, "its Job", lambda job: job.get("status", {}).get("attempt") == 1, timeout=60)
    scale(installed, 0)
    try:
        wait_for("the child Job to complete", lambda: is_complete(cluster, name) or None, 240)
        node("kill", LOST)
        wait_for(
            "the lost node's pods to be collected",
            lambda: not cluster.kubectl.list("pods", f"peftjob.io/job-name={name}") or None,
            BACK_WITHIN,
        )
    finally:
        scale(installed, 1)
    job = cluster.kubectl.wait_state(name, "Succeeded", timeout=BACK_WITHIN)
    assert job["status"]["attempt"] == 2
    bucket, _, prefix = job["status"]["adapter"]["uri"].removeprefix("s3://").partition("/")
    manifest = json.loads(cluster.store.get(bucket, f"{prefix}/manifest.json"))
    assert manifest["attempt"] == 1, "the second gang must report the first one's result, not train again"


def is_complete(cluster: Cluster, name: str) -> bool:
    """Say whether a PeftJob's child Job has completed."""
    jobs = cluster.kubectl.list("jobs", f"peftjob.io/job-name={name}")
    return any(c["type"] == "Complete" for job in jobs for c in job["status"].get("conditions", []))


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
