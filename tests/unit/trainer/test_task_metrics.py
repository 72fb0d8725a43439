"""What each task counts, from predictions worked out by hand."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from peftjob_api import PeftJobSpec
from peftjob_api.metrics import METRICS
from peftjob_trainer.data import IGNORED, Example
from peftjob_trainer.history import METRIC_KEYS, deciding_metric, is_better
from peftjob_trainer.tasks import Task, task_of


def spec(kind: str, **training: Any) -> PeftJobSpec:
    task, _, variant = kind.partition("/")
    settings = {
        "SequenceClassification": {"sequenceClassification": {"problem": variant}},
        "TokenClassification": {"tokenClassification": {"scheme": variant}},
    }
    return PeftJobSpec.model_validate(
        {
            "baseModel": {"uri": "file:///models/tiny"},
            "task": {"type": task, **(settings[task] if variant else {})},
            "dataset": {"train": "file:///t.jsonl", "validation": "file:///v.jsonl"},
            "training": training,
            "output": {"uri": "file:///out"},
        }
    )


def task(kind: str, labels: Sequence[str] | None = None) -> Task:
    return task_of(spec(kind), 0, labels)


def samples(*labels: Any) -> list[Example]:
    return [Example((1, 2), each) for each in labels]


@pytest.mark.parametrize("kind", METRICS)
def test_the_first_metric_of_a_task_decides(kind: str) -> None:
    assert spec(kind).task.kind == kind
    assert deciding_metric(spec(kind)) == METRICS[kind][0]
    assert set(METRICS[kind]) <= METRIC_KEYS.keys()


def test_errors_are_better_when_low_and_all_else_when_high() -> None:
    assert {metric for metric in METRIC_KEYS if is_better(metric, 1.0, 2.0)} == {"Loss", "RMSE", "MAE"}


def test_any_labels() -> None:
    predicted = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    found = task("SequenceClassification/MultiLabel", ["a", "b", "c"]).metrics(
        0.5, predicted, samples((1, 0, 0), (0, 1, 0), (0, 0, 1))
    )
    assert found == pytest.approx({"loss": 0.5, "microF1": 4 / 6, "macroF1": (1 + 2 / 3 + 0) / 3, "accuracy": 1 / 3})


def test_numbers() -> None:
    predicted = torch.tensor([1.0, 2.0, 4.0])
    found = task("SequenceClassification/Regression").metrics(0.1, predicted, samples(1.0, 3.0, 8.0))
    want = {"loss": 0.1, "rmse": math.sqrt(17 / 3), "mae": 5 / 3, "spearman": 1.0}
    assert found == pytest.approx({**want, "pearson": found["pearson"]})
    assert found["pearson"] == pytest.approx(11 / math.sqrt(26 * 14 / 3))


def test_a_correlation_with_what_does_not_vary_beats_nothing() -> None:
    found = task("SequenceClassification/Regression").metrics(0.1, torch.ones(2), samples(1.0, 2.0))
    assert math.isnan(found["spearman"])
    assert not is_better("Spearman", found["spearman"], None)


TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def test_whole_names() -> None:
    truth = samples((IGNORED, 1, 2, 0), (3, 0))
    predicted = torch.tensor([[0, 1, 2, 3], [1, 0, 0, 0]])  # one of three that are found, of two that are there
    found = task("TokenClassification", TAGS).metrics(0.2, predicted, truth)
    assert found == pytest.approx({"loss": 0.2, "precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "accuracy": 3 / 5})


def test_a_model_that_finds_nothing() -> None:
    found = task("TokenClassification", TAGS).metrics(0.2, torch.zeros(1, 2), samples((1, 2)))
    assert found == {"loss": 0.2, "precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 0.0}


def test_words() -> None:
    predicted = torch.tensor([[0, 1, 1], [1, 0, 0]])
    truth = samples((0, IGNORED, 1), (0,))
    found = task("TokenClassification/Plain", ["NOUN", "VERB"]).metrics(0.2, predicted, truth)
    assert found == pytest.approx({"loss": 0.2, "accuracy": 2 / 3, "macroF1": 2 / 3})


def test_a_batch_to_keep_in_step_with_is_worth_nothing() -> None:
    class Model:
        def __call__(self, **_: Any) -> Any:
            return type("Outputs", (), {"logits": torch.ones(1, *self.shape, requires_grad=True)})

        shape: tuple[int, ...] = ()

    model = Model()
    for kind, labels, sample, shape in (
        ("SequenceClassification", ["a", "b"], Example((1,), 1), (2,)),
        ("SequenceClassification/MultiLabel", ["a", "b"], Example((1,), (0, 1)), (2,)),
        ("SequenceClassification/Regression", None, Example((1,), -100.0), (1,)),
        ("TokenClassification", TAGS, Example((1,), (1,)), (1, 5)),
    ):
        of, model.shape = task(kind, labels), shape
        batch = of.collate([sample])
        worth, nothing = of.loss_sum(model, batch)[0], of.loss_sum(model, of.silence(batch))[0]
        assert worth > 0, kind
        assert nothing == 0, kind
        nothing.backward()
