"""The learning rate of each step; pure. Called by `train`."""

import math

from .resolve import ResolvedTraining


def learning_rate(training: ResolvedTraining, step: int, total_steps: int) -> float:
    """Return the learning rate of a step, counted from 1.

    As in transformers' schedulers, the first step of a warm-up has the rate 0 and the warm-up's length is rounded up.
    """
    done = step - 1
    warmup = math.ceil(training.warmup_ratio * total_steps)
    if done < warmup:
        return training.learning_rate * done / warmup
    if training.schedule == "Constant":
        return training.learning_rate
    share = (done - warmup) / max(1, total_steps - warmup)
    factor = 1 - share if training.schedule == "Linear" else 0.5 * (1 + math.cos(math.pi * share))
    return training.learning_rate * max(0.0, factor)
