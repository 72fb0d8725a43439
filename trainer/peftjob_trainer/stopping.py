"""When the validation data is evaluated, and when training ends early; pure. Called by `train`."""

from peftjob_api import PeftJobSpec
from peftjob_api.metrics import LOWER_IS_BETTER

from .history import METRIC_KEYS, EvalRecord, deciding_metric, is_better


def evaluates_after(spec: PeftJobSpec, step: int, steps_per_epoch: int, total_steps: int) -> bool:
    """Tell whether the validation data is evaluated after a step: each epoch or N steps, and after the last one."""
    if not spec.dataset.has_validation:
        return False
    every = (spec.training.evaluation.every_steps if spec.training.evaluation else None) or steps_per_epoch
    return step % every == 0 or step == total_steps


class Patience:
    """Counts evaluations in a row without improvement, for `training.earlyStopping`."""

    def __init__(self, spec: PeftJobSpec) -> None:
        self._metric = deciding_metric(spec)
        self._rule = spec.training.early_stopping
        self._best: float | None = None
        self._in_vain = 0

    def is_over(self, record: EvalRecord) -> bool:
        """Count an evaluation; tell whether training stops."""
        if self._rule is None:
            return False
        value = record.metrics[METRIC_KEYS[self._metric]]
        handicap = self._rule.min_delta if self._metric in LOWER_IS_BETTER else -self._rule.min_delta
        if is_better(self._metric, value + handicap, self._best):
            self._best, self._in_vain = value, 0
        else:
            self._in_vain += 1
        return self._in_vain >= self._rule.patience
