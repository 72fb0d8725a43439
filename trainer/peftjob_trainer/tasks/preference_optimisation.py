"""Of two answers to a prompt rather the one than the other: DPO, Rafailov et al. 2023, arXiv:2305.18290.

The reference is the frozen base itself, with the adapter off: there is no second model. Each micro step computes the
same rows twice, first by the reference, without gradients and dropout, in the same number of collectives on all ranks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peftjob_api.task_spec import PreferenceOptimisationTask
from torch.nn.functional import logsigmoid

from ..data import IGNORED, Preference
from ..sharding.skeleton import Skeletons
from . import cross_entropy
from .causal_lm import decoder, labels_of, largest_example
from .common import Batch, Task, pad_labels, pad_rows
from .shown import Shown, decoded


class PreferenceOptimisation(Task):
    """See there for the interface. A batch of n samples has 2n rows: all chosen answers, then all rejected ones."""

    evaluation_batches = 1  # of rows there are twice as many

    @property
    def settings(self) -> PreferenceOptimisationTask:
        """The task's settings."""
        return self.spec.task.preference_optimisation or PreferenceOptimisationTask()

    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the base model without data, and no names, since nothing of it is new."""
        return decoder(base), []

    def count(self, sample: Preference) -> int:
        """Return 1: the loss is divided by rows of the data."""
        return 1

    def collate(self, samples: Sequence[Preference]) -> Batch:
        """Return int64 tensors (2n, longest): `input_ids`, `attention_mask`, `labels`."""
        both = [sample.chosen for sample in samples] + [sample.rejected for sample in samples]
        return {**pad_rows(both, self.pad), "labels": pad_labels([labels_of(example) for example in both])}

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of the pairs' losses, and the rewards of both answers of each, fp32 (n, 2).

        With r = beta * (log p(answer) - log p_reference(answer)) and s = labelSmoothing, the loss of a pair is
        -(1 - s) * log sigmoid(r_chosen - r_rejected) - s * log sigmoid(r_rejected - r_chosen).
        """
        own, reference = self.log_probabilities(model, batch)
        chosen, rejected = (self.settings.beta * (own - reference)).chunk(2)
        smoothing, margin = self.settings.label_smoothing, chosen - rejected
        losses = -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)
        is_there = (batch["labels"] != IGNORED).any(1).chunk(2)[0]  # of a silent batch none is
        return losses.mul(is_there).sum(), torch.stack([chosen, rejected], 1).detach()

    def log_probabilities(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probability of each answer after its prompt by the model, and by the reference, fp32 (2n).

        The reference comes first, so that what the forward pass keeps gathered is there for the backward pass.
        """
        was_training = model.training
        model.eval()
        with torch.no_grad(), model.disable_adapter():
            reference = _of_answers(model, batch)
        model.train(was_training)
        return _of_answers(model, batch), reference

    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Preference]) -> dict[str, float]:
        """Return `loss`, `accuracy` (share of pairs whose chosen answer has the higher reward), and of the rewards the
        means `margin` (chosen less rejected), `chosenReward` and `rejectedReward`."""
        assert predicted is not None
        chosen, rejected = predicted.double().unbind(1)
        return {
            "loss": loss,
            "accuracy": float((chosen > rejected).double().mean()),
            "margin": float((chosen - rejected).mean()),
            "chosenReward": float(chosen.mean()),
            "rejectedReward": float(rejected.mean()),
        }

    def shown(self, sample: Preference) -> Shown:
        """Return the tokens of the chosen answer after its prompt, and the answer that it is preferred to."""
        parts, others = (
            decoded(self.tokenizer, each.input_ids, (label != IGNORED for label in labels_of(each)))
            for each in (sample.chosen, sample.rejected)
        )
        return Shown(parts, "rather than " + "".join(text for text, learned in others if learned))

    def largest(self, samples: Sequence[Preference] | None, limit: int) -> Preference:
        """Return two answers as long as the longest, and with as much supervised as any."""
        both = None if samples is None else [each for s in samples for each in (s.chosen, s.rejected)]
        example = largest_example(both, limit)
        return Preference(example, example)


def _of_answers(model: Any, batch: Batch) -> torch.Tensor:
    """Return the log-probability of the supervised tokens of each row, fp32 (rows)."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    losses, rows = cross_entropy.token_losses(model, inputs, batch["labels"])
    return torch.zeros(len(batch["labels"]), device=losses.device).index_add(0, rows, -losses)
