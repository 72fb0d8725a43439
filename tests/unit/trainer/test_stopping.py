"""When the validation data is evaluated, and when training ends early."""

from typing import Any

import pytest
from peftjob_api import PeftJobSpec
from peftjob_trainer.history import EvalRecord
from peftjob_trainer.stopping import evaluates_after, is_out_of_patience


def spec(*, kind: str = "SequenceClassification", validation: bool = True, **training: Any) -> PeftJobSpec:
    return PeftJobSpec.model_validate(
        {
            "baseModel": {"uri": "file:///models/tiny"},
            "task": {"type": kind},
            "dataset": {"train": "file:///t.jsonl", **({"validation": "file:///v.jsonl"} if validation else {})},
            "training": training,
            "output": {"uri": "file:///out"},
        }
    )


@pytest.mark.parametrize(
    ("job", "want"),
    [
        (spec(validation=False), []),
        (spec(), [4, 8, 10]),
        (spec(evaluation={"everySteps": 3}), [3, 6, 9, 10]),
        (spec(evaluation={"everySteps": 5}), [5, 10]),
        (spec(evaluation={"everySteps": 100}), [10]),
    ],
    ids=["no validation data", "each epoch and at the end", "every three steps", "the last step is not twice", "rare"],
)
def test_evaluated_steps(job: PeftJobSpec, want: list[int]) -> None:
    assert [step for step in range(1, 11) if evaluates_after(job, step, 4, 10)] == want


@pytest.mark.parametrize(
    ("job", "values", "want"),
    [
        (spec(), [0.5, 0.5, 0.5, 0.5], None),
        (spec(earlyStopping={"patience": 2}), [0.5, 0.6, 0.6, 0.55], 4),
        (spec(earlyStopping={"patience": 1}), [0.5, 0.6, 0.7], None),
        (spec(earlyStopping={"patience": 1, "minDelta": 0.05}), [0.5, 0.6, 0.62], 3),
        (spec(earlyStopping={"patience": 2, "minDelta": 0.05}), [0.5, 0.53, 0.56, 0.58], None),
        (spec(earlyStopping={"patience": 2}, evaluation={"metric": "Loss"}), [0.5, 0.4, 0.45, 0.41], 4),
        (spec(earlyStopping={"patience": 1}, kind="CausalLM"), [2.0, 1.5, 1.5], 3),
        (spec(earlyStopping={"patience": 2}), [float("nan"), float("nan"), 0.5], 2),
    ],
    ids=[
        "no rule",
        "two in vain",
        "always better",
        "better by too little",
        "little by little counts from the last improvement",
        "a loss goes down",
        "the loss decides for CausalLM",
        "nan is no improvement",
    ],
)
def test_early_stopping(job: PeftJobSpec, values: list[float], want: int | None) -> None:
    records = [EvalRecord(n, "validation", {"loss": value, "accuracy": value}) for n, value in enumerate(values)]
    over = [is_out_of_patience(job, records[: n + 1]) for n in range(len(records))]
    assert (over.index(True) + 1 if True in over else None) == want
