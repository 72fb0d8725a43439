"""Which example is computed when, where: pure functions of seed, step and world size. Called by `train` and `evaluate`.

The order of the samples knows nothing of the world size, so that a run on other workers sees the same data. All ranks
derive everything from the same numbers, so they agree on the number of micro steps without a word.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from peftjob_api.spec import DEFAULT_EPOCHS

DEFAULT_MICRO_BATCH: Final = 8


@dataclass(frozen=True)
class Length:
    """How long training lasts."""

    steps_per_epoch: int
    total_steps: int


def length_of(examples: int, batch_size: int, epochs: float | None, max_steps: int | None) -> Length:
    """Return the number of steps; the last batch of an epoch may be short, and a part of an epoch is rounded up."""
    per_epoch = math.ceil(examples / batch_size)
    if max_steps is not None:
        return Length(per_epoch, max_steps)
    # Rounded first: 0.1 * 30 is a little more than 3.
    return Length(per_epoch, math.ceil(round((DEFAULT_EPOCHS if epochs is None else epochs) * per_epoch, 6)))


def global_batch(examples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Return the indices of the examples of a step (from 1), over all ranks."""
    per_epoch = math.ceil(examples / batch_size)
    epoch, position = divmod(step - 1, per_epoch)
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(examples)
    return [int(i) for i in order[position * batch_size : (position + 1) * batch_size]]


def deal(indices: Sequence[int], rank: int, world: int, micro_batch: int) -> list[list[int]]:
    """Return a rank's micro batches of some examples; every rank gets equally many, some of which may be empty."""
    count = math.ceil(math.ceil(len(indices) / world) / micro_batch)
    own = indices[rank::world]
    return [list(own[i * micro_batch : (i + 1) * micro_batch]) for i in range(count)]
