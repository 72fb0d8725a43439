"""Steps whose loss is not finite: they change nothing, three in a row go back, and a stopped run does the same."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from conftest import PATIENCE, Results, run_ranks
from peftjob_trainer.order import global_batch

STEPS, BATCH = 24, 4
SKIPPED = (2, 7, 8, 9, 14, 15)
"""Steps that have an example in their batch that is not finite."""
CHECKPOINT_STEPS = 4
GIVEN_UP = (5, 6)
"""Taken after the checkpoint of step 4, and given up after step 9: there is none of step 8."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("skipping")
    tiny.write_llama(made / "llama", spread=0.1, poisonous="q")
    tiny.write_completions(made / "train.jsonl", STEPS * BATCH)
    lines = (made / "train.jsonl").read_text().splitlines(keepends=True)
    for step in SKIPPED:
        poisoned = global_batch(STEPS * BATCH, BATCH, 0, step)[1]
        lines[poisoned] = lines[poisoned].replace('", "completion"', 'q", "completion"')
    (made / "train.jsonl").write_text("".join(lines))
    return made


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[Results]:
    """Return the results of a run that never stops, and of one that stops twice, on both ranks."""
    adalora = {"rank": 2, "initialRank": 4, "allocateEverySteps": 3, "orthogonality": 0.05, "dropout": 0.1}

    def job(name: str) -> dict[str, Any]:
        return tiny.job(
            folder,
            model="llama",
            kind="CausalLM",
            train="train.jsonl",
            method={"type": "AdaLoRA", "adalora": adalora},
            training={"maxSteps": STEPS, "batchSize": BATCH, "learningRate": 1e-2, "seed": 0},
            checkpoint={"everySteps": CHECKPOINT_STEPS},
            output={"uri": f"file://{folder}/{name}"},
        )

    # The first stop is in the midst of steps that are skipped, the second after those that are given up.
    stops = [{"step": 8, "dies": False}, {"step": 11, "dies": False}, None]
    planned = {
        "straight": {"job": job("straight"), "stops": [None]},
        "stopped": {"job": job("stopped"), "stops": stops},
    }
    (folder / "runs.json").write_text(json.dumps(planned))
    run_ranks("resuming.py", [str(folder), "runs"], folder, 2, PATIENCE + 40)
    return [torch.load(folder / f"runs-2-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", ["straight", "stopped"])
def test_such_steps_change_nothing_and_the_third_in_a_row_goes_back(
    name: str, runs: list[Results], folder: Path
) -> None:
    for results in runs:
        run = results[name]
        assert [step for step, loss in enumerate(run["losses"], 1) if not math.isfinite(loss)] == list(SKIPPED)
        assert run["returns"] == [{"at": 9, "to": 4}]
        assert run["updates"] == STEPS - len(SKIPPED) - len(GIVEN_UP)
        assert all(bool(tensor.isfinite().all()) for tensor in run["adapter"].values())
    metrics = json.loads((folder / name / "metrics.json").read_text())
    assert (metrics["skippedSteps"], metrics["returns"]) == (len(SKIPPED), [{"at": 9, "to": 4}])
    assert metrics["history"]["steps"][6]["loss"] is None


def test_a_run_that_was_stopped_meanwhile_is_the_one_that_never_was(runs: list[Results], folder: Path) -> None:
    for results in runs:
        straight, stopped = results["straight"], results["stopped"]
        assert stopped["started after"] == [0, 8, 11]
        for numbers in ("losses", "norms"):
            assert np.array_equal(stopped[numbers], straight[numbers], equal_nan=True)
    files = [folder / name / "adapter_model.safetensors" for name in ("straight", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()
