"""A run that was stopped twice is the run that never stopped: to the bit on as many ranks, to rounding on others."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from conftest import Results, run_ranks

STEPS = 30
LOSSES = 1e-4
EXACT = ("dropout", "adalora", "prompt", "head-and-best", "modules-whole")


IN_AN_EVALUATION = [4, 12, None]
"""Stops of a run that evaluates after every four steps: whether one is due is asked before each step and batch."""


def plan(folder: Path) -> dict[str, dict[str, Any]]:
    """Return name of a run -> its PeftJob, less output and workers."""
    lora = {"type": "LoRA", "lora": {"rank": 4, "dropout": 0.3}}
    adalora = {"rank": 2, "initialRank": 4, "allocateEverySteps": 3, "orthogonality": 0.05, "dropout": 0.1}
    clm = {"model": "llama", "kind": "CausalLM", "train": "completions.jsonl"}
    cls = {"model": "bert", "kind": "SequenceClassification", "train": "classes.jsonl"}
    evaluation = {"everySteps": 4, "metric": "Loss"}
    return {
        EXACT[0]: tiny.job(folder, **clm, method=lora, training={"maxSteps": STEPS, "microBatchSize": 4}),
        EXACT[1]: tiny.job(
            folder,
            **clm,
            method={"type": "AdaLoRA", "adalora": adalora},
            training={"maxSteps": STEPS, "learningRate": 1e-2},
            sharding="Replicate",
        ),
        EXACT[2]: tiny.job(
            folder,
            **clm,
            method={"type": "PromptTuning", "promptTuning": {"virtualTokens": 8}},
            training={"maxSteps": STEPS, "learningRate": 0.2},
        ),
        # Its best step comes before the last one; it is stopped while it evaluates, too.
        EXACT[3]: tiny.job(
            folder,
            **cls,
            method=lora,
            training={"maxSteps": STEPS, "learningRate": 0.03, "schedule": "Constant", "evaluation": evaluation},
            dataset={"validation": f"file://{folder}/validation.jsonl"},
            sharding="Replicate",
        ),
        EXACT[4]: tiny.job(
            folder, **clm, method={**lora, "modulesToSave": ["norm", "lm_head"]}, training={"maxSteps": STEPS}
        ),
        "moved": tiny.job(folder, **clm, training={"maxSteps": STEPS}),
    }


def placed(body: dict[str, Any], output: Path, **spec: Any) -> dict[str, Any]:
    """Return a job with an output, and workers of its own."""
    return {**body, "spec": {**body["spec"], "output": {"uri": f"file://{output}"}, **spec}}


def stops(job: dict[str, Any], chance: random.Random) -> list[int | None]:
    """Return how often each of three attempts asks whether it is to stop before it is."""
    if "evaluation" in job["spec"]["training"]:
        return IN_AN_EVALUATION
    first = chance.randrange(2, STEPS // 2)
    return [first, chance.randrange(1, STEPS - first - 3), None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("resume")
    tiny.write_llama(made / "llama", spread=0.1)
    tiny.write_bert(made / "bert", spread=0.1)
    tiny.write_completions(made / "completions.jsonl", 45)
    tiny.write_classified(made / "classes.jsonl", 45)
    tiny.write_classified(made / "validation.jsonl", 21, seed=5)
    return made


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, list[Results]]:
    """Return name of a set of runs -> their results on each rank, done one after the other."""
    jobs, chance = plan(folder), random.Random(20)
    one = {"workers": {"processesPerNode": 1}, "sharding": "Replicate"}
    moved, out = jobs.pop("moved"), folder / "moved"
    sets: list[tuple[str, int, dict[str, Any]]] = [
        ("alone", 1, {
            "straight": {"job": placed(moved, folder / "straight", **one), "stops": [None]},
            "moved": {"job": placed(moved, out, **one), "stops": [8]},
        }),
        ("together", 2, {
            "moved": {"job": placed(moved, out), "stops": [7]},
            **{name: {"job": placed(job, folder / name), "stops": [None]} for name, job in jobs.items()},
            **{f"{name}-stopped": {"job": placed(job, folder / f"{name}-stopped"), "stops": stops(job, chance)}
               for name, job in jobs.items()},
        }),
        ("alone again", 1, {"moved": {"job": placed(moved, out, **one), "stops": [None]}}),
    ]  # fmt: skip
    results = {}
    for name, world, planned in sets:
        (folder / f"{name}.json").write_text(json.dumps(planned))
        run_ranks("resuming.py", [str(folder), name], folder, world)
        results[name] = [torch.load(folder / f"{name}-{world}-{rank}.pt") for rank in range(world)]
    return results


@pytest.mark.parametrize("name", EXACT)
def test_a_stopped_run_is_bitwise_the_one_that_never_stopped(
    name: str, runs: dict[str, list[Results]], folder: Path
) -> None:
    for rank, results in enumerate(runs["together"]):
        straight, stopped = results[name], results[f"{name}-stopped"]
        assert stopped["started after"][0] == 0
        assert 0 < stopped["started after"][1] < stopped["started after"][2] < STEPS, "it was stopped twice"
        assert len(straight["losses"]) == STEPS
        assert len(set(straight["losses"])) > STEPS // 2, "the losses tell steps from each other"
        assert stopped["losses"] == straight["losses"]
        assert stopped["norms"] == straight["norms"]
        assert stopped["evaluations"] == straight["evaluations"]
        assert stopped["adapter"].keys() == straight["adapter"].keys()
        assert all(torch.equal(tensor, straight["adapter"][n]) for n, tensor in stopped["adapter"].items())
        if rank == 0:
            told = [f"ended after step {step}, " in word and "saved as " in word for step, word in
                    zip(stopped["started after"][1:], stopped["words"], strict=False)]  # fmt: skip
            assert told == [True, True]
    files = [folder / which / "adapter_model.safetensors" for which in (name, f"{name}-stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_stop_in_an_evaluation_loses_no_step(runs: dict[str, list[Results]]) -> None:
    run = runs["together"][0]["head-and-best-stopped"]
    assert run["started after"][1] == 4
    assert "ended after step 4, in its evaluation, saved as " in run["words"][0]
    assert [r["step"] for r in run["evaluations"] if r["split"] == "validation"] == [*range(4, STEPS, 4), STEPS]


def test_the_best_step_survives_a_stop(runs: dict[str, list[Results]]) -> None:
    run = runs["together"][0]["head-and-best-stopped"]
    losses = {record["step"]: record["metrics"]["loss"] for record in run["evaluations"]}
    best = min(losses, key=losses.__getitem__)
    assert best < run["started after"][-1], "else the last attempt would have found it by itself"


def test_other_ranks_and_shard_groups_go_on_to_rounding(runs: dict[str, list[Results]]) -> None:
    """One rank, then two with the base in halves, then one again."""
    assert [runs[name][0]["moved"]["started after"] for name in ("alone", "together", "alone again")] == [
        [0],
        [9],
        [17],
    ]
    straight, moved = runs["alone"][0]["straight"]["losses"], runs["alone again"][0]["moved"]["losses"]
    assert moved == pytest.approx(straight, rel=LOSSES)
    assert len(moved) == STEPS


def test_nothing_is_left_at_the_output(runs: dict[str, list[Results]], folder: Path) -> None:
    for name in ("moved", *(f"{name}-stopped" for name in EXACT)):
        assert not (folder / name / "checkpoints").exists()
        assert (folder / name / "manifest.json").exists()
