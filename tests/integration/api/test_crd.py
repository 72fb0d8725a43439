"""The committed CRD on a real API server: what users and the operator see of it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from peftjob_api import Checkpoint, Condition, Failure, PeftJobStatus, Progress, load_manifest
from peftjob_api.worker import AdapterInfo, DataInfo, PlanInfo, ResolvedInfo
from peftjob_cluster.control_plane import ControlPlane
from peftjob_cluster.shell import ClusterError
from peftjob_testkit.corpus import sample
from peftjob_testkit.kubectl import Kubectl

NOW = "2026-01-01T00:00:00Z"
STATUS = PeftJobStatus(
    observed_generation=1,
    state="Running",
    conditions=[
        Condition(type="WorkersReady", status="True", reason="Running", message="2 of 2", last_transition_time=NOW),
        Condition(type="Failed", status="False", reason="Running", last_transition_time=NOW, observed_generation=1),
    ],
    start_time=NOW,
    attempt=2,
    restarts=1,
    disruptions=3,
    restarts_without_progress=1,
    disruptions_without_progress=0,
    furthest_step=110,
    last_failure=Failure(
        reason="InternalError", message="KeyError: 'x'", step=110, count=1, furthest_step=110, time=NOW
    ),
    retry_at=NOW,
    active_seconds=17,
    active_since=NOW,
    progress=Progress(
        step=120,
        total_steps=940,
        display="120/940",
        epoch=0.38,
        loss=1.103,
        skipped_steps=1,
        learning_rate=1e-4,
        tokens_per_second=1234.5,
        metrics={"loss": 1.2, "accuracy": 0.5},
        eta_seconds=2460.0,
        eta="41m0s",
        updated_at=NOW,
    ),
    checkpoint=Checkpoint(
        step=100, uri="s3://adapters/minimal/checkpoints/step-00000100-claim-1", time="2026-01-01T00:02:00Z"
    ),
    resolved=ResolvedInfo(
        method="LoRA",
        rank=16,
        precision="BF16",
        max_length=1024,
        batch_size=32,
        micro_batch_size=8,
        learning_rate=3.5e-4,
        epochs=3.0,
        max_steps=9,
        metric="ChrF",
    ),
    plan=PlanInfo(
        shard_group="Full", ranks=2, base_parameters=2**40, base_bytes_per_rank=2**42, trainable_parameters=9
    ),
    data=DataInfo(
        train_examples=900,
        validation_examples=50,
        test_examples=50,
        truncated_examples=3,
        skipped_rows=2,
        skipped_reasons=["s3://datasets/a.jsonl line 2: no valid JSON", "s3://datasets/a.jsonl line 9: no valid JSON"],
    ),
    adapter=AdapterInfo(uri="s3://adapters/minimal", sha256="a" * 64, size_bytes=2**33),
)


@pytest.fixture(scope="module")
def empty(kubectl_in: Callable[[str], Kubectl]) -> Kubectl:
    return kubectl_in("crd")


@pytest.fixture
def kubectl(empty: Kubectl) -> Iterator[Kubectl]:
    """Return kubectl in a namespace with the sample `minimal`."""
    empty.apply(sample("minimal"))
    yield empty
    empty.run("delete", "peftjobs", "--all")


def write_status(kubectl: Kubectl, status: dict[str, object]) -> None:
    patch = json.dumps({"status": status})
    kubectl.run("patch", "pj", "minimal", "--subresource=status", "--type=merge", "--patch", patch)


def test_every_field_of_a_status_is_stored_as_the_operator_wrote_it(kubectl: Kubectl) -> None:
    absent = {name for name, value in STATUS if value is None} | {n for n, v in STATUS.progress or () if v is None}
    assert absent == {"completion_time"}, "give every field a value here"
    write_status(kubectl, STATUS.to_wire())
    assert kubectl.job("minimal")["status"] == STATUS.to_wire()


def test_the_printed_columns_answer_how_far_and_how_good(kubectl: Kubectl) -> None:
    write_status(kubectl, STATUS.to_wire())
    header, row = kubectl.run("get", "pj").splitlines()
    assert header.split() == ["NAME", "STATE", "STEP", "LOSS", "ETA", "ADAPTER", "AGE"]
    assert row.split()[:-1] == ["minimal", "Running", "120/940", "1.103", "41m0s", "s3://adapters/minimal"]
    wide = kubectl.run("get", "pj", "-o", "wide").splitlines()
    assert wide[0].split()[7:] == ["MODEL", "METHOD", "RESTARTS", "WORKERS", "FAILURE"]
    assert wide[1].split()[7:] == ["hf://Qwen/Qwen2.5-0.5B-Instruct", "LoRA", "1", "Running"]


def test_a_status_without_defaults_stays_as_small_as_it_was_written(kubectl: Kubectl) -> None:
    write_status(kubectl, {"state": "Pending"})
    assert kubectl.job("minimal")["status"] == {"state": "Pending"}


def test_applying_again_changes_nothing(kubectl: Kubectl) -> None:
    generation = kubectl.job("minimal")["metadata"]["generation"]
    kubectl.apply(sample("minimal"))
    assert kubectl.job("minimal")["metadata"]["generation"] == generation


def test_users_cannot_write_the_status_with_the_spec(kubectl: Kubectl) -> None:
    kubectl.apply({**sample("minimal"), "status": {"state": "Succeeded"}})
    assert "status" not in kubectl.job("minimal")


def test_kubectl_explains_a_field(kubectl: Kubectl) -> None:
    text = " ".join(kubectl.run("explain", "pj.spec.training.warmupRatio").split())
    assert "warmupRatio is the share of the steps in which the learning rate rises linearly from zero." in text


def test_a_rule_that_costs_too_much_would_be_refused(api_server: ControlPlane, tmp_path: Path) -> None:
    """The server that accepts our CRD does bound what rules may cost."""
    document = json.loads(api_server.kubectl("get", "crd", "peftjobs.peftjob.io", "-o", "json"))
    spec = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    classification = spec["properties"]["task"]["properties"]["sequenceClassification"]
    del classification["properties"]["labels"]["maxItems"]
    file = tmp_path / "crd.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(ClusterError, match="estimated rule cost"):
        api_server.kubectl("replace", "-f", file)


SCALARS = """
[2e-4, 2E3, .5, 1., -1.5e+3, +3, 010, 0o10, 0x1F, 0b11, 1_000, 1:30, 2026-01-01, y, n, Y, N, yes, No, on, OFF, true,
True, ~, null, Null, 08, 1e, 1.2.3, "8", '2e-4', -, +.5, 0, -0, 00, 1__0, 0x, .e3, 0.0, 12e03, 9007199254740993, 3.0,
=, a: b, {a: 1}, [], "", 'no', 0.1e-7, -.5E+2, nul, none, None, NaN, inf, "a\\tb", 'é', "\\u00e9"]
"""


def test_a_file_means_the_same_to_the_launcher_and_to_kubectl(kubectl: Kubectl) -> None:
    manifest = (
        "apiVersion: peftjob.io/v1alpha1\nkind: PeftJob\nmetadata: {name: scalars}\nspec:\n"
        "  baseModel: {uri: hf://a/b}\n  dataset: {train: s3://bucket/a.csv}\n  output: {uri: s3://bucket/out}\n"
        f"  workers: {{podTemplate: {{scalars: {SCALARS.strip()}}}}}\n"
    )
    dry = kubectl.run("apply", "--dry-run=client", "-o", "json", "-f", "-", stdin=manifest)
    theirs = json.loads(dry)["spec"]["workers"]["podTemplate"]["scalars"]
    ours = load_manifest(manifest)["spec"]["workers"]["podTemplate"]["scalars"]
    assert [(x, type(x) is bool) for x in ours] == [(x, type(x) is bool) for x in theirs]
