"""Real training whose output goes away: steps go on, the finished adapter waits, and nothing is trained twice."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peftjob_cluster.s3 import S3Server
from peftjob_testkit.s3_proxy import S3Proxy
from peftjob_trainer.storage import open_store

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests/numerics"))

import tiny  # noqa: E402 (after the path)

STEPS = 24


class Launched:
    """A launcher that trains on this machine."""

    def __init__(self, path: Path, body: dict[str, Any]) -> None:
        path.with_suffix(".yaml").write_text(json.dumps(body))
        self._log = path.with_suffix(".log")
        command = [sys.executable, "-m", "peftjob_trainer.launch", str(path.with_suffix(".yaml"))]
        python_path = os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer"))
        environment = {**os.environ, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until the log has a text."""
        until = time.monotonic() + 240
        while text not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.05)


@pytest.fixture
def launch(
    s3: S3Server, credentials: None, proxy: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Launched]]:
    """Return a function that trains with an output behind the proxy; what is left is killed at the end."""
    tiny.write_bert(tmp_path / "bert")
    tiny.write_classified(tmp_path / "train.jsonl", 96)
    started: list[Launched] = []

    def start(output: str) -> Launched:
        body = tiny.job(
            tmp_path, model="bert", train="train.jsonl", kind="SequenceClassification", training={"maxSteps": STEPS},
            workers={"processesPerNode": 1}, checkpoint={"everySteps": 5}, output={"uri": output},
            storage={"s3": {"endpoint": proxy.endpoint}},
        )  # fmt: skip
        started.append(Launched(tmp_path / f"run-{len(started)}", body))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[S3Proxy]:
    with S3Proxy(s3) as server:
        yield server


def test_training_goes_on_and_the_finished_adapter_waits(
    launch: Callable[[str], Launched], proxy: S3Proxy, at_endpoint: Callable[[str], Any]
) -> None:
    """The output goes away with the first checkpoint, and is back when the adapter has waited."""
    uri, away = f"s3://adapters/{uuid.uuid4().hex}", [False]

    def fails(number: int, method: str, path: str) -> Any:
        away[0] = away[0] or "checkpoints/step-" in path
        return "refused" if away[0] else None

    proxy.fails = fails
    run = launch(uri)
    run.wait_for("the finished adapter waits")
    proxy.fails = lambda *_: None
    assert run.process.wait(120) == 0, run.log
    assert f"step {STEPS}/{STEPS}" in run.log
    assert "checkpoints wait, and training goes on" in run.log
    assert "the output's store is back after" in run.log
    keys = {o.key for o in open_store(uri, at_endpoint(proxy.endpoint)).list()}
    assert "manifest.json" in keys
    assert not [key for key in keys if key.startswith("checkpoints/")]


def test_who_is_told_to_stop_while_the_adapter_waits_leaves_nothing_to_train(
    launch: Callable[[str], Launched], proxy: S3Proxy
) -> None:
    """The last step is saved before anything is published, so the next gang only publishes."""
    uri = f"s3://adapters/{uuid.uuid4().hex}"
    proxy.fails = lambda number, method, path: "slow down" if "adapter_" in path else None
    run = launch(uri)
    run.wait_for("the finished adapter waits")
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(60) == 75, run.log
    assert "told to stop (SIGTERM) while the finished adapter waited for its output" in run.log
    proxy.fails = lambda *_: None
    again = launch(uri)
    assert again.process.wait(240) == 0, again.log
    assert f"going on after step {STEPS}" in again.log
    assert f"/{STEPS}  loss" not in again.log, "no step is taken again"
