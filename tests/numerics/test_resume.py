"""A run that was stopped again and again is the run that never was: to the bit on as many ranks, to rounding on others.

Without PEFTJOB_ALL_PAIRS=1 only some pairs of a method and a task are looked at; see `resumed.pairs`.
"""

import json
import math
import os
from collections import Counter
from pathlib import Path

import pytest
import resumed
import torch
from conftest import PATIENCE, Results, run_ranks
from resumed import ATTEMPTS, EVALUATED, EXAMPLES, STEPS, output_of

LOSSES = 1e-4
EVERY = os.environ.get("PEFTJOB_ALL_PAIRS") == "1"
PAIRS = resumed.pairs(every=EVERY)
MOVED = resumed.moved(every=EVERY)
pytestmark = pytest.mark.timeout(5400 if EVERY else 1800)
"""The first test waits for all runs."""
WORLDS = {"alone": 1, "together": 2, "in threes": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, list[Results]]:
    """Return name of a set of runs -> their results on each rank; the sets are done one after the other."""
    results = {}
    for name, planned in resumed.write(folder, every=EVERY).items():
        (folder / f"{name}.json").write_text(json.dumps(planned))
        run_ranks("resuming.py", [str(folder), name], folder, WORLDS[name], PATIENCE + 20 * len(planned))
        results[name] = [torch.load(folder / f"{name}-{WORLDS[name]}-{rank}.pt") for rank in range(WORLDS[name])]
    return results


@pytest.mark.parametrize("name", [*PAIRS, EVALUATED])
def test_a_stopped_run_is_bitwise_the_one_that_never_stopped(
    name: str, runs: dict[str, list[Results]], folder: Path
) -> None:
    for results in runs["together"]:
        straight, stopped = results[f"exact {name}, straight"], results[f"exact {name}"]
        begun = stopped["started after"]
        assert begun == sorted(begun)
        assert begun[0] == 0
        assert len(set(begun)) > 1, "it went on at least once"
        assert len(begun) == (3 if name == EVALUATED else ATTEMPTS)
        assert len(straight["losses"]) == STEPS
        assert len(set(straight["losses"])) > STEPS // 2, "the losses tell steps from each other"
        assert stopped["losses"] == straight["losses"]
        assert stopped["norms"] == straight["norms"]
        assert stopped["evaluations"] == straight["evaluations"]
        assert stopped["adapter"].keys() == straight["adapter"].keys()
        assert all(torch.equal(tensor, straight["adapter"][n]) for n, tensor in stopped["adapter"].items())
    files = [output_of(folder, f"exact {name}{end}") / "adapter_model.safetensors" for end in (", straight", "")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", [*PAIRS, EVALUATED])
def test_who_is_told_to_stop_loses_no_step_and_who_dies_those_since_the_last_checkpoint(
    name: str, runs: dict[str, list[Results]], folder: Path
) -> None:
    run = runs["together"][0][f"exact {name}"]
    words, begun = run["words"], run["started after"]
    for word, step in zip(words[:-1], begun[1:], strict=True):
        assert word == "died" or (f"ended after step {step}, " in word and "saved as " in word)
    assert words[-1] == "done"
    assert ("died" in words) == (name != EVALUATED)
    assert not (output_of(folder, f"exact {name}") / "checkpoints").exists()


@pytest.mark.parametrize("name", [*PAIRS, EVALUATED])
def test_every_sample_is_seen_once_in_each_epoch(name: str, runs: dict[str, list[Results]]) -> None:
    batches = math.ceil(EXAMPLES / 16)
    seen = [results[f"exact {name}"]["samples"] for results in runs["together"]]
    for epoch in range(STEPS // batches):
        steps = range(epoch * batches + 1, (epoch + 1) * batches + 1)
        counts = Counter(sample for rank in seen for step in steps for sample in rank[step])
        assert counts == dict.fromkeys(range(EXAMPLES), 1)


def test_a_stop_in_an_evaluation_loses_no_step(runs: dict[str, list[Results]]) -> None:
    run = runs["together"][0][f"exact {EVALUATED}"]
    assert run["started after"][1] == 4
    assert "ended after step 4, in its evaluation, saved as " in run["words"][0]
    assert [r["step"] for r in run["evaluations"] if r["split"] == "validation"] == [*range(4, STEPS, 4), STEPS]


def test_the_best_step_survives_a_stop(runs: dict[str, list[Results]]) -> None:
    run = runs["together"][0][f"exact {EVALUATED}"]
    losses = {record["step"]: record["metrics"]["loss"] for record in run["evaluations"]}
    best = min(losses, key=losses.__getitem__)
    assert best < run["started after"][-1], "else the last attempt would have found it by itself"


@pytest.mark.parametrize("name", MOVED)
def test_other_ranks_and_shard_groups_go_on_to_rounding(name: str, runs: dict[str, list[Results]]) -> None:
    """One rank, then two with the base in halves, then three with the base in thirds."""
    begun = [runs[gang][0][f"moved {name}"]["started after"] for gang in WORLDS]
    assert [len(each) for each in begun] == [1, 1, 1]
    assert begun == sorted(begun)
    assert begun[1][0] > 0
    straight, moved = (
        runs[gang][0][f"moved {name}{end}"] for gang, end in (("alone", ", straight"), ("in threes", ""))
    )
    assert moved["losses"] == pytest.approx(straight["losses"], rel=LOSSES)
    assert len(moved["losses"]) == STEPS
