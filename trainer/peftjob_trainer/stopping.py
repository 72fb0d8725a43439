"""When the validation data is evaluated, and when training ends early; pure. Called by `train`."""

from collections.abc import Sequence

from peftjob_api import PeftJobSpec
from peftjob_api.metrics import LOWER_IS_BETTER

from .history import METRIC_KEYS, EvalRecord, deciding_metric, is_better


def evaluates_after(spec: PeftJobSpec, step: int, steps_per_epoch: int, total_steps: int) -> bool:
    """Tell whether the validation data is evaluated after a step: each epoch or N steps, and after the last one."""
    if not spec.dataset.has_validation:
        return False
    every = (spec.training.evaluation.every_steps if spec.training.evaluation else None) or steps_per_epoch
    return step % every == 0 or step == total_steps


def is_out_of_patience(spec: PeftJobSpec, evaluations: Sequence[EvalRecord]) -> bool:
    """Tell whether training stops early, after some evaluations: `training.earlyStopping` counts those in vain."""
    rule, metric = spec.training.early_stopping, deciding_metric(spec)
    if rule is None:
        return False
    handicap = rule.min_delta if metric in LOWER_IS_BETTER else -rule.min_delta
    best: float | None = None
    in_vain = 0
    for record in evaluations:
        value = record.metrics[METRIC_KEYS[metric]]
        if is_better(metric, value + handicap, best):
            best, in_vain = value, 0
        else:
            in_vain += 1
    return in_vain >= rule.patience
