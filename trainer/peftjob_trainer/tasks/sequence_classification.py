"""Labels or a number for each text, by a new head that is trained whole and published with the adapter."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from peftjob_api import Reason
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoModelForSequenceClassification

from ..data import IGNORED, Example, Sample
from ..exits import TrainerError
from ..sharding.skeleton import Skeletons
from .common import TOKEN, Batch, Task, longest_of, pad_rows
from .shown import Parts, Shown, decoded

HEADS = ("classifier", "score")


def with_head(base: Skeletons, auto_class: Any, **settings: Any) -> tuple[Any, list[str]]:
    """Return a base model without data, and the name of its head: new, unless the base brings one that fits.

    Args:
        base: That makes the model.
        auto_class: Such as `AutoModelForSequenceClassification`.
        settings: Changes to the config.

    Raises:
        TrainerError: `INVALID_CONFIG`: transformers has no such model, or it has no head we know.
    """
    model = base.skeleton(auto_class, **settings)
    head = next((name for name in HEADS if hasattr(model, name)), None)
    if head is None:
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"{type(model).__name__} has no module {' or '.join(HEADS)}: use another base model",
        )
    model.config.use_cache = False
    return model, [head]


def named(labels: Sequence[str]) -> dict[str, Any]:
    """Return what a config says of the outputs of a head, one for each label."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


class SequenceClassification(Task):
    """One label for each text; for the interface see there."""

    evaluation_batches = 4

    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the base model without data, and the name of its head; for errors see `with_head`."""
        assert self.labels is not None
        return with_head(base, AutoModelForSequenceClassification, **named(self.labels))

    def count(self, sample: Example) -> int:
        """Return 1: the loss is divided by rows."""
        return 1

    def collate(self, samples: Sequence[Any]) -> Batch:
        """Return int64 tensors `input_ids` and `attention_mask` (rows, longest), and `labels`: int64 (rows)."""
        return {**pad_rows(samples, self.pad), "labels": torch.tensor([sample.labels for sample in samples])}

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of the rows' losses and the predicted classes, int64 (rows)."""
        logits = self.logits(model, batch)
        return cross_entropy(logits, batch["labels"], ignore_index=IGNORED, reduction="sum"), logits.detach().argmax(-1)

    def logits(self, model: Any, batch: Batch) -> torch.Tensor:
        """Return what the head gives, fp32 (rows, outputs)."""
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return outputs.logits.float()

    def truth(self, samples: Sequence[Any]) -> list[Any]:
        """Return the classes that are right."""
        return [sample.labels for sample in samples]

    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Any]) -> dict[str, float]:
        """Return `loss`, `accuracy` and `macroF1`."""
        from sklearn.metrics import accuracy_score, f1_score  # 70 MB and seconds, of which loading is to have the use

        assert predicted is not None
        truth, classes = self.truth(samples), predicted.long().tolist()
        return {
            "loss": loss,
            "accuracy": float(accuracy_score(truth, classes)),
            "macroF1": float(f1_score(truth, classes, average="macro", zero_division=0)),
        }

    def classes(self, sample: Any) -> Sequence[int]:
        """Return the class."""
        return tuple(self.truth([sample]))

    def shown(self, sample: Any) -> Shown:
        """Return the tokens, and the label."""
        return Shown(_text(self.tokenizer, sample), self._answer(sample))

    def _answer(self, sample: Any) -> str:
        assert self.labels is not None
        return ", ".join(self.labels[index] for index in self.classes(sample)) or "(no label)"

    def largest(self, samples: Sequence[Any] | None, limit: int) -> Sample:
        """Return an example as long as the longest."""
        return Example((TOKEN,) * longest_of(samples, limit), 0)


class MultiLabel(SequenceClassification):
    """Any number of labels for each text: a yes or no for each, by binary cross entropy, the mean of the classes."""

    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the base model without data, and the name of its head; for errors see `with_head`."""
        assert self.labels is not None
        settings = named(self.labels)
        return with_head(
            base, AutoModelForSequenceClassification, problem_type="multi_label_classification", **settings
        )

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of the rows' losses, and 1 for each class that is predicted, else 0: int64 (rows, classes)."""
        logits, labels = self.logits(model, batch), batch["labels"]
        wanted = labels.clamp(min=0).float()
        losses = binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(-1)
        return losses.mul(labels[:, 0] != IGNORED).sum(), (logits.detach() > 0).long()

    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Example]) -> dict[str, float]:
        """Return `loss`, `microF1`, `macroF1`, and `accuracy`, the share of rows with all labels right."""
        from sklearn.metrics import accuracy_score, f1_score

        assert predicted is not None
        truth, found = [sample.labels for sample in samples], predicted.long().tolist()
        return {
            "loss": loss,
            "microF1": float(f1_score(truth, found, average="micro", zero_division=0)),
            "macroF1": float(f1_score(truth, found, average="macro", zero_division=0)),
            "accuracy": float(accuracy_score(truth, found)),
        }

    def classes(self, sample: Example) -> Sequence[int]:
        """Return the classes."""
        assert isinstance(sample.labels, tuple)
        return [index for index, is_there in enumerate(sample.labels) if is_there]

    def largest(self, samples: Sequence[Example] | None, limit: int) -> Example:
        """Return an example as long as the longest."""
        assert self.labels is not None
        return Example((TOKEN,) * longest_of(samples, limit), (0,) * len(self.labels))


class Regression(SequenceClassification):
    """A number for each text, by the squared error."""

    def skeleton(self, base: Skeletons) -> tuple[Any, list[str]]:
        """Return the base model without data, and the name of its head; for errors see `with_head`."""
        return with_head(base, AutoModelForSequenceClassification, num_labels=1, problem_type="regression")

    def collate(self, samples: Sequence[Example]) -> Batch:
        """Return int64 tensors `input_ids` and `attention_mask` (rows, longest), and `labels`: fp32 (rows)."""
        numbers = torch.tensor([sample.labels for sample in samples], dtype=torch.float32)
        return {**pad_rows(samples, self.pad), "labels": numbers}

    def silence(self, batch: Batch) -> Batch:
        """Return the batch without numbers to learn: any real one could be meant."""
        return {**batch, "labels": torch.full_like(batch["labels"], math.nan)}

    def loss_sum(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sum of the squared errors and the predicted numbers, fp32 (rows)."""
        numbers, labels = self.logits(model, batch)[:, 0], batch["labels"]
        errors = (numbers - labels.nan_to_num()).mul(~labels.isnan())
        return errors.square().sum(), numbers.detach()

    def metrics(self, loss: float, predicted: torch.Tensor | None, samples: Sequence[Example]) -> dict[str, float]:
        """Return `loss`, `rmse`, `mae`, `pearson` and `spearman`; a correlation of what does not vary is NaN."""
        from scipy.stats import rankdata

        assert predicted is not None
        found = predicted.double().numpy()
        truth = torch.tensor([sample.labels for sample in samples], dtype=torch.float64).numpy()
        return {
            "loss": loss,
            "rmse": math.sqrt(((found - truth) ** 2).mean()),
            "mae": float(abs(found - truth).mean()),
            "pearson": correlation(found, truth),
            "spearman": correlation(rankdata(found), rankdata(truth)),
        }

    def _answer(self, sample: Example) -> str:
        return f"{sample.labels:g}"

    def largest(self, samples: Sequence[Example] | None, limit: int) -> Example:
        """Return an example as long as the longest."""
        return Example((TOKEN,) * longest_of(samples, limit), 0.0)


def _text(tokenizer: Any, sample: Any) -> Parts:
    """Return the tokens of an example, of which none is learned; of what is no text, nothing."""
    return decoded(tokenizer, sample.input_ids, [False] * sample.length) if isinstance(sample, Example) else ()


def correlation(a: Any, b: Any) -> float:
    """Return Pearson's correlation of two arrays (n)."""
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum()) / scale if scale else math.nan
