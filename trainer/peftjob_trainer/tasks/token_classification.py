"""A label for each word, or for the tokens of spans, by a new head that is trained whole."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForTokenClassification

from ..data import IGNORED, Example
from ..sharding.skeleton import Skeletons
from .common import TOKEN, Batch, Task, longest_of, pad_labels, pad_rows, prepended
from .sequence_classification import named, with_head
from .shown import MOST_CHARACTERS, Shown, decoded


class TokenClassification(Task):
    """Names that are found, told by tags of the scheme BIO; for the interface see there."""

    evaluation_batches = 4

    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the base model without data, and the name of its head; for errors see `with_head`."""
        assert self.labels is not None
        return with_head(base, AutoModelForTokenClassification, **named(self.labels))

    def count(self, sample: Example) -> int:
        """Return the number of tokens with a tag."""
        assert isinstance(sample.labels, tuple)
        return sum(label != IGNORED for label in sample.labels)

    def collate(self, samples: Sequence[Example]) -> Batch:
        """Return int64 tensors (rows, longest): `input_ids`, `attention_mask`, `labels`."""
        return {**pad_rows(samples, self.pad), "labels": pad_labels([sample.labels for sample in samples])}

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of the tagged tokens' losses and the predicted tags, int64 (rows, longest)."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        logits = logits[:, prepended(model) :]
        losses = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum")
        return losses, logits.detach().argmax(-1)

    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Example]) -> dict[str, float]:
        """Return `loss`, `precision`, `recall` and `f1` of whole names, and `accuracy` of tags."""
        from seqeval import metrics

        truth, found = self.tags(predicted, samples)
        return {
            "loss": loss,
            "precision": float(metrics.precision_score(truth, found, zero_division=0)),
            "recall": float(metrics.recall_score(truth, found, zero_division=0)),
            "f1": float(metrics.f1_score(truth, found, zero_division=0)),
            "accuracy": float(metrics.accuracy_score(truth, found)),
        }

    def tags(self, predicted: torch.Tensor | None, samples: Sequence[Example]) -> tuple[list[Any], list[Any]]:
        """Return the tags of each sample, as they are in the data and as they are predicted."""
        assert predicted is not None
        assert self.labels is not None
        truth: list[list[str]] = []
        found: list[list[str]] = []
        for sample, row in zip(samples, predicted.long().tolist(), strict=True):
            assert isinstance(sample.labels, tuple)
            places = [place for place, label in enumerate(sample.labels) if label != IGNORED]
            truth.append([self.labels[sample.labels[place]] for place in places])
            found.append([self.labels[row[place]] for place in places])
        return truth, found

    def classes(self, sample: Example) -> Sequence[int]:
        """Return the tags of all tokens that have one."""
        assert isinstance(sample.labels, tuple)
        return [label for label in sample.labels if label != IGNORED]

    def shown(self, sample: Example) -> Shown:
        """Return the tokens, learned where they have a tag, and their tags in order."""
        assert isinstance(sample.labels, tuple)
        assert self.labels is not None
        parts = decoded(self.tokenizer, sample.input_ids, (label != IGNORED for label in sample.labels))
        return Shown(parts, " ".join(self.labels[index] for index in self.classes(sample))[:MOST_CHARACTERS])

    def largest(self, samples: Sequence[Example] | None, limit: int) -> Example:
        """Return an example as long as the longest, with a tag for each token."""
        length = longest_of(samples, limit)
        return Example((TOKEN,) * length, (0,) * length)


class PlainTokenClassification(TokenClassification):
    """A label of its own for each word."""

    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Example]) -> dict[str, float]:
        """Return `loss`, `accuracy` and `macroF1`, of words."""
        from sklearn.metrics import accuracy_score, f1_score

        truth, found = (list(chain.from_iterable(tags)) for tags in self.tags(predicted, samples))
        return {
            "loss": loss,
            "accuracy": float(accuracy_score(truth, found)),
            "macroF1": float(f1_score(truth, found, average="macro", zero_division=0)),
        }
