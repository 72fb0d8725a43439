"""What is wrong with a job is found, each thing by itself; nothing is wrong with one that is right."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from faults.judging import Acceptance, End, Trained, judge, trained
from faults.plans import Fault, Moment, Plan, Shape, Strike

KILL = Strike(Fault.KILL_RANK, Moment.STEP, 4)
PLAN = Plan(7, Shape(2, 1), (KILL, KILL), max_restarts=1)
CLAIM = ".peftjob-claim.json"


def published(weights: bytes = b"weights", loss: float = 0.5) -> dict[str, bytes]:
    """Return the files of a finished job."""
    steps = [{"step": 1, "loss": loss, "gradNorm": 1.0, "seconds": 3.0}]
    metrics = json.dumps({"history": {"steps": steps, "evaluations": [{"step": 1, "metrics": {"loss": loss}}]}})
    files = {"adapter_model.safetensors": weights, "metrics.json": metrics.encode()}
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    manifest = {"attempt": 2, "files": entries}
    claim = {"manifest": manifest, "files": list(files)}
    return {**files, "manifest.json": json.dumps(manifest).encode(), CLAIM: json.dumps(claim).encode()}


def succeeded(files: dict[str, bytes]) -> End:
    """Return the end of a job that published these files."""
    digest = hashlib.sha256(files["manifest.json"]).hexdigest()
    status = {"state": "Succeeded", "attempt": 2, "adapter": {"sha256": digest}}
    return End({"status": status}, files, children=("Job/plan-7-2", "Service/plan-7-workers", "ConfigMap/plan-7-run"))


def failed(reason: str = "InternalError", restarts: int = 1, **files: bytes) -> End:
    """Return the end of a job that gave up."""
    condition = {"type": "Failed", "reason": reason, "message": "why"}
    return End(
        {"status": {"state": "Failed", "attempt": 2, "restartsWithoutProgress": restarts, "conditions": [condition]}},
        files,
    )


MEASURE: Trained = trained(published())
RIGHT = succeeded(published())


def test_a_job_that_came_to_the_same_is_right() -> None:
    assert judge(PLAN, RIGHT, MEASURE) == []
    assert judge(PLAN, failed(), MEASURE) == []


def without(name: str) -> End:
    files = published()
    del files[name]
    return replace(RIGHT, files=files)


WRONG: list[tuple[str, Callable[[], Any]]] = [
    ("did not end", lambda: replace(RIGHT, job=None)),
    ("ended as Running", lambda: replace(RIGHT, job={"status": {"state": "Running", "attempt": 2}})),
    ("the adapter is not the undisturbed", lambda: succeeded(published(weights=b"other"))),
    ("the losses are not", lambda: succeeded(published(loss=0.25))),
    ("the evaluations are not", lambda: succeeded(published(loss=0.25))),
    ("adapter_model.safetensors is not what", lambda: without("adapter_model.safetensors")),
    ("no manifest", lambda: without("manifest.json")),
    ("sha256 is not the manifest's", lambda: replace(RIGHT, files={**published(), "manifest.json": b'{"files": {}}'})),
    ("not the one that was committed", lambda: replace(RIGHT, files={**published(), CLAIM: b"{}"})),
    ("x was left at the output", lambda: replace(RIGHT, files={**published(), "x": b""})),
    ("upload of y was left", lambda: replace(RIGHT, uploads=("y",))),
    ("Job/plan-7-1 is an orphan", lambda: replace(RIGHT, children=("Job/plan-7-1",))),
    ("pod-1 has not ended", lambda: replace(RIGHT, unended=("pod-1",))),
    ("process 17 is still there", lambda: replace(RIGHT, processes=(17,))),
    ("Job/a outlived", lambda: replace(RIGHT, left_after_deletion=("Job/a",))),
    ("ran twice: z", lambda: replace(RIGHT, twice=("z",))),
    (
        "was accepted after",
        lambda: replace(RIGHT, accepted=(Acceptance(2, 2, "b"), Acceptance(1, 1, "a"))),
    ),
    ("had one claim", lambda: replace(RIGHT, accepted=(Acceptance(1, 1, "a"), Acceptance(1, 1, "b")))),
    ("which no fault explains", lambda: failed("InvalidConfig")),
    ("restarts in a row of 1", lambda: failed(restarts=0)),
    ("a manifest lies", lambda: failed(**{"manifest.json": b"{}"})),
    ("the claim knows nothing", lambda: failed(**{"adapter_model.safetensors": b""})),
]


@pytest.mark.parametrize(("words", "end"), WRONG, ids=[words for words, _ in WRONG])
def test_what_is_wrong_is_said(words: str, end: Callable[[], End]) -> None:
    assert any(words in text for text in judge(PLAN, end(), MEASURE)), judge(PLAN, end(), MEASURE)


def test_a_job_with_restarts_left_must_not_fail() -> None:
    patient = replace(PLAN, max_restarts=2)
    assert any("fewer failures" in text for text in judge(patient, failed(restarts=2), MEASURE))


def test_claims_that_follow_each_other_are_right() -> None:
    row = (Acceptance(1, 1, "a"), Acceptance(1, 1, "a"), Acceptance(2, 2, "b"), Acceptance(4, 3, "c"))
    assert judge(PLAN, replace(RIGHT, accepted=row), MEASURE) == []
