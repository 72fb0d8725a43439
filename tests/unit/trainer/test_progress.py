"""What rank 0 tells: /status, /metrics, and lines for people or for log collectors."""

import json
import logging
import math
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from peftjob_api import PlanInfo, WorkerStatus, parse_worker_json
from peftjob_trainer.history import EvalRecord
from peftjob_trainer.progress import Progress, progress_line, serve, status_json
from peftjob_trainer.steps import StepRecord


def step(number: int, loss: float = 0.5) -> StepRecord:
    return StepRecord(number, number / 16, loss, 1.2e-3, 0.1, 812.4, 0.25)


@pytest.fixture
def served() -> Iterator[tuple[Progress, str]]:
    progress = Progress(attempt=3)
    server = serve(progress, 0)
    yield progress, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def test_status_answers_at_any_time_and_as_the_operator_reads_it(served: tuple[Progress, str]) -> None:
    progress, url = served
    assert json.loads(get(f"{url}/status")) == {"phase": "Starting", "attempt": 3, "metrics": {}}
    progress.phase("Training")
    progress.plan(
        PlanInfo(shard_group="Full", ranks=2, base_parameters=8, base_bytes_per_rank=16, trainable_parameters=1)
    )
    progress.step(step(1), 48)
    progress.step(step(2, loss=math.nan), 48)
    progress.evaluation(EvalRecord(2, "validation", {"loss": 0.4, "accuracy": math.nan}))
    status = parse_worker_json(WorkerStatus, get(f"{url}/status"))
    assert status is not None
    assert (status.phase, status.attempt, status.step, status.total_steps) == ("Training", 3, 2, 48)
    assert status.loss is None, "not finite means absent"
    assert status.metrics == {"loss": 0.4}
    assert status.plan is not None
    assert status.eta_seconds is not None
    assert status.updated_at is not None


def test_metrics_are_prometheus_gauges_of_what_is_known(served: tuple[Progress, str]) -> None:
    progress, url = served
    assert "peftjob_step" not in get(f"{url}/metrics")
    progress.step(step(7), 48)
    progress.evaluation(EvalRecord(7, "validation", {"loss": 0.4, "macroF1": 0.9}))
    text = get(f"{url}/metrics")
    assert "# TYPE peftjob_step gauge" in text
    assert "peftjob_step 7.0" in text
    assert "peftjob_total_steps 48.0" in text
    assert 'peftjob_evaluation{metric="macroF1"} 0.9' in text


def test_any_other_path_names_those_that_there_are(served: tuple[Progress, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{served[1]}/")
    with refused.value as answer:
        assert answer.code == 404
        assert "/status" in answer.reason


def test_lines_come_every_so_many_steps_the_first_and_the_last(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(talks=True, log_every=10)
    with caplog.at_level(logging.INFO, logger="peftjob_trainer"):
        for number in range(1, 26):
            progress.step(step(number), 25)
    assert [record.getMessage().split("/")[0] for record in caplog.records] == [
        "step 1",
        "step 10",
        "step 20",
        "step 25",
    ]
    assert caplog.records[-1].getMessage() == "step 25/25  loss 0.5000  lr 1.20e-03  812 tokens/s  eta 0.0s"


def test_json_lines_are_the_workers_status(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(talks=True, log_format="JSON")
    progress.step(step(1), 2)
    progress.evaluation(EvalRecord(1, "validation", {"loss": 0.25}))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    status = parse_worker_json(WorkerStatus, lines[-1])
    assert status is not None
    assert (status.step, status.metrics) == (1, {"loss": 0.25})


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    for log_format in ("Text", "JSON"):
        with caplog.at_level(logging.INFO, logger="peftjob_trainer"):
            Progress(log_format=log_format).step(step(1), 2)
    assert not caplog.records
    assert not capsys.readouterr().out


def test_the_time_left_is_that_of_steps_at_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("peftjob_trainer.progress.time.monotonic", lambda: now[0])
    progress = Progress()
    progress.step(step(1), 11)
    assert progress.status.eta_seconds is None, "the first step is no measure"
    now[0] = 104.0
    progress.step(step(3), 11)
    assert progress.status.eta_seconds == 16.0
    assert "eta 16.0s" in progress_line(progress.status)
    progress.step(step(11), 11)
    assert progress.status.eta_seconds == 0.0


def test_a_status_of_numbers_that_json_does_not_know_is_json() -> None:
    odd = WorkerStatus.model_construct(phase="Training", loss=math.inf, metrics={"loss": math.nan}, step=3)
    assert json.loads(status_json(odd), parse_constant=pytest.fail) == {"phase": "Training", "metrics": {}, "step": 3}
