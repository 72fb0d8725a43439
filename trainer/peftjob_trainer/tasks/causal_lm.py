"""Continuing text: every supervised token is predicted from those before it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ..data import Example
from ..data.types import IGNORED
from ..sharding import Base
from . import cross_entropy
from .common import pad_rows

EVALUATION_BATCHES = 2
"""Micro batches at once in an evaluation, which holds no activations for gradients; logits come in chunks."""


def skeleton(base: Base, labels: list[str] | None) -> tuple[Any, list[str]]:
    """Return the base model without data, and no names, since nothing of it is new.

    Raises:
        TrainerError: `INVALID_CONFIG`: transformers has no such model.
    """
    model = base.skeleton(AutoModelForCausalLM)
    model.config.use_cache = False
    return model, []


def count(example: Example) -> int:
    """Return the number of supervised tokens: the first token has nothing before it to be predicted from."""
    assert isinstance(example.labels, tuple)
    return sum(label != IGNORED for label in example.labels[1:])


def collate(examples: Sequence[Example], pad: int) -> dict[str, torch.Tensor]:
    """Return int64 tensors (rows, longest): `input_ids`, `attention_mask`, `labels`."""
    batch = pad_rows(examples, pad)
    rows = []
    for example in examples:
        assert isinstance(example.labels, tuple)
        rows.append([*example.labels, *[IGNORED] * (batch["input_ids"].shape[1] - len(example.labels))])
    return {**batch, "labels": torch.tensor(rows)}


def collate_packed(rows: Sequence[Sequence[Example]], pad: int) -> dict[str, torch.Tensor]:
    """Return int64 tensors (rows, longest) of rows of several examples: `input_ids`, `position_ids`, `labels`.

    Positions restart with each example, and with the padding, by which transformers knows what attends to what; it
    does so only without an attention mask. No example's first token is predicted from the one before.
    """
    lengths = [sum(len(example.input_ids) for example in row) for row in rows]
    batch: dict[str, list[list[int]]] = {"input_ids": [], "position_ids": [], "labels": []}
    for row, length in zip(rows, lengths, strict=True):
        gap = max(lengths) - length
        tokens, positions, labels = [pad] * gap, list(range(gap)), [IGNORED] * gap
        for example in reversed(row):
            assert isinstance(example.labels, tuple)
            tokens = [*example.input_ids, *tokens]
            positions = [*range(len(example.input_ids)), *positions]
            labels = [IGNORED, *example.labels[1:], *labels]
        for values, found in zip(batch.values(), (tokens, positions, labels), strict=True):
            values.append(found)
    return {name: torch.tensor(values) for name, values in batch.items()}


def silence(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the batch with nothing supervised: it costs the same collectives and gives a loss of zero."""
    return {**batch, "labels": torch.full_like(batch["labels"], IGNORED)}


def loss_sum(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the sum of the losses of the supervised tokens (fp32 scalar), and no predictions."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    return cross_entropy.loss_sum(model, inputs, batch["labels"]), None


def metrics(loss: float, predicted: list[int] | None, examples: Sequence[Example]) -> dict[str, float]:
    """Return `loss` and `perplexity`."""
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
