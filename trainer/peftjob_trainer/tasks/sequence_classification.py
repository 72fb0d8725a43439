"""One label for each text, by a new head that is trained whole and published with the adapter."""

from collections.abc import Sequence
from typing import Any

import torch
from peftjob_api import Reason
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from ..data import Example
from ..data.types import IGNORED
from ..exits import TrainerError
from ..sharding import Base
from .common import pad_rows

HEADS = ("classifier", "score")
EVALUATION_BATCHES = 4
"""Micro batches at once in an evaluation, which holds no activations for gradients."""


def skeleton(base: Base, labels: list[str] | None) -> tuple[Any, list[str]]:
    """Return the base model without data, and the name of its head: new, unless the base brings one that fits.

    Raises:
        TrainerError: `INVALID_CONFIG`: transformers has no such model, or it has no head we know.
    """
    assert labels is not None
    model = base.skeleton(
        AutoModelForSequenceClassification,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    head = next((name for name in HEADS if hasattr(model, name)), None)
    if head is None:
        raise TrainerError(
            Reason.INVALID_CONFIG, f"{type(model).__name__} has no module {' or '.join(HEADS)}: use another base model"
        )
    model.config.use_cache = False
    return model, [head]


def count(example: Example) -> int:
    """Return 1: the loss is divided by rows."""
    return 1


def collate(examples: Sequence[Example], pad: int) -> dict[str, torch.Tensor]:
    """Return int64 tensors: `input_ids` and `attention_mask` (rows, longest), `labels` (rows)."""
    return {**pad_rows(examples, pad), "labels": torch.tensor([example.labels for example in examples])}


def silence(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the batch with nothing supervised: it costs the same collectives and gives a loss of zero."""
    return {**batch, "labels": torch.full_like(batch["labels"], IGNORED)}


def loss_sum(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the sum of the rows' losses (fp32 scalar) and the predicted classes, int64 (rows)."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    return cross_entropy(logits, batch["labels"], ignore_index=IGNORED, reduction="sum"), logits.detach().argmax(-1)


def metrics(loss: float, predicted: list[int] | None, examples: Sequence[Example]) -> dict[str, float]:
    """Return `loss`, `accuracy` and `macroF1`."""
    from sklearn.metrics import accuracy_score, f1_score  # 70 MB and seconds, of which loading is to have the use

    assert predicted is not None
    truth = [example.labels for example in examples]
    return {
        "loss": loss,
        "accuracy": float(accuracy_score(truth, predicted)),
        "macroF1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
    }
