"""`python -m peftjob_trainer.launch job.yaml` as a user runs it: two processes, files in and out; what goes wrong."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import ENVIRONMENT, Launch, Launched
from peftjob_api import (
    JobIdentity,
    PeftJobSpec,
    RunConfig,
    TerminationMessage,
    WorkerStatus,
    constants,
    parse_worker_json,
)
from peftjob_cluster.children import free_ports

LABEL_ACCURACY = 3  # decimals


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny.write_bert(folder / "bert")
    tiny.write_bert(folder / "poisoned", poisoned=True)
    tiny.write_classified(folder / "train.jsonl", 96)
    tiny.write_classified(folder / "validation.jsonl", 30, seed=5)
    tiny.write_classified(folder / "test.jsonl", 41, seed=6)
    return folder


@pytest.fixture(scope="module")
def job(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return a builder of classifiers' jobs, each with an output of its own."""

    def build(model: str = "bert", **spec: Any) -> dict[str, Any]:
        output = {"uri": f"file://{tmp_path_factory.mktemp('output')}/adapter"}
        return tiny.job(
            inputs, model=model, train="train.jsonl", kind="SequenceClassification", **{"output": output, **spec}
        )

    return build


@pytest.fixture(scope="module")
def finished(
    job: Callable[..., dict[str, Any]], inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Launched, dict[str, Any]]:
    body = job(
        training={"learningRate": 1e-2, "maxSteps": 60},
        dataset={"validation": f"file://{inputs}/validation.jsonl", "test": f"file://{inputs}/test.jsonl"},
    )
    launched = Launched(tmp_path_factory.mktemp("finished"), body)
    try:
        assert launched.wait() == 0, launched.log
    finally:
        launched.kill()
    return launched, body


def adapter_of(body: dict[str, Any]) -> Path:
    return Path(body["spec"]["output"]["uri"].removeprefix("file://"))


def left_at(body: dict[str, Any]) -> list[str]:
    """Return the files at a job's output, but for the lock of a store on a file system."""
    return [path.name for path in adapter_of(body).glob("*") if path.name != ".peftjob-lock"]


def wait_for_step(launched: Launched, step: int) -> None:
    """Wait until a run has made so many steps."""
    wait_for(launched, f"step {step}/")


def wait_for(launched: Launched, words: str) -> None:
    """Wait until a run has said some words."""
    deadline = time.monotonic() + 240
    while words not in launched.log:
        assert launched.process.poll() is None, launched.log
        assert time.monotonic() < deadline, launched.log
        time.sleep(0.1)


def test_it_publishes_what_the_manifest_lists(finished: tuple[Launched, dict[str, Any]]) -> None:
    launched, body = finished
    folder = adapter_of(body)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert {
        "adapter_model.safetensors", "adapter_config.json", "README.md", "report.html", "metrics.json", "labels.json",
        "tokenizer.json",
    } <= set(files)  # fmt: skip
    for name, entry in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"], name
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == body["spec"]["baseModel"]["uri"]
    last = launched.last_word()
    assert last["adapter"]["sha256"] == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert last["reason"] == "AdapterPublished"
    assert last["status"]["phase"] == "Done"
    assert last["status"]["step"] == last["status"]["totalSteps"] == 60
    assert last["status"]["plan"]["ranks"] == 2
    counts = {"trainExamples": 96, "validationExamples": 30, "testExamples": 41}
    assert last["status"]["data"] == {**counts, "truncatedExamples": 0, "skippedRows": 0}
    data = json.loads((folder / "metrics.json").read_text())["data"]
    assert [split["examples"] for split in data.values()] == list(counts.values())
    assert len(data["train"]["samples"]) == 3


def test_metrics_and_report_say_how_much_of_the_base_was_alive(finished: tuple[Launched, dict[str, Any]]) -> None:
    folder = adapter_of(finished[1])
    base = json.loads((folder / "metrics.json").read_text())["baseBytes"]
    assert base["partition"] < base["peak"] <= 0.55 * base["whole"] + 2 * base["largestBlock"]
    assert "Base alive in a step" in (folder / "report.html").read_text()


def test_the_log_can_be_read_by_a_person(finished: tuple[Launched, dict[str, Any]]) -> None:
    log = finished[0].log
    assert "step 60/60  loss " in log
    assert "tokens/s" in log
    assert "test: loss" in log
    for noise in ("Traceback", "Warning", "DeepSpeed", "gcc"):
        assert noise not in log, log


# peft 0.21 asks transformers 5.23 by a name that the latter deprecates.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_plain_peft_measures_what_metrics_json_says(finished: tuple[Launched, dict[str, Any]], inputs: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = adapter_of(finished[1])
    labels = json.loads((folder / "labels.json").read_text())
    base = AutoModelForSequenceClassification.from_pretrained(inputs / "bert", num_labels=len(labels))
    model = PeftModel.from_pretrained(base, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    told = json.loads((folder / "metrics.json").read_text())
    for split in ("validation", "test"):
        rows = [json.loads(line) for line in (inputs / f"{split}.jsonl").read_text().splitlines()]
        batch = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
        truth = torch.tensor([labels.index(row["label"]) for row in rows])
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        accuracy = float((logits.argmax(-1) == truth).float().mean())
        assert accuracy > float(truth.bincount().max()) / len(truth), "it has learned something"
        loss = float(torch.nn.functional.cross_entropy(logits, truth))
        assert round(accuracy, LABEL_ACCURACY) == round(told[split]["accuracy"], LABEL_ACCURACY), split
        assert loss == pytest.approx(told[split]["loss"], rel=1e-4), split


def test_a_second_run_finds_the_adapter_and_trains_nothing(
    finished: tuple[Launched, dict[str, Any]], launch: Launch, tmp_path: Path
) -> None:
    first, body = finished
    again = launch(tmp_path, body)
    assert again.wait(30) == 0, again.log
    assert again.last_word()["adapter"] == first.last_word()["adapter"]
    assert "nothing was trained" in again.log


def test_another_job_is_refused_the_same_output_at_once(
    finished: tuple[Launched, dict[str, Any]], launch: Launch, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in adapter_of(finished[1]).iterdir())
    other = launch(tmp_path, job(output=finished[1]["spec"]["output"], training={"maxSteps": 2}))
    assert other.wait(30) == 78, other.log
    assert other.last_word()["reason"] == "OutputOccupied"
    assert sorted((p.name, p.stat().st_mtime_ns) for p in adapter_of(finished[1]).iterdir()) == before


LONG = {"maxSteps": 100000, "batchSize": 4}


def test_sigterm_ends_all_ranks_after_a_step(
    launch: Launch, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    body = job(training=LONG)
    launched = launch(tmp_path, body)
    wait_for_step(launched, 3)
    os.kill(launched.process.pid, signal.SIGTERM)
    assert launched.wait(30) == 75, launched.log
    last = launched.last_word()
    assert last["reason"] == "Interrupted"
    assert "ended after step" in last["message"]
    step = last["status"]["checkpoint"]["step"]
    assert step == last["status"]["step"] >= 3
    assert launched.ranks() == {}
    again = launch(tmp_path / "again", body)
    wait_for_step(again, step + 1)
    assert f"going on after step {step}, from " in again.log
    assert f"step {step}/" not in again.log


def test_a_killed_run_goes_on_to_the_very_same_adapter(
    finished: tuple[Launched, dict[str, Any]], launch: Launch, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Launcher and ranks die at once, as with their node, in some step after a checkpoint."""
    spec = {**finished[1]["spec"], "checkpoint": {"everySteps": 3}}
    body = {**finished[1], "spec": {**spec, "output": job()["spec"]["output"]}}
    first = launch(tmp_path / "first", body)
    wait_for(first, "checkpoint of step ")
    first.process.kill()
    assert first.wait() == -signal.SIGKILL
    again = launch(tmp_path / "again", body)
    assert again.wait() == 0, again.log
    assert "going on after step " in again.log
    files = [adapter_of(each) / "adapter_model.safetensors" for each in (finished[1], body)]
    assert files[0].read_bytes() == files[1].read_bytes()
    told = [json.loads((adapter_of(each) / "metrics.json").read_text()) for each in (finished[1], body)]
    assert [s["loss"] for s in told[0]["history"]["steps"]] == [s["loss"] for s in told[1]["history"]["steps"]]
    assert not (adapter_of(body) / "checkpoints").exists()


def test_a_checkpoint_of_other_data_is_refused_and_stays(
    launch: Launch, job: Callable[..., dict[str, Any]], inputs: Path, tmp_path: Path
) -> None:
    """The training data is replaced where it lies between two attempts; the right data again, and it goes on."""
    data = tmp_path / "train.jsonl"
    lines = (inputs / "train.jsonl").read_text().splitlines(keepends=True)
    data.write_text("".join(lines))
    body = job(training=LONG)
    body["spec"]["dataset"]["train"] = f"file://{data}"
    first = launch(tmp_path / "first", body)
    wait_for_step(first, 2)
    os.kill(first.process.pid, signal.SIGTERM)
    assert first.wait(30) == 75, first.log
    before = sorted((adapter_of(body) / "checkpoints").rglob("*"))
    data.write_text("".join(lines[:-1]))
    other = launch(tmp_path / "other", body)
    assert other.wait() == 65, other.log
    assert other.last_word()["reason"] == "CheckpointUnsuitable"
    assert "examples of dataset.train was" in other.last_word()["message"]
    assert sorted((adapter_of(body) / "checkpoints").rglob("*")) == before != []
    data.write_text("".join(lines))
    again = launch(tmp_path / "again", body)
    wait_for(again, "going on after step ")


def test_sigterm_reaches_one_rank_and_all_agree(
    launch: Launch, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """As when one pod of a gang is drained."""
    launched = launch(tmp_path, job(training=LONG))
    wait_for_step(launched, 3)
    os.kill(launched.ranks()[1], signal.SIGTERM)
    assert launched.wait(30) == 75, launched.log
    assert launched.last_word()["reason"] == "Interrupted"


def test_a_killed_rank_ends_the_others_and_is_named(
    launch: Launch, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    launched = launch(tmp_path, job(training=LONG))
    wait_for_step(launched, 3)
    os.kill(launched.ranks()[1], signal.SIGKILL)
    killed_at = time.monotonic()
    assert launched.wait(30) == 137, launched.log
    assert time.monotonic() - killed_at < 15
    last = launched.last_word()
    assert last["reason"] == "InternalError"
    assert last["rank"] == 1
    assert "rank 1 was killed by SIGKILL" in last["message"]
    assert launched.ranks() == {}
    assert last["status"]["checkpoint"]["step"] == last["status"]["step"], "rank 0 saved what was done"


SOON = {constants.ENV_HANG_SECONDS: "20"}
"""No sign of life for a quarter of this is a hang."""


def test_a_stopped_rank_is_named_and_ends_the_others(
    launch: Launch, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Rank 0, which holds the store over which the others would hear of it."""
    launched = launch(tmp_path, job(training=LONG), **SOON)
    wait_for_step(launched, 5)
    os.kill(launched.ranks()[0], signal.SIGSTOP)
    assert launched.wait(60) == 70, launched.log
    last = launched.last_word()
    assert (last["reason"], last["rank"]) == ("Hang", 1)
    assert "rank 0 answers no more: its process or its node is stopped or starved" in last["message"]
    assert "Current thread" in launched.log, "the stacks of what waited"
    assert "in forward_backward" in launched.log or "in reduce" in launched.log or "in sum" in launched.log
    assert launched.ranks() == {}


def test_ranks_die_with_a_killed_launcher(launch: Launch, job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    launched = launch(tmp_path, job(training=LONG))
    wait_for_step(launched, 1)
    ranks = list(launched.ranks().values())
    assert len(ranks) == 2
    launched.process.kill()
    launched.process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and alive(pid) for pid in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Say whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_loss_that_is_not_finite_ends_all_ranks_with_its_step(
    launch: Launch, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    body = job(model="poisoned")
    launched = launch(tmp_path, body)
    assert launched.wait() == 64, launched.log
    last = launched.last_word()
    assert last["reason"] == "NonFiniteLoss"
    assert "at step 3, the last of 3 in a row; its batch: examples " in last["message"]
    assert "step 1 is skipped: the loss is nan; its batch: examples " in launched.log
    assert left_at(body) == [], "the claim was taken back"


def test_a_missing_column_is_named_without_a_traceback(
    launch: Launch, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    launched = launch(tmp_path, job(dataset={"columns": {"label": "rating"}}))
    assert launched.wait() == 65, launched.log
    last = launched.last_word()
    assert last["reason"] == "DatasetColumnMissing"
    assert "no column 'rating'" in last["message"]
    assert "spec.dataset.columns.label" in launched.log
    assert "Traceback" not in launched.log


POD = "import sys, peftjob_trainer.launch as l; l.RENDEZVOUS_PORT, l.STATUS_PORT = {ports}; l.end_process(l.main([]))"
StartPod = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_pod(tmp_path: Path) -> Iterator[StartPod]:
    """Return what starts a worker pod's launcher, whose last word goes into the test's folder; none outlives it."""
    pods: list[subprocess.Popen[str]] = []

    def start(
        config: Path, node: int, attempt: int, ports: list[int], cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        pod = subprocess.Popen(
            [sys.executable, "-c", POD.format(ports=tuple(ports))],
            env={
                **ENVIRONMENT,
                **SOON,
                "GLOO_SOCKET_IFNAME": "lo",
                constants.ENV_RUN_CONFIG: str(config),
                constants.ENV_NODE_RANK: str(node),
                constants.ENV_ATTEMPT: str(attempt),
                constants.ENV_GANG: f"pod-{attempt}-{node}",
                constants.ENV_MASTER_ADDR: "localhost",
                constants.ENV_CPU_LIMIT: "1",
                constants.ENV_TERMINATION_PATH: str(tmp_path / f"termination-{attempt}-{node}"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
        )
        pods.append(pod)
        return pod

    yield start
    for pod in pods:
        for pid in (*children(pod.pid), pod.pid) if pod.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        with pod:
            pass  # waits, and closes its pipe


def test_pods_that_see_different_data_end_before_they_train(
    job: Callable[..., dict[str, Any]], start_pod: StartPod, inputs: Path, tmp_path: Path
) -> None:
    """A path that is another folder for each of them, as a volume of each node's own would be."""
    lines = (inputs / "train.jsonl").read_text().splitlines(keepends=True)
    for node in (0, 1):
        (tmp_path / f"node-{node}").mkdir()
        (tmp_path / f"node-{node}" / "train.jsonl").write_text("".join(lines[: len(lines) - node]))
    spec = {**job()["spec"], "workers": {"nodes": 2, "processesPerNode": 1}}
    spec["dataset"] = {**spec["dataset"], "train": "file:///proc/self/cwd/train.jsonl"}
    identity = JobIdentity(namespace="team", name="tiny", uid="uid-2")
    config = tmp_path / "run.json"
    config.write_text(RunConfig.of(identity, PeftJobSpec.model_validate(spec)).to_json())
    ports = free_ports(2)
    pods = [start_pod(config, node, 1, ports, tmp_path / f"node-{node}") for node in (0, 1)]
    logs = [pod.communicate(timeout=240)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [65, 65], "\n".join(logs)
    for node in (0, 1):
        last = json.loads((tmp_path / f"termination-1-{node}").read_text())
        assert last["reason"] == "DatasetDiffers"
        assert "node 1 has read other train data than node 0" in last["message"]


def test_a_pod_that_freezes_is_named_by_the_others_and_ends_when_told(
    job: Callable[..., dict[str, Any]], start_pod: StartPod, tmp_path: Path
) -> None:
    """All its processes at once, as on a node that stands still; then its rank only, as the Job controller ends it."""
    spec = {**job()["spec"], "workers": {"nodes": 2, "processesPerNode": 1}}
    spec["training"] = {**spec["training"], **LONG}
    config = tmp_path / "run.json"
    identity = JobIdentity(namespace="team", name="tiny", uid="uid-3")
    config.write_text(RunConfig.of(identity, PeftJobSpec.model_validate(spec)).to_json())
    ports = free_ports(2)
    pods = [start_pod(config, node, 1, ports) for node in (0, 1)]
    assert pods[0].stdout is not None
    while "step 5/" not in (line := pods[0].stdout.readline()):
        assert line, "it has ended"
    (rank,) = children(pods[1].pid)
    for pid in (pods[1].pid, rank):
        os.kill(pid, signal.SIGSTOP)
    log = pods[0].communicate(timeout=180)[0]
    assert pods[0].returncode == 70, log
    last = json.loads((tmp_path / "termination-1-0").read_text())
    assert (last["reason"], last["rank"]) == ("Hang", 0)
    assert f"no sign of life from rank 1 (on {socket.gethostname()}) " in last["message"]
    os.kill(pods[1].pid, signal.SIGCONT)
    os.kill(pods[1].pid, signal.SIGTERM)
    log = pods[1].communicate(timeout=15)[0]
    assert pods[1].returncode in (71, 75), log


def test_two_pods_train_as_the_operator_starts_them(
    job: Callable[..., dict[str, Any]], start_pod: StartPod, tmp_path: Path
) -> None:
    """Each with a launcher of its own; node 0 answers the operator; a next attempt finds the result."""
    spec = {**job()["spec"], "workers": {"nodes": 2, "processesPerNode": 1, "logFormat": "JSON"}}
    spec["training"] = {**spec["training"], "maxSteps": 60}
    identity = JobIdentity(namespace="team", name="tiny", uid="uid-1")
    config = tmp_path / "run.json"
    config.write_text(RunConfig.of(identity, PeftJobSpec.model_validate(spec)).to_json())
    ports = free_ports(2)

    def start(node: int, attempt: int) -> subprocess.Popen[str]:
        return start_pod(config, node, attempt, ports)

    def word(attempt: int, node: int) -> TerminationMessage:
        found = parse_worker_json(TerminationMessage, (tmp_path / f"termination-{attempt}-{node}").read_bytes())
        assert found is not None
        return found

    pods = [start(node, 1) for node in (0, 1)]
    phases = set()
    while pods[0].poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/status") as answer:
            status = parse_worker_json(WorkerStatus, answer.read())
            assert status is not None
            phases.add(status.phase)
        time.sleep(0.05)
    logs = [pod.communicate(timeout=60)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], "\n".join(logs)
    assert "Training" in phases
    lines = [parse_worker_json(WorkerStatus, line) for line in logs[0].splitlines() if line.startswith("{")]
    assert [line.step for line in lines if line] == list(range(1, 61))
    first = word(1, 0)
    assert first.adapter is not None
    assert first.status is not None
    assert (first.status.phase, first.status.step, first.status.attempt) == ("Done", 60, 1)
    assert word(1, 1).adapter is None

    again = [start(node, 2) for node in (0, 1)]
    logs = [pod.communicate(timeout=60)[0] for pod in again]
    assert [pod.returncode for pod in again] == [0, 0], "\n".join(logs)
    assert word(2, 0).adapter == first.adapter
