"""One label for each text, by a new head that is trained whole and published with the adapter."""

from collections.abc import Sequence
from typing import Any

import torch
from peftjob_api import Reason
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from ..data import IGNORED, Example
from ..exits import TrainerError
from ..sharding.skeleton import Skeletons
from .common import TOKEN, Batch, Task, longest_of, pad_rows

HEADS = ("classifier", "score")


class SequenceClassification(Task):
    """See there for the interface."""

    evaluation_batches = 4

    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the base model without data, and the name of its head: new, unless the base brings one that fits.

        Raises:
            TrainerError: `INVALID_CONFIG`: transformers has no such model, or it has no head we know.
        """
        assert self.labels is not None
        model = base.skeleton(
            AutoModelForSequenceClassification,
            num_labels=len(self.labels),
            id2label=dict(enumerate(self.labels)),
            label2id={label: index for index, label in enumerate(self.labels)},
        )
        head = next((name for name in HEADS if hasattr(model, name)), None)
        if head is None:
            raise TrainerError(
                Reason.INVALID_CONFIG,
                f"{type(model).__name__} has no module {' or '.join(HEADS)}: use another base model",
            )
        model.config.use_cache = False
        return model, [head]

    def count(self, sample: Example) -> int:
        """Return 1: the loss is divided by rows."""
        return 1

    def collate(self, samples: Sequence[Example]) -> Batch:
        """Return int64 tensors: `input_ids` and `attention_mask` (rows, longest), `labels` (rows)."""
        return {**pad_rows(samples, self.pad), "labels": torch.tensor([sample.labels for sample in samples])}

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of the rows' losses and the predicted classes, int64 (rows)."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        return cross_entropy(logits, batch["labels"], ignore_index=IGNORED, reduction="sum"), logits.detach().argmax(-1)

    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Example]) -> dict[str, float]:
        """Return `loss`, `accuracy` and `macroF1`."""
        from sklearn.metrics import accuracy_score, f1_score  # 70 MB and seconds, of which loading is to have the use

        assert predicted is not None
        truth = [sample.labels for sample in samples]
        classes = predicted.long().tolist()
        return {
            "loss": loss,
            "accuracy": float(accuracy_score(truth, classes)),
            "macroF1": float(f1_score(truth, classes, average="macro", zero_division=0)),
        }

    def largest(self, samples: Sequence[Example] | None, limit: int) -> Example:
        """Return an example as long as the longest."""
        return Example((TOKEN,) * longest_of(samples, limit), 0)
