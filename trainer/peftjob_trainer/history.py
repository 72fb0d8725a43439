"""What happened while training: the records that the loop keeps, and that report, card and metrics.json are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from peftjob_api import PeftJobSpec
from peftjob_api.metrics import LOWER_IS_BETTER, METRICS, Metric

from .steps import Steps


@dataclass(frozen=True)
class Return:
    """Steps that were taken and given up: what is trained, and its moments, are again as they were after `to`."""

    at: int
    """The last of the steps that are given up; the next batch is the one after it."""
    to: int


@dataclass(frozen=True)
class EvalRecord:
    """One evaluation."""

    step: int
    split: str
    """`validation` or `test`."""
    metrics: dict[str, float]
    """Keys are `loss` and the task's own, among them values of `METRIC_KEYS`."""


METRIC_KEYS: Final[dict[Metric, str]] = {
    "Loss": "loss", "Accuracy": "accuracy", "MacroF1": "macroF1", "MicroF1": "microF1", "RMSE": "rmse", "MAE": "mae",
    "Pearson": "pearson", "Spearman": "spearman", "Precision": "precision", "Recall": "recall", "F1": "f1",
    "ChrF": "chrF", "BLEU": "bleu", "ROUGEL": "rougeL", "ExactMatch": "exactMatch",
    "Margin": "margin", "RecallAt10": "recallAt10", "NDCGAt10": "ndcgAt10", "MRR": "mrr",
}  # fmt: skip
"""The key in `EvalRecord.metrics` of each value of `spec.training.evaluation.metric`."""


def deciding_metric(spec: PeftJobSpec) -> Metric:
    """Return the value of `spec.training.evaluation.metric`, or its default for the task."""
    chosen = spec.training.evaluation.metric if spec.training.evaluation else None
    return chosen or METRICS[spec.task.kind][0]


def is_better(metric: Metric, value: float, than: float | None) -> bool:
    """Tell whether a value of a deciding metric beats an earlier one; NaN beats nothing."""
    if value != value:
        return False
    if than is None or than != than:
        return True
    return value < than if metric in LOWER_IS_BETTER else value > than


def _beats(metric: Metric, found: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
    """Tell whether an evaluation beats an earlier one: where the deciding metric is the same, by the loss."""
    key = METRIC_KEYS[metric]
    if best is not None and found[key] == best[key]:
        return is_better("Loss", found["loss"], best["loss"])
    return is_better(metric, found[key], best[key] if best else None)


@dataclass(frozen=True)
class BaseBytes:
    """What rank 0 held of the frozen base, in bytes of real storage."""

    whole: int
    """All of the base."""
    partition: int
    """At rest, between steps."""
    peak: int
    """The most at any boundary of a module during one step, forward and backward: the partition and what was
    gathered."""
    largest_block: int
    """The largest repeated block (or module outside of those): what has to be gathered at once at the least."""


@dataclass
class History:
    """Steps and evaluations, in order."""

    steps: Steps = field(default_factory=Steps)
    evaluations: list[EvalRecord] = field(default_factory=list)
    base_bytes: BaseBytes | None = None
    """Measured in one early step."""
    returns: list[Return] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The last finished step; 0: none is."""
        return self.steps.last.step if self.steps.last else 0

    @property
    def skipped_in_a_row(self) -> int:
        """How many of the last steps were skipped, since the last return."""
        since = self.returns[-1].at if self.returns else 0
        return min(self.steps.skipped_in_a_row, self.step - since)

    def copy(self) -> "History":
        """Return one that stays as it is while this one grows."""
        return History(self.steps.copy(), list(self.evaluations), self.base_bytes, list(self.returns))

    def best_evaluation(self, spec: PeftJobSpec) -> EvalRecord | None:
        """Return the evaluation of the validation data whose step's adapter is published; of equals that of less loss.

        Few rows have few accuracies, which many epochs share: the first of those has learned least.
        """
        metric = deciding_metric(spec)
        key = METRIC_KEYS[metric]
        best: EvalRecord | None = None
        for record in self.evaluations:
            if record.split != "validation" or key not in record.metrics:
                continue
            if _beats(metric, record.metrics, best.metrics if best else None):
                best = record
        return best

    def has_evaluated(self, step: int) -> bool:
        """Tell whether the validation data was evaluated after a step."""
        return any(record.step == step and record.split == "validation" for record in self.evaluations)

    def last(self, split: str) -> EvalRecord | None:
        """Return the last evaluation of a split."""
        return next((r for r in reversed(self.evaluations) if r.split == split), None)
