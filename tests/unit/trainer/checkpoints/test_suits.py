"""A checkpoint is gone on from only if that gives what never stopping would have given."""

from typing import Any

import pytest
from peftjob_api import PeftJobSpec, Reason
from peftjob_trainer.checkpoints.suits import check_suits, numerics
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.resolve import Facts, resolve

SHAPES = {"a.lora_A": (2, 3), "a.lora_B": (4, 2)}
URI = "s3://out/checkpoints/step-00000020-claim-1"


def spec(**parts: Any) -> PeftJobSpec:
    return PeftJobSpec.model_validate(
        {
            "baseModel": {"uri": "file:///models/tiny"},
            "dataset": {"train": "file:///t.jsonl"},
            "output": {"uri": "file:///out"},
            **parts,
        }
    )


def job(examples: int = 45, **parts: Any) -> dict[str, Any]:
    return numerics(resolve(spec(**parts), Facts(64, None), examples), "torch.float32", examples)


@pytest.mark.parametrize(
    "parts",
    [
        {"workers": {"nodes": 4, "gpusPerNode": 8}},
        {"sharding": "Full"},
        {"training": {"microBatchSize": 1, "gradientCheckpointing": True, "logEverySteps": 3}},
        {"checkpoint": {"everySteps": 3}},
        {"output": {"uri": "file:///elsewhere"}},
    ],
    ids=["workers", "shard group", "micro batches", "how often it is saved", "output"],
)
def test_what_changes_no_number_may_differ(parts: dict[str, Any]) -> None:
    check_suits(URI, (job(), job(**parts)), (SHAPES, SHAPES))


@pytest.mark.parametrize(
    ("theirs", "own", "shapes", "want"),
    [
        (job(45), job(46), SHAPES, "examples of dataset.train was 45, is 46"),
        (job(training={"learningRate": 1e-3}), job(training={"learningRate": 2e-3}), SHAPES, "training.learningRate"),
        (job(), job(), {**SHAPES, "a.lora_A": (2, 5)}, "a.lora_A was (2, 3), is (2, 5)"),
        (job(), job(), {"a.lora_A": (2, 3)}, "a.lora_B was (4, 2), is absent"),
        (job(), job(), dict(reversed(SHAPES.items())), "the order of its parameters"),
    ],
    ids=["other data", "another rate", "another shape", "a parameter less", "another order"],
)
def test_what_changes_numbers_is_refused_by_name(
    theirs: dict[str, Any], own: dict[str, Any], shapes: dict[str, tuple[int, ...]], want: str
) -> None:
    with pytest.raises(TrainerError) as error:
        check_suits(URI, (theirs, own), (SHAPES, shapes))
    assert error.value.reason is Reason.CHECKPOINT_UNSUITABLE
    assert want in error.value.message
    assert URI in error.value.message


def test_a_setting_that_an_older_trainer_did_not_know_does_not_matter() -> None:
    older = {name: value for name, value in job().items() if name != "training.warmupRatio"}
    check_suits(URI, (older, job()), (SHAPES, SHAPES))
    check_suits(URI, (job(), older), (SHAPES, SHAPES))
