"""What is wrong at run time reaches the PeftJob's conditions, with a reason and what to do; nothing is published.

All jobs of the table are submitted at once, as users of one cluster would; each case then waits for its own.
"""

import datetime
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from peftjob_testkit.cluster import IN_CLUSTER_S3, Cluster
from peftjob_testkit.kubectl import Object, condition

WITHIN_SECONDS = 60
DATASET = {"train": "s3://datasets/sentiment/train.csv", "maxLength": 16}


@dataclass(frozen=True)
class Case:
    """One bad input."""

    id: str
    want_reason: str
    want_in_message: tuple[str, ...]
    spec: dict[str, Any] = field(default_factory=dict)
    nodes: int = 1
    want_failed: bool = True
    """Failed for good; otherwise WorkersReady=False while the job waits for a repair."""


def s3_storage(**fields: str) -> dict[str, Any]:
    """Return spec.storage with changed fields."""
    return {"s3": {"endpoint": IN_CLUSTER_S3, "secretName": "s3-credentials", **fields}}


def workers(pod_spec: dict[str, Any], nodes: int = 1) -> dict[str, Any]:
    """Return spec.workers with a pod template."""
    return {"nodes": nodes, "processesPerNode": 1, "podTemplate": {"spec": pod_spec}}


CASES = [
    Case(
        "the base model's prefix holds nothing",
        "BaseModelNotFound",
        ("s3://models/nowhere", "spec.baseModel.uri"),
        {"baseModel": {"uri": "s3://models/nowhere"}},
    ),
    Case(
        "a weights file is cut short",
        "BaseModelCorrupt",
        ("model.safetensors",),
        {"baseModel": {"uri": "s3://models/truncated"}},
    ),
    Case(
        "the S3 keys are wrong",
        "StorageAccessDenied",
        ("secretName",),
        {"storage": s3_storage(secretName="wrong-keys")},
    ),
    Case(
        "the bucket does not exist",
        "BucketNotFound",
        ("no-such-bucket",),
        {"baseModel": {"uri": "s3://no-such-bucket/tiny"}},
    ),
    Case(
        "S3 does not answer",
        "StorageUnavailable",
        ("10.96.200.200",),
        {"storage": s3_storage(endpoint="http://10.96.200.200:7070")},
    ),
    Case(
        "the Secret is missing",
        "SecretNotFound",
        ("no-such-secret",),
        {"storage": s3_storage(secretName="no-such-secret")},
        want_failed=False,
    ),
    Case(
        "the image is missing",
        "ImagePullFailed",
        ("localhost/none:1",),
        {"workers": workers({"containers": [{"name": "trainer", "image": "localhost/none:1"}]})},
        want_failed=False,
    ),
    Case(
        "no node is fit",
        "Unschedulable",
        ("node",),
        {"workers": workers({"nodeSelector": {"peftjob.io/none": "none"}})},
        want_failed=False,
    ),
    Case(
        "only one of two workers finds a node",
        "PartlyScheduled",
        ("1 of 2",),
        {
            "workers": workers(
                {
                    "nodeSelector": {"kubernetes.io/hostname": "n1"},
                    "affinity": {
                        "podAntiAffinity": {
                            "requiredDuringSchedulingIgnoredDuringExecution": [
                                {
                                    "topologyKey": "kubernetes.io/hostname",
                                    "labelSelector": {"matchLabels": {"peftjob.io/job-name": "bad-08"}},
                                }
                            ]
                        }
                    },
                },
                nodes=2,
            )
        },
        want_failed=False,
    ),
    Case(
        "a column is missing",
        "DatasetColumnMissing",
        ("rating", "columns.label"),
        {"dataset": {**DATASET, "columns": {"text": "text", "label": "rating"}}},
    ),
    Case(
        "a line of JSONL is malformed",
        "DatasetMalformed",
        ("malformed.jsonl", "3"),
        {"dataset": {**DATASET, "train": "s3://datasets/bad/malformed.jsonl"}},
    ),
    Case(
        "a label is unknown",
        "UnknownLabel",
        ("neutral",),
        {"dataset": {**DATASET, "train": "s3://datasets/bad/label.jsonl"}},
    ),
    Case(
        "the dataset is empty",
        "DatasetEmpty",
        ("empty.jsonl",),
        {"dataset": {**DATASET, "train": "s3://datasets/bad/empty.jsonl"}},
    ),
    Case(
        "the dataset's file is missing",
        "DatasetNotFound",
        ("s3://datasets/bad/nowhere.csv",),
        {"dataset": {**DATASET, "train": "s3://datasets/bad/nowhere.csv"}},
    ),
    Case(
        "target modules match nothing",
        "TargetModulesNotFound",
        ("q_projection", "targetModules"),
        {"method": {"type": "LoRA", "lora": {"targetModules": ["q_projection"]}}},
    ),
    Case(
        "the loss is not finite",
        "NonFiniteLoss",
        ("step",),
        {"baseModel": {"uri": "s3://models/infinite"}},
    ),
    Case(
        "foreign files lie at the output",
        "OutputOccupied",
        ("s3://adapters/e2e/occupied", "output.uri"),
        {"output": {"uri": "s3://adapters/e2e/occupied"}},
    ),
    Case(
        "a field of the pod template is misspelt",
        "InvalidPodTemplate",
        ("nodeSelektor",),
        {"workers": workers({"nodeSelektor": {"a": "b"}})},
    ),
    Case(
        "the pod's memory is far too small for the model",
        "DoesNotFit",
        ("on each process", "of memory for each pod", "spec.workers.podTemplate"),
        {"workers": workers({"containers": [{"name": "trainer", "resources": {"limits": {"memory": "256Mi"}}}]})},
    ),
]
NAMES = {case.id: f"bad-{number:02}" for number, case in enumerate(CASES)}


def prepare(cluster: Cluster, tiny_base: Any) -> None:
    """Put the bad models, data, keys and foreign files where the cases look for them."""
    import torch
    from safetensors.torch import load_file, save_file

    store = cluster.store
    weights = (tiny_base / "model.safetensors").read_bytes()
    tensors = load_file(tiny_base / "model.safetensors")
    tensors = {
        name: torch.full_like(value, float("inf")) if "value" in name else value for name, value in tensors.items()
    }
    for model in ("truncated", "infinite"):
        store.upload(tiny_base, "models", model)
    store.put("models", "truncated/model.safetensors", weights[: len(weights) // 2])
    path = tiny_base.parent / "infinite.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    store.put("models", "infinite/model.safetensors", path.read_bytes())
    good = [{"text": "fine", "label": "positive"}, {"text": "awful", "label": "negative"}]
    lines = io.StringIO()
    for row in [*good, {"text": "so so", "label": "neutral"}]:
        lines.write(json.dumps(row) + "\n")
    store.put("datasets", "bad/label.jsonl", lines.getvalue().encode())
    store.put("datasets", "bad/malformed.jsonl", b'{"text": "a", "label": "positive"}\n' * 2 + b'{"text": "b", \n')
    store.put("datasets", "bad/empty.jsonl", b"")
    store.put("adapters", "e2e/occupied/thesis.txt", b"ten years of work")
    cluster.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "wrong-keys"},
            "stringData": {**cluster.keys, "AWS_SECRET_ACCESS_KEY": "wrong"},
        }
    )


@pytest.fixture(scope="module")
def submitted(cluster: Cluster, small_job: Callable[..., Object], tiny_base: Any) -> dict[str, str]:
    """Submit every case; return the digests of what lay at the outputs before."""
    prepare(cluster, tiny_base)
    before = cluster.store.digest("adapters", "e2e/occupied")
    for case in CASES:
        cluster.submit(small_job(NAMES[case.id], nodes=case.nodes, **case.spec))
    return before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_bad_input_reaches_the_conditions(cluster: Cluster, submitted: dict[str, str], case: Case) -> None:
    name = NAMES[case.id]
    type_, status = ("Failed", "True") if case.want_failed else ("WorkersReady", "False")

    def told(job: Object) -> bool:
        found = condition(job, type_)
        return found.get("status") == status and found.get("reason") == case.want_reason

    job = cluster.kubectl.wait_job(name, f"{type_}={status} {case.want_reason}", told, timeout=300)
    message = condition(job, type_)["message"]
    assert [part for part in case.want_in_message if part not in message] == [], message
    assert job["status"].get("restarts", 0) == 0
    ended = finished_at(cluster, name)
    if case.want_failed and ended is not None:
        told_at = datetime.datetime.fromisoformat(condition(job, type_)["lastTransitionTime"])
        assert (told_at - ended).total_seconds() <= WITHIN_SECONDS


def finished_at(cluster: Cluster, name: str) -> datetime.datetime | None:
    """Return when the first worker container of a PeftJob ended, if one did."""
    times = [
        status["state"]["terminated"]["finishedAt"]
        for pod in cluster.kubectl.list("pods", f"peftjob.io/job-name={name}")
        for status in pod["status"].get("containerStatuses", [])
        if "terminated" in status["state"]
    ]
    return min(map(datetime.datetime.fromisoformat, times), default=None)


def test_permanent_failures_are_not_retried_and_change_no_output(cluster: Cluster, submitted: dict[str, str]) -> None:
    time.sleep(5)  # a wrong retry would start by now: nothing waits before the first one
    for case in CASES:
        if case.want_failed:
            jobs = cluster.kubectl.list("jobs", f"peftjob.io/job-name={NAMES[case.id]}")
            assert len(jobs) <= 1, case.id
    assert cluster.store.digest("adapters", "e2e/occupied") == submitted


def test_a_repair_lets_the_job_go_on(cluster: Cluster, submitted: dict[str, str]) -> None:
    name = NAMES["the Secret is missing"]
    cluster.kubectl.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "no-such-secret"}, "stringData": cluster.keys}
    )
    job = cluster.kubectl.wait_state(name, "Succeeded", timeout=240)
    assert job["status"]["attempt"] == 1
