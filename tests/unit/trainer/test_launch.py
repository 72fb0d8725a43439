"""What the launcher decides before and after its ranks run: assignment, early checks, the last word."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from peftjob_api import (
    AdapterInfo,
    ExitCode,
    JobIdentity,
    PeftJobSpec,
    Reason,
    RunConfig,
    TerminationMessage,
    WorkerStatus,
)
from peftjob_api.constants import (
    CLAIM_NAME,
    ENV_ATTEMPT,
    ENV_GANG,
    ENV_MASTER_ADDR,
    ENV_NODE_RANK,
    ENV_RUN_CONFIG,
    RENDEZVOUS_PORT,
)
from peftjob_trainer.claim import Claim
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.handoff import Go, read_outcome, write_outcome
from peftjob_trainer.launch import (
    Assignment,
    already_published,
    check_accelerators,
    conclude,
    from_environment,
    from_file,
    main,
)
from peftjob_trainer.publish import publish
from peftjob_trainer.ranks import Layout, environment, threads_per_rank
from peftjob_trainer.storage import open_store

JOB = {
    "apiVersion": "peftjob.io/v1alpha1",
    "kind": "PeftJob",
    "metadata": {"name": "sentiment", "namespace": "team"},
    "spec": {
        "baseModel": {"uri": "file:///models/tiny"},
        "dataset": {"train": "file:///data/train.jsonl"},
        "workers": {"nodes": 3, "processesPerNode": 2},
        "output": {"uri": "file:///out/adapter"},
    },
}
IDENTITY = JobIdentity(namespace="team", name="sentiment", uid="uid-1")


def run_config(**spec: object) -> RunConfig:
    return RunConfig.of(IDENTITY, PeftJobSpec.model_validate({**JOB["spec"], **spec}))  # type: ignore[dict-item]


def assignment(
    first: int = 0, count: int = 2, *, is_local: bool = False, attempt: int = 1, gang: str = "g", **spec: object
) -> Assignment:
    return Assignment(run_config(**spec), attempt, gang, Layout(first, count, 6, ("host", 1)), is_local)


@pytest.fixture
def pod(tmp_path: Path) -> dict[str, str]:
    """The environment of the second of three pods."""
    path = tmp_path / "run.json"
    path.write_text(run_config().to_json())
    return {
        ENV_RUN_CONFIG: str(path),
        ENV_NODE_RANK: "1",
        ENV_ATTEMPT: "4",
        ENV_MASTER_ADDR: "sentiment-4-0.sentiment",
        ENV_GANG: "pod-uid",
    }


def test_a_pod_takes_its_nodes_ranks(pod: dict[str, str]) -> None:
    found = from_environment(pod)
    assert list(found.layout.ranks) == [2, 3]
    assert (found.layout.world, found.layout.master) == (6, ("sentiment-4-0.sentiment", RENDEZVOUS_PORT))
    assert (found.attempt, found.gang, found.is_first, found.is_local) == (4, "pod-uid", False, False)
    assert found.run == run_config()


@pytest.mark.parametrize("name", [ENV_ATTEMPT, ENV_MASTER_ADDR, ENV_GANG])
def test_a_pod_without_its_environment_says_what_is_missing(pod: dict[str, str], name: str) -> None:
    del pod[name]
    with pytest.raises(TrainerError, match=name) as refused:
        from_environment(pod)
    assert refused.value.reason is Reason.INVALID_CONFIG


def test_without_a_cluster_and_without_a_file_it_says_how_to_start_it(pod: dict[str, str]) -> None:
    with pytest.raises(TrainerError, match=r"launch job\.yaml"):
        from_environment({**pod, ENV_RUN_CONFIG: "/nonexistent/run.json"})


def test_a_config_of_another_version_is_told(pod: dict[str, str]) -> None:
    Path(pod[ENV_RUN_CONFIG]).write_text('{"job": {}, "spec": {"novelty": 1}}')
    with pytest.raises(TrainerError, match="another version of the operator"):
        from_environment(pod)


def write(path: Path, job: object = JOB) -> Path:
    path.write_text(yaml.safe_dump(job))
    return path


def test_a_file_runs_all_nodes_ranks_here(tmp_path: Path) -> None:
    found = from_file(write(tmp_path / "job.yaml"))
    assert list(found.layout.ranks) == [0, 1, 2, 3, 4, 5]
    assert found.layout.master[0] == "127.0.0.1"
    assert found.is_local
    assert (found.run.job.namespace, found.run.job.name) == ("team", "sentiment")


def test_the_same_file_has_the_same_uid_and_a_changed_one_another(tmp_path: Path) -> None:
    first, again = from_file(write(tmp_path / "a.yaml")), from_file(write(tmp_path / "b.yaml"))
    restarted = from_file(write(tmp_path / "c.yaml", {**JOB, "spec": {**JOB["spec"], "maxRestarts": 9}}))  # type: ignore[dict-item]
    changed = from_file(write(tmp_path / "d.yaml", {**JOB, "spec": {**JOB["spec"], "training": {"seed": 1}}}))  # type: ignore[dict-item]
    assert first.run.job.uid == again.run.job.uid == restarted.run.job.uid
    assert first.run.job.uid != changed.run.job.uid
    assert first.gang != again.gang


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (None, "job.yaml: No such file"),
        ("a: [", "job.yaml: line 1"),
        ("spec: {}", "required"),
        (yaml.safe_dump({**JOB, "spec": {**JOB["spec"], "trainnig": {}}}), "job.yaml: spec.trainnig: unknown field"),  # type: ignore[dict-item]
    ],
    ids=["no file", "no YAML", "no PeftJob", "a misspelt field"],
)
def test_a_bad_file_is_one_readable_line_and_exit_64(
    text: str | None, want: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peftjob_trainer.launch.Signals", lambda: None)
    if text is not None:
        (tmp_path / "job.yaml").write_text(text)
    assert main([str(tmp_path / "job.yaml")]) == ExitCode.BAD_CONFIG
    said = capsys.readouterr().err
    assert want in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("devices", "is_local", "workers", "refused"),
    [
        ([], True, {"gpusPerNode": 2}, True),
        ([], True, {}, True),
        (["nvidiactl"], True, {"gpusPerNode": 2}, False),
        (["kfd"], True, {"gpusPerNode": 2}, False),
        ([], True, {"processesPerNode": 2}, False),
        ([], False, {"gpusPerNode": 2}, False),
    ],
    ids=["none here", "one by default, none here", "nvidia", "amd", "on the CPU", "in a pod PyTorch looks"],
)
def test_gpus_that_are_not_here_are_told_with_the_way_out(
    devices: list[str], is_local: bool, workers: dict[str, int], refused: bool, tmp_path: Path
) -> None:
    for name in devices:
        (tmp_path / name).touch()
    job = assignment(is_local=is_local, workers=workers)
    if not refused:
        check_accelerators(job, tmp_path)
        return
    with pytest.raises(TrainerError, match="processesPerNode") as error:
        check_accelerators(job, tmp_path)
    assert (error.value.reason, error.value.code) == (Reason.INVALID_CONFIG, ExitCode.BAD_CONFIG)


def leave(work: Path, rank: int, reason: Reason, code: int, **fields: object) -> None:
    write_outcome(
        work, rank, TerminationMessage.model_validate({"reason": reason, "message": f"rank {rank} says so",
                                                       "exit_code": code, "rank": rank, **fields})
    )  # fmt: skip


STATUS = WorkerStatus(phase="Training", step=7)


@pytest.mark.parametrize(
    ("codes", "outcomes", "want_code", "want_reason", "want_rank"),
    [
        ({0: 71, 1: 65}, {0: (Reason.LOST_PEER, 71), 1: (Reason.DATASET_EMPTY, 65)}, 65, "DatasetEmpty", 1),
        ({0: 71, 1: -9}, {0: (Reason.LOST_PEER, 71)}, 137, "InternalError", 1),
        ({0: 71, 1: 1}, {}, 1, "InternalError", 1),
        ({0: 71, 1: 71}, {0: (Reason.LOST_PEER, 71), 1: (Reason.LOST_PEER, 71)}, 71, "LostPeer", 0),
        ({0: 75, 1: 71}, {0: (Reason.INTERRUPTED, 75), 1: (Reason.LOST_PEER, 71)}, 75, "Interrupted", 0),
        ({0: 75, 1: 75}, {}, 75, "Interrupted", 0),
        ({0: 75, 1: 71}, {0: (Reason.SUPERSEDED, 75)}, 75, "Superseded", 0),
        ({0: 78, 1: 71}, {0: (Reason.OUTPUT_OCCUPIED, 78)}, 78, "OutputOccupied", 0),
        ({0: -11, 1: 71}, {}, 139, "InternalError", 0),
    ],
    ids=[
        "the one with bad data", "a killed rank", "a rank that could not say why", "only lost peers", "told to stop",
        "told to stop before training", "superseded", "refused", "crashed",
    ],
)  # fmt: skip
def test_the_last_word_is_of_the_rank_that_knows_the_cause(
    codes: dict[int, int], outcomes: dict[int, tuple[Reason, int]], want_code: int, want_reason: str, want_rank: int,
    tmp_path: Path,
) -> None:  # fmt: skip
    for rank, (reason, code) in outcomes.items():
        leave(tmp_path, rank, reason, code, status=STATUS)
    last = conclude(assignment(), codes, tmp_path)
    assert (last.exit_code, last.reason, last.rank) == (want_code, want_reason, want_rank)
    assert last.status == (STATUS if 0 in outcomes else None), "rank 0's, whoever names the cause"
    assert last.message


def test_a_rank_that_the_kernel_killed_for_memory_is_told_as_such(tmp_path: Path) -> None:
    last = conclude(assignment(), {0: 71, 1: -signal.SIGKILL}, tmp_path, killed_for_memory=True)
    assert (last.reason, last.exit_code, last.rank) == ("OutOfMemory", ExitCode.BAD_CONFIG, 1)


def test_an_abort_by_nccl_is_a_lost_peer_and_one_on_the_cpu_is_not(tmp_path: Path) -> None:
    gpus = conclude(assignment(workers={"gpusPerNode": 2}), {0: -signal.SIGABRT, 1: -signal.SIGABRT}, tmp_path)
    cpus = conclude(assignment(), {0: -signal.SIGABRT, 1: 71}, tmp_path)
    assert (gpus.exit_code, cpus.exit_code) == (ExitCode.LOST_PEER, 134)


def test_a_finished_node_tells_the_adapter_if_it_has_rank_0(tmp_path: Path) -> None:
    adapter = AdapterInfo(uri="file:///out/adapter", sha256="0" * 64, size_bytes=3)
    leave(tmp_path, 0, Reason.ADAPTER_PUBLISHED, 0, adapter=adapter, status=STATUS)
    first = conclude(assignment(), {0: 0, 1: 0}, tmp_path)
    assert (first.exit_code, first.adapter, first.status) == (0, adapter, STATUS)
    second = conclude(assignment(first=2), {2: 0, 3: 0}, tmp_path)
    assert (second.exit_code, second.adapter) == (0, None)


def test_a_finished_adapter_is_found_by_every_node_and_a_foreign_file_refused_by_the_first(tmp_path: Path) -> None:
    output = {"uri": f"file://{tmp_path}/adapter"}
    store = open_store(output["uri"], run_config().spec.storage)
    (tmp_path / "made").mkdir()
    (tmp_path / "made/adapter_model.safetensors").write_bytes(b"weights")
    assert already_published(assignment(output=output)) is None
    info = publish(store, output["uri"], Claim.take(store, IDENTITY, 1, "g"), tmp_path / "made", IDENTITY)
    for first in (0, 2):
        assert already_published(assignment(first=first, attempt=2, gang="h", output=output)) == info

    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    foreign = {"uri": f"file://{tmp_path}/other"}
    assert already_published(assignment(first=2, output=foreign)) is None
    with pytest.raises(TrainerError, match=r"notes\.txt") as refused:
        already_published(assignment(output=foreign))
    assert refused.value.reason is Reason.OUTPUT_OCCUPIED


def test_a_released_claim_leaves_the_output_empty_and_one_with_files_stays(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/adapter", run_config().spec.storage)
    Claim.take(store, IDENTITY, 1, "g").release()
    assert store.list() == []
    claim = Claim.take(store, IDENTITY, 1, "g")
    claim.announce(["adapter_model.safetensors"])
    claim.release()
    assert [o.key for o in store.list()] == [CLAIM_NAME]


def test_what_a_rank_needs_arrives_whole(tmp_path: Path) -> None:
    go = Go(run_config(training={"learningRate": 1e-3}), 2, "g", tmp_path, tmp_path / "model", 8080, True)
    line = go.to_line()
    assert line.count(b"\n") == 1
    assert Go.from_line(line) == go


def test_a_rank_that_left_nothing_said_nothing(tmp_path: Path) -> None:
    assert read_outcome(tmp_path, 0) is None


@pytest.mark.parametrize(
    ("limit", "ranks", "want"), [("8", 2, 4), ("1", 4, 1), ("3", 2, 1), (None, 10**6, 1)],
    ids=["shared", "at least one", "rounded down", "without a limit, the machine's"],
)  # fmt: skip
def test_threads(limit: str | None, ranks: int, want: int) -> None:
    assert threads_per_rank(limit, ranks) == want
    assert threads_per_rank(None, 1) == len(os.sched_getaffinity(0))


def test_ranks_get_their_place_and_keep_what_the_user_set() -> None:
    layout = Layout(2, 2, 6, ("host", 29500))
    base = {"NCCL_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "3", "RANK": "99"}
    ours = environment(layout, 3, 4, on_cpu=True, base=base)
    assert (ours["RANK"], ours["LOCAL_RANK"], ours["WORLD_SIZE"]) == ("3", "1", "6")
    assert (ours["MASTER_ADDR"], ours["MASTER_PORT"]) == ("host", "29500")
    assert (ours["NCCL_SOCKET_IFNAME"], ours["OMP_NUM_THREADS"], ours["MKL_NUM_THREADS"]) == ("eth0", "3", "3")
    assert ours["DS_ACCELERATOR"] == "cpu"
    assert "DS_ACCELERATOR" not in environment(layout, 3, 4, on_cpu=False, base={})


def test_the_launcher_imports_no_torch() -> None:
    code = "import sys, peftjob_trainer.launch; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    path = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, timeout=60)
    assert done.returncode == 0


def test_the_termination_message_is_written_where_the_operator_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peftjob_trainer.launch.Signals", lambda: None)
    path = tmp_path / "termination"
    monkeypatch.setenv("PEFTJOB_TERMINATION_PATH", str(path))
    body = {**JOB, "spec": {**JOB["spec"], "workers": {"processesPerNode": 1},  # type: ignore[dict-item]
                            "output": {"uri": f"file://{tmp_path}"}}}  # fmt: skip
    (tmp_path / "notes.txt").write_text("mine")
    assert main([str(write(tmp_path / "job.yaml", body))]) == ExitCode.NOT_PERMITTED
    word = json.loads(path.read_text())
    assert (word["reason"], word["exitCode"]) == ("OutputOccupied", 78)
    assert "spec.output.uri" in word["message"]
