"""Every method learns on a base that is really sharded, as it does by HF Trainer and peft on one that is not."""

from pathlib import Path
from typing import Any

import methods
import pytest
import torch
from methods import EPOCH, PRECISIONS, ROWS, Row, run_name
from peftjob_api import PeftJob
from peftjob_trainer.planning import Inputs, estimate
from safetensors.torch import load_file

LOSSES = 1e-4
GRADIENTS = 1e-5
ALL = [pytest.param(row, precision, id=run_name(row, precision)) for row in ROWS for precision in PRECISIONS]
COMPARED = [pytest.param(row, id=row.name) for row in ROWS if row.compared]


@pytest.mark.parametrize(("row", "precision"), ALL)
def test_the_loss_falls(row: Row, precision: str, adapted: Any) -> None:
    losses = adapted[0][run_name(row, precision)]["losses"]
    assert len(losses) == methods.STEPS
    assert sum(losses[-EPOCH:]) < methods.FALLEN * sum(losses[:EPOCH])


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
def test_a_bf16_base_costs_no_more_than_its_digits(row: Row, adapted: Any) -> None:
    exact, rounded = (adapted[0][run_name(row, precision)]["losses"] for precision in PRECISIONS)
    assert rounded == pytest.approx(exact, rel=0.02)


def assert_sharded(name: str, adapted: Any) -> None:
    """Check that a run's base was in two halves, no part of which stayed whole after it was computed with."""
    for rank, results in enumerate(adapted):
        run = results[name]
        assert run["gathered"] == []
        assert run["plan"]["baseBytesPerRank"] == pytest.approx(run["whole"] / 2, rel=0.01)
        frozen = {parameter for parameter, ranks in run["groups"].items() if ranks is not None}
        assert run["groups"].keys() - frozen == run["adapter"].keys(), "what is trained and the base are all there is"
        if rank == 0:  # which measures
            seen = run["base"]
            assert seen["partition"] < seen["peak"] <= seen["partition"] + seen["largest_block"]


@pytest.mark.parametrize(("row", "precision"), ALL)
def test_the_base_is_sharded_and_stays_so(row: Row, precision: str, adapted: Any) -> None:
    assert_sharded(run_name(row, precision), adapted)


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore:Specified to not save vera_A")
@pytest.mark.parametrize(("row", "precision"), ALL)
def test_the_plan_on_paper_is_of_the_same_parameters(row: Row, precision: str, adapted: Any, method_runs: Path) -> None:
    spec = PeftJob.model_validate(methods.job(method_runs, row, precision, "CausalLM")).spec
    demand = estimate(spec, Inputs(method_runs / row.base, 0, torch.float32))
    plan = adapted[0][run_name(row, precision)]["plan"]
    assert (demand.trained, demand.base_parameters) == (plan["trainableParameters"], plan["baseParameters"])
    assert not demand.is_rough, "its activations are counted, not guessed"


@pytest.mark.parametrize(("row", "precision"), ALL)
def test_what_is_trained_is_fp32_and_the_same_on_all_ranks(row: Row, precision: str, adapted: Any) -> None:
    ours, other = (results[run_name(row, precision)] for results in adapted)
    assert {tensor.dtype for tensor in ours["adapter"].values()} == {torch.float32}
    assert all(torch.equal(tensor, other["adapter"][name]) for name, tensor in ours["adapter"].items())
    as_before = [name for name, tensor in ours["adapter"].items() if torch.equal(tensor, ours["initial"][name])]
    assert not [name for name in as_before if ours["adapter"][name].any()], "all is trained, or AdaLoRA took it away"


@pytest.mark.parametrize("row", COMPARED)
def test_training_is_that_of_hf_trainer_and_peft(row: Row, adapted: Any, plain_peft: Any) -> None:
    ours, theirs = (results[run_name(row, "FP32")] for results in (adapted[0], plain_peft))
    assert len(theirs["losses"]) == methods.COMPARED_STEPS
    for own, other in zip(ours["losses"], theirs["losses"], strict=False):
        assert own == pytest.approx(other, rel=LOSSES)
    assert ours["gradients"].keys() == theirs["gradients"].keys()
    for name, gradient in ours["gradients"].items():
        assert float((gradient - theirs["gradients"][name]).abs().max()) <= GRADIENTS, name
    assert max(float(gradient.abs().max()) for gradient in ours["gradients"].values()) > 1e-3


@pytest.mark.parametrize("row", COMPARED)
def test_plain_peft_finds_the_published_adapter_as_good_as_we_did(row: Row, adapted: Any, plain_peft: Any) -> None:
    name = run_name(row, "FP32")
    ours, theirs = adapted[0][name], plain_peft[name]["metrics"]
    assert ours["published"].keys() == theirs.keys()
    for metric, value in ours["published"].items():
        assert value == pytest.approx(theirs[metric], abs=5e-4), metric
    assert ours["published"]["loss"] != pytest.approx(ours["losses"][0], rel=0.02), "it is not that of the base"


@pytest.mark.parametrize("row", COMPARED)
def test_the_adapters_file_holds_what_was_trained(row: Row, adapted: Any, method_runs: Path) -> None:
    name = run_name(row, "FP32")
    file = method_runs / f"saved-{name}-0" / "adapter_model.safetensors"
    trained = sum(tensor.numel() for tensor in adapted[0][name]["adapter"].values())
    held = sum(tensor.numel() for tensor in load_file(file).values())
    assert 0 < held <= trained * row.file_ratio
    assert 4 * held < file.stat().st_size < 4 * held + 200 * len(load_file(file)) + 1000
