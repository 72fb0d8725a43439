"""Distribution and accumulation change nothing, and the answers are those of HF Trainer."""

from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from safetensors.torch import load_file

LOSSES = 1e-4
GRADIENTS = 1e-5


def worst(ours: list[float], theirs: list[float]) -> float:
    """Return the largest relative difference of two runs' losses."""
    assert len(ours) == len(theirs)
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("name", cases.COMPARED)
def test_one_rank_and_two_ranks_train_the_same(name: str, one: Any, two: Any) -> None:
    single, pair = one[name], two[0][name]
    assert len(single["losses"]) == 20
    assert worst(pair["losses"], single["losses"]) <= LOSSES
    assert max(float(g.abs().max()) for g in single["gradients"].values()) > 0.01
    assert largest_difference(pair["gradients"], single["gradients"]) <= GRADIENTS


@pytest.mark.parametrize("name", cases.COMPARED)
def test_our_loop_trains_as_hf_trainer_does(name: str, one: Any, hf_losses: dict[str, list[float]]) -> None:
    assert worst(one[name]["losses"], hf_losses[name]) <= LOSSES


def test_training_moves_the_loss_by_more_than_the_tolerances(one: Any) -> None:
    """Else the agreements above would say nothing about updates."""
    for name in cases.COMPARED:
        losses = one[name]["losses"]
        assert min(losses) < losses[0] * (1 - 20 * LOSSES), name


def test_adapters_are_bitwise_equal_on_all_ranks(two: Any) -> None:
    for name, result in two[0].items():
        other = two[1][name]["adapter"]
        assert all(torch.equal(result["adapter"][key], other[key]) for key in other), name
        assert not all(torch.equal(result["adapter"][key], result["initial"][key]) for key in other), name


def test_gradient_checkpointing_changes_no_loss(one: Any, two: Any) -> None:
    for results in (one, two[0]):
        assert worst(results["checkpointed"]["losses"], results["completions, at once"]["losses"]) <= 1e-6
        assert worst(results["checkpointed translations"]["losses"], results["translations"]["losses"]) <= 1e-6
        assert worst(results["checkpointed classes"]["losses"], results["classes, at once"]["losses"]) <= 1e-6


def test_packing_changes_no_loss(one: Any, two: Any) -> None:
    for results in (one, two[0]):
        assert worst(results["packed"]["losses"], results["completions, at once"]["losses"]) <= 1e-5
        assert largest_difference(results["packed"]["gradients"], one["completions, at once"]["gradients"]) <= GRADIENTS


def test_images_are_varied_alike_on_any_number_of_ranks(one: Any, two: Any) -> None:
    varied = one["varied images"]
    assert worst(two[0]["varied images"]["losses"], varied["losses"]) <= LOSSES
    assert worst(varied["losses"], one["images"]["losses"]) > 100 * LOSSES, "else nothing is varied"
    assert varied["evaluations"][-1]["metrics"] == pytest.approx(two[0]["varied images"]["evaluations"][-1]["metrics"])


def test_a_bf16_base_of_images_learns(one: Any, two: Any) -> None:
    for results in (one, two[0]):
        exact, rounded = (results[f"varied images{kind}"]["losses"] for kind in ("", ", bf16"))
        assert rounded == pytest.approx(exact, rel=0.02)
        assert sum(rounded[-3:]) < 0.9 * sum(rounded[:3])


def test_dropout_is_a_function_of_seed_step_and_rank(one: Any, two: Any) -> None:
    for results in (one, two[0]):
        first, again = results["dropout"], results["dropout again"]
        assert first["losses"] == again["losses"]
        assert all(torch.equal(first["adapter"][key], again["adapter"][key]) for key in first["adapter"])
    # Dropped were different elements than on one rank, so that ranks do not all drop the same.
    assert largest_difference(one["dropout"]["gradients"], two[0]["dropout"]["gradients"]) > GRADIENTS


def test_a_bf16_base_learns(one: Any, two: Any) -> None:
    for results in (one, two[0]):
        losses = results["bf16"]["losses"]
        assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
        assert {t.dtype for t in results["bf16"]["adapter"].values()} == {torch.float32}
        assert results["bf16"]["whole"] * 2 == pytest.approx(results["classes, at once"]["whole"], rel=0.01)


def test_training_stops_early_and_the_best_steps_adapter_is_kept(one: Any, two: Any) -> None:
    for results in (one, two[0]):
        run = results["early stopping"]
        *during, last = run["evaluations"]
        losses = [record["metrics"]["loss"] for record in during]
        best = losses.index(min(losses))
        assert len(run["losses"]) < 60
        assert len(losses) - 1 - best == 3, "it stops after three evaluations in vain"
        assert last["metrics"] == during[best]["metrics"], "the adapter in the model is the best one's again"
        assert losses[-1] > 1.5 * losses[best]


def test_a_job_continues_from_an_adapter_that_peft_wrote(runs: Path, one: Any, two: Any) -> None:
    before = load_file(runs / "before" / "adapter_model.safetensors")
    for results in (one, *two):
        begun = results["continued"]["initial"]
        assert len(begun) == len(before)
        for name, values in begun.items():
            published = name.replace(".default", "").replace(".modules_to_save", "")
            assert torch.equal(values, before[published]), name
