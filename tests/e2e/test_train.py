"""The product's spine: the sample trains on two nodes, and what it publishes is what a stranger loads."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from peftjob_testkit.cluster import Cluster
from peftjob_testkit.kubectl import Object, condition

ROOT = Path(__file__).resolve().parent.parent.parent
FP32_ROUNDING = 1e-4
"""Largest difference of a trained weight between two runs that sum in another order."""


@pytest.fixture(scope="module")
def trained(cluster: Cluster) -> Object:
    """Apply the demo's sample and wait for it as a user would; return the PeftJob."""
    sample = yaml.safe_load((ROOT / "crds/samples/sentiment.yaml").read_text())
    sample["spec"]["output"]["uri"] = f"s3://adapters/{cluster.kubectl.namespace}/sentiment"
    name = cluster.submit(sample)
    cluster.kubectl.run("wait", "--for=condition=Succeeded", f"peftjob/{name}", "--timeout=600s", timeout=620)
    return cluster.kubectl.job(name)


@pytest.fixture(scope="module")
def adapter(cluster: Cluster, trained: Object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Download what was published."""
    folder = tmp_path_factory.mktemp("adapter")
    bucket, _, prefix = trained["status"]["adapter"]["uri"].removeprefix("s3://").partition("/")
    cluster.store.download(bucket, prefix, folder)
    return folder


def test_two_pods_on_two_nodes_trained_it(cluster: Cluster, trained: Object) -> None:
    assert cluster.node_names("sentiment") == ["n1", "n2"]
    status = trained["status"]
    assert status["state"] == "Succeeded"
    assert status["attempt"] == 1
    assert status["progress"]["step"] == status["progress"]["totalSteps"] == 48


def test_the_frozen_base_was_sharded(trained: Object) -> None:
    plan = trained["status"]["plan"]
    whole = plan["baseParameters"] * 4
    assert plan["ranks"] == 2
    assert whole / 2 <= plan["baseBytesPerRank"] <= 0.55 * whole


def test_no_rank_held_more_than_its_share_and_two_blocks_at_any_moment(adapter: Path) -> None:
    """At every boundary of a module of the third step, forward and backward, in real storage."""
    held = json.loads((adapter / "metrics.json").read_text())["baseBytes"]
    assert held["partition"] <= 0.55 * held["whole"]
    assert held["partition"] < held["peak"] <= 0.55 * held["whole"] + 2 * held["largestBlock"]
    assert held["largestBlock"] < 0.55 * held["whole"]


def test_status_names_the_manifest_and_the_manifest_names_every_file(trained: Object, adapter: Path) -> None:
    manifest = (adapter / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == trained["status"]["adapter"]["sha256"]
    files = json.loads(manifest)["files"]
    for name, entry in files.items():
        assert hashlib.sha256((adapter / name).read_bytes()).hexdigest() == entry["sha256"], name
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "report.html", "metrics.json"} <= set(
        files
    )
    assert json.loads(manifest)["uid"] == trained["metadata"]["uid"]


def test_plain_peft_measures_what_metrics_json_says(
    trained: Object, adapter: Path, sentiment: tuple[Path, Path]
) -> None:
    import sentiment_data

    train, test = sentiment
    command = [sys.executable, str(ROOT / "tests/demo/evaluate.py"), "--json", "--adapter", str(adapter)]
    command += ["--base", str(sentiment_data.base_model_folder()), "--train", str(train), "--test", str(test)]
    command += ["--manifest-sha256", trained["status"]["adapter"]["sha256"]]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    told = json.loads((adapter / "metrics.json").read_text())["test"]["accuracy"]
    assert round(measured["adapter"], 3) == round(told, 3)
    assert measured["adapter"] > max(measured["majority"], measured["ngrams"])


def test_kubectl_get_answers_how_far_and_how_good(cluster: Cluster, trained: Object) -> None:
    header, row = cluster.kubectl.run("get", "pj", "sentiment").splitlines()
    assert header.split() == ["NAME", "STATE", "STEP", "LOSS", "ETA", "ADAPTER", "AGE"]
    assert row.split()[1:3] == ["Succeeded", "48/48"]
    assert trained["status"]["adapter"]["uri"] in row


def test_events_mark_the_turning_points(cluster: Cluster, trained: Object) -> None:
    events = json.loads(
        cluster.kubectl.run(
            "get",
            "events",
            "-o",
            "json",
            "--field-selector",
            "involvedObject.kind=PeftJob,involvedObject.name=sentiment",
        )
    )["items"]
    assert 2 <= len(events) <= 6
    assert "Warning" not in {event["type"] for event in events}


def test_workers_hold_no_cluster_credentials(cluster: Cluster, trained: Object) -> None:
    for pod in cluster.kubectl.list("pods", "peftjob.io/job-name=sentiment"):
        assert pod["spec"]["automountServiceAccountToken"] is False
        mounts = [mount["mountPath"] for c in pod["spec"]["containers"] for mount in c["volumeMounts"]]
        assert not any("serviceaccount" in path for path in mounts)


def test_a_finished_job_stays_as_it_is_when_its_children_are_deleted(cluster: Cluster, trained: Object) -> None:
    before = cluster.store.digest("adapters", cluster.kubectl.namespace)
    for kind in ("job", "service", "configmap"):
        cluster.kubectl.run("delete", kind, "-l", "peftjob.io/job-name=sentiment", "--wait=true")
    cluster.kubectl.patch("peftjob", "sentiment", {"metadata": {"annotations": {"touched": "yes"}}})
    time.sleep(5)  # long enough for a reconcile that would wrongly make them again
    after = cluster.kubectl.job("sentiment")
    assert after["status"] == trained["status"]
    assert cluster.kubectl.list("jobs", "peftjob.io/job-name=sentiment") == []
    assert cluster.kubectl.list("pods", "peftjob.io/job-name=sentiment") == []
    assert cluster.store.digest("adapters", cluster.kubectl.namespace) == before


def test_the_launcher_alone_makes_the_same_adapter(
    cluster: Cluster, trained: Object, adapter: Path, tmp_path: Path, sentiment: tuple[Path, Path]
) -> None:
    """Two processes on this machine, no cluster, no root, files in and out."""
    import sentiment_data
    from safetensors.numpy import load_file

    train, test = sentiment
    sample: dict[str, Any] = yaml.safe_load((ROOT / "crds/samples/sentiment.yaml").read_text())
    spec = sample["spec"]
    spec["baseModel"]["uri"] = f"file://{sentiment_data.base_model_folder()}"
    spec["dataset"].update(train=f"file://{train}", test=f"file://{test}")
    spec["output"]["uri"] = f"file://{tmp_path}/adapter"
    del spec["storage"]
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(sample))
    no_privileges = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*no_privileges, sys.executable, "-m", "peftjob_trainer.launch", str(file)],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (adapter, tmp_path / "adapter"))
    assert ours.keys() == theirs.keys()
    worst = max(float(abs(ours[name] - theirs[name]).max()) for name in ours)
    assert worst <= FP32_ROUNDING, worst


def test_a_second_job_cannot_take_the_output(
    cluster: Cluster, trained: Object, small_job: Callable[..., Object]
) -> None:
    before = cluster.store.digest("adapters", cluster.kubectl.namespace)
    name = cluster.submit(small_job("second", output={"uri": trained["status"]["adapter"]["uri"]}))
    job = cluster.kubectl.wait_state(name, "Failed", timeout=180)
    assert condition(job, "Failed")["reason"] == "OutputOccupied"
    assert cluster.store.digest("adapters", cluster.kubectl.namespace) == before
