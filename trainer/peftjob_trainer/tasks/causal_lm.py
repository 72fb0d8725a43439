"""Continuing text: every supervised token is predicted from those before it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ..data import IGNORED, Example
from ..sharding.skeleton import Skeletons
from . import cross_entropy
from .common import TOKEN, Batch, Task, longest_of, pad_labels, pad_rows
from .shown import Shown, decoded


class CausalLM(Task):
    """See there for the interface."""

    evaluation_batches = 2  # logits come in chunks

    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the base model without data, and no names, since nothing of it is new."""
        return decoder(base), []

    def count(self, sample: Example) -> int:
        """Return the number of supervised tokens: the first token has nothing before it to be predicted from."""
        return sum(label != IGNORED for label in labels_of(sample)[1:])

    def collate(self, samples: Sequence[Example]) -> Batch:
        """Return int64 tensors (rows, longest): `input_ids`, `attention_mask`, `labels`."""
        return {**pad_rows(samples, self.pad), "labels": pad_labels([labels_of(sample) for sample in samples])}

    def collate_packed(self, rows: Sequence[Sequence[Example]]) -> Batch:
        """Return int64 tensors (rows, longest) of rows of several examples: `input_ids`, `position_ids`, `labels`.

        Positions restart with each example, and with the padding, by which transformers knows what attends to what; it
        does so only without an attention mask. No example's first token is predicted from the one before.
        """
        lengths = [sum(example.length for example in row) for row in rows]
        batch: dict[str, list[list[int]]] = {"input_ids": [], "position_ids": [], "labels": []}
        for row, length in zip(rows, lengths, strict=True):
            gap = max(lengths) - length
            tokens, positions, labels = [self.pad] * gap, list(range(gap)), [IGNORED] * gap
            for example in reversed(row):
                tokens = [*example.input_ids, *tokens]
                positions = [*range(example.length), *positions]
                labels = [IGNORED, *labels_of(example)[1:], *labels]
            for values, found in zip(batch.values(), (tokens, positions, labels), strict=True):
                values.append(found)
        return {name: torch.tensor(values) for name, values in batch.items()}

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of the losses of the supervised tokens, and no predictions."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return cross_entropy.loss_sum(model, inputs, batch["labels"]), None

    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Example]) -> dict[str, float]:
        """Return `loss` and `perplexity`."""
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}

    def shown(self, sample: Example) -> Shown:
        """Return the tokens; the first has nothing before it to be predicted from."""
        learned = (place > 0 and label != IGNORED for place, label in enumerate(labels_of(sample)))
        return Shown(decoded(self.tokenizer, sample.input_ids, learned))

    def prompt(self, sample: Example) -> tuple[Sequence[int], str]:
        """Return what stands before the last answer, at least one token, and this answer."""
        labels = labels_of(sample)
        end = max(place for place, label in enumerate(labels) if label != IGNORED) + 1
        start = max((place for place in range(end) if labels[place] == IGNORED), default=-1) + 1
        return sample.input_ids[: max(start, 1)], self.tokenizer.decode(labels[start:end], skip_special_tokens=True)

    def written(self, sample: Example, tokens: int) -> Example:
        """Return an example with so many more tokens, one of them supervised."""
        ids = sample.input_ids + (TOKEN,) * tokens
        return Example(ids, (IGNORED,) * (len(ids) - 1) + (TOKEN,))

    def largest(self, samples: Sequence[Example] | None, limit: int) -> Example:
        """See `largest_example`."""
        return largest_example(samples, limit)


def decoder(base: Skeletons) -> Any:
    """Return a language model without data, for training."""
    model = base.skeleton(AutoModelForCausalLM)
    model.config.use_cache = False
    return model


def largest_example(samples: Sequence[Example] | None, limit: int) -> Example:
    """Return an example as long as the longest, and with as much supervised as any."""
    ids = (TOKEN,) * longest_of(samples, limit)
    supervised = len(ids)
    if samples is not None:
        supervised = min(supervised, max(sum(label != IGNORED for label in labels_of(each)) for each in samples))
    return Example(ids, (IGNORED,) * (len(ids) - supervised) + ids[len(ids) - supervised :])


def labels_of(example: Example) -> tuple[int, ...]:
    """Return the labels of an example of a language model, one for each token."""
    assert isinstance(example.labels, tuple)
    return example.labels
