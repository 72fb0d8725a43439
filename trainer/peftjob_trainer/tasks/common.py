"""What a task is: the interface of all, and what they share. Each task has a module of its own."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from peftjob_api import PeftJobSpec

from ..data import IGNORED, Example, Sample, lengths_of
from ..sharding.skeleton import Skeletons
from .shown import Shown

TOKEN = 1
"""Any token but padding: which one makes no difference to memory."""

_IN_INPUT = ("PROMPT_TUNING", "P_TUNING")
"""Methods of peft that put virtual tokens into the input."""

Batch = dict[str, torch.Tensor]
"""Tensors of a micro batch, the rows first; `labels` among them."""


class Task(ABC):
    """What a model learns: its head, batches, loss and metrics. Made by `task_of`."""

    evaluation_batches: ClassVar[int]
    """Micro batches at once in an evaluation, which holds no activations for gradients."""

    is_grouped: ClassVar[bool] = False
    """Whether a sample's loss depends on those beside it: what is beside it must not depend on the number of ranks."""

    def __init__(self, spec: PeftJobSpec, pad: int, labels: Sequence[str] | None, tokenizer: Any = None) -> None:
        """Keep what the task is about.

        Args:
            spec: Of the job.
            pad: Token id of padding.
            labels: Names of the classes; None for a task without classes.
            tokenizer: Of the base model, or its image processor; None where nothing is computed, as on paper.
        """
        self.spec = spec
        self.pad = pad
        self.labels = list(labels) if labels is not None else None
        self.tokenizer = tokenizer

    @abstractmethod
    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the model without data, and the names of its modules that are new and trained whole.

        Raises:
            TrainerError: `INVALID_CONFIG`: transformers has no such model, or not for this task.
        """

    @abstractmethod
    def count(self, sample: Any) -> int:
        """Return what a sample adds to the number that the loss is divided by, such as its supervised tokens."""

    @abstractmethod
    def collate(self, samples: Sequence[Any]) -> Batch:
        """Return a micro batch."""

    @abstractmethod
    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of the losses (fp32 scalar), and predictions (rows, ...) if the metrics need them."""

    @abstractmethod
    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Any]) -> dict[str, float]:
        """Return the metrics by name, `loss` among them.

        Args:
            loss: Mean over what is counted.
            predicted: fp32 (samples, ...), in the order of the samples; None if `loss_sum` gives none.
            samples: That were evaluated.
        """

    @abstractmethod
    def largest(self, samples: Sequence[Any] | None, limit: int) -> Sample:
        """Return a sample that costs as much memory as any.

        Args:
            samples: The data; None: not known.
            limit: `dataset.maxLength`.
        """

    def prompt(self, sample: Any) -> tuple[Sequence[int], str]:
        """Return the tokens that the model goes on from or reads, and the text that it should write."""
        raise AssertionError(f"{type(self).__name__} writes no texts")  # the API refuses such a job

    def written(self, sample: Any, tokens: int) -> Any:
        """Return a sample whose batch costs what it costs to write so many tokens for this one."""
        raise AssertionError(f"{type(self).__name__} writes no texts")

    def varied(self, sample: Any, draw: tuple[int, int, int]) -> Any:
        """Return a sample as training sees it this time, a function of seed, epoch and index of the sample."""
        return sample

    def classes(self, sample: Any) -> Sequence[int]:
        """Return the indices of the labels that a sample shows, one as often as it is there; none without labels."""
        return ()

    def shown(self, sample: Any) -> Shown:
        """Return a sample as the model sees it, for people; nothing of what is no text."""
        return Shown(())

    def silence(self, batch: Batch) -> Batch:
        """Return the batch with nothing supervised: it costs the same collectives and gives a loss of zero."""
        return {**batch, "labels": torch.full_like(batch["labels"], IGNORED)}

    def collate_groups(self, rows: Sequence[Sequence[Any]]) -> Batch:
        """Return a micro batch of groups of samples, of a task that is grouped."""
        raise AssertionError(f"{type(self).__name__} takes each sample by itself")

    def collate_packed(self, rows: Sequence[Sequence[Example]]) -> Batch:
        """Return a micro batch of rows that hold several samples each."""
        raise AssertionError(f"{type(self).__name__} has no packed rows")  # the API refuses such a job


def pad_rows(examples: Sequence[Example], pad: int) -> Batch:
    """Return `input_ids` and `attention_mask`, int64 (rows, longest), padded on the right."""
    return pad_ids([example.input_ids for example in examples], pad)


def pad_ids(rows: Sequence[Sequence[int]], pad: int, *, on_left: bool = False) -> Batch:
    """Return `input_ids` and `attention_mask`, int64 (rows, longest), padded on the right or on the left."""
    longest = max(len(row) for row in rows)
    gaps = [longest - len(row) for row in rows]
    order = -1 if on_left else 1

    def placed(row: Sequence[int], gap: Sequence[int]) -> list[int]:
        return [value for part in (row, gap)[::order] for value in part]

    return {
        "input_ids": torch.tensor([placed(row, [pad] * gap) for row, gap in zip(rows, gaps, strict=True)]),
        "attention_mask": torch.tensor(
            [placed([1] * len(row), [0] * gap) for row, gap in zip(rows, gaps, strict=True)]
        ),
    }


def prepended(model: Any) -> int:
    """Return how many positions a model's hidden states and logits have before those of its input.

    Those of virtual tokens, which peft computes like the input's, but in an encoder-decoder, whose decoder has none.
    """
    config = getattr(model, "active_peft_config", None)
    if config is None or config.peft_type not in _IN_INPUT or model.config.is_encoder_decoder:
        return 0
    count: int = config.num_virtual_tokens
    return count


def pad_labels(labels: Sequence[Any]) -> torch.Tensor:
    """Return int64 (rows, longest) of rows of labels, with `IGNORED` on the right."""
    longest = max(len(row) for row in labels)
    return torch.tensor([[*row, *[IGNORED] * (longest - len(row))] for row in labels])


def longest_of(samples: Sequence[Sample] | None, limit: int) -> int:
    """Return the most tokens of a sample."""
    return limit if samples is None else min(limit, max(lengths_of(samples)))
