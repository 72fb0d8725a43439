"""Every method learns on a base that is really sharded, as it does by HF Trainer and peft on one that is not."""

from pathlib import Path
from typing import Any

import methods
import pytest
import torch
from methods import EPOCH, PRECISIONS, ROWS, Row, run_name
from safetensors.torch import load_file

LOSSES = 1e-4
GRADIENTS = 1e-5
ALL = [pytest.param(row, precision, id=run_name(row, precision)) for row in ROWS for precision in PRECISIONS]
COMPARED = [pytest.param(row, id=row.name) for row in ROWS if row.compared]


@pytest.mark.parametrize(("row", "precision"), ALL)
def test_the_loss_falls(row: Row, precision: str, adapted: Any) -> None:
    losses = adapted[0][run_name(row, precision)]["losses"]
    assert len(losses) == methods.STEPS
    assert sum(losses[-EPOCH:]) < 0.95 * sum(losses[:EPOCH])


@pytest.mark.parametrize(("row", "precision"), ALL)
def test_the_base_is_sharded_and_stays_so(row: Row, precision: str, adapted: Any) -> None:
    for rank, results in enumerate(adapted):
        run = results[run_name(row, precision)]
        assert run["gathered"] == []
        partition, whole = run["plan"]["baseBytesPerRank"], run["whole"]
        assert partition == pytest.approx(whole / 2, rel=0.01)
        frozen = {name for name, ranks in run["groups"].items() if ranks is not None}
        assert run["groups"].keys() - frozen == run["adapter"].keys()
        if rank == 0:  # which measures
            seen = run["base"]
            assert seen["partition"] < seen["peak"] <= seen["partition"] + seen["largest_block"]


@pytest.mark.parametrize(("row", "precision"), ALL)
def test_what_is_trained_is_fp32_and_the_same_on_all_ranks(row: Row, precision: str, adapted: Any) -> None:
    ours, other = (results[run_name(row, precision)] for results in adapted)
    assert {tensor.dtype for tensor in ours["adapter"].values()} == {torch.float32}
    assert all(torch.equal(tensor, other["adapter"][name]) for name, tensor in ours["adapter"].items())
    moved = [name for name, tensor in ours["adapter"].items() if not torch.equal(tensor, ours["initial"][name])]
    assert len(moved) == len(ours["adapter"]), "all of it is trained"


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
