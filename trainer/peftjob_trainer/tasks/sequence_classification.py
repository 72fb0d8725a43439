"""One label for each text, by a new head that is trained whole and published with the adapter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch
from peftjob_api import Reason
from sklearn.metrics import accuracy_score, f1_score
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from ..data import Example
from ..data.types import IGNORED
from ..exits import TrainerError
from .common import check_loaded, pad_rows

HEADS = ("classifier", "score")
EVALUATION_BATCHES = 4
"""Micro batches at once in an evaluation, which holds no activations for gradients."""


def load(folder: Path, labels: list[str] | None, dtype: torch.dtype, seed: int) -> tuple[Any, list[str]]:
    """Return the base model with a head of ordinary fp32 parameters, and the head's name.

    The head is initialised from the seed as the model initialises it, unless the base brings one of the right shape.

    Raises:
        TrainerError: `BASE_MODEL_CORRUPT` (weights are missing), `INVALID_CONFIG` (the model has no head we know).
    """
    assert labels is not None
    names = dict(enumerate(labels))
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=dtype,
        num_labels=len(labels),
        id2label=names,
        label2id={label: index for index, label in names.items()},
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    head = next((name for name in HEADS if hasattr(model, name)), None)
    if head is None:
        raise TrainerError(
            Reason.INVALID_CONFIG, f"{type(model).__name__} has no module {' or '.join(HEADS)}: use another base model"
        )
    check_loaded(folder, info["missing_keys"], [head])
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    fresh = {key for key in {*info["missing_keys"], *mismatched} if key.split(".")[0] == head}
    _unpartition(model, head, fresh, seed)
    model.config.use_cache = False
    return model, [head]


def _unpartition(model: Any, head: str, fresh: set[str], seed: int) -> None:
    """Make the head's parameters ordinary fp32 ones: those of the base as they are, new ones from the seed."""
    generator = torch.Generator().manual_seed(seed)
    std = float(getattr(model.config, "initializer_range", 0.02))
    for prefix, module in list(getattr(model, head).named_modules(prefix=head)):
        for name, parameter in list(module.named_parameters(recurse=False)):
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                value = parameter.detach().float().clone()
            if f"{prefix}.{name}" in fresh:
                if value.ndim > 1:
                    value = torch.empty(value.shape).normal_(0, std, generator=generator).to(value.device)
                else:
                    value = torch.zeros_like(value)
            delattr(module, name)
            module.register_parameter(name, torch.nn.Parameter(value))


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
    assert predicted is not None
    truth = [example.labels for example in examples]
    return {
        "loss": loss,
        "accuracy": float(accuracy_score(truth, predicted)),
        "macroF1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
    }
