"""Which example is computed when, where: pure functions of seed, step and world size. Called by `train` and `batches`.

The order of the samples knows nothing of the world size, so that a run on other workers sees the same data. All ranks
derive everything from the same numbers, so they agree on the number of micro steps without a word.
"""

import bisect
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
    assert epochs is not None, "one of both is set or has been chosen"
    # Rounded first: 0.1 * 30 is a little more than 3.
    return Length(per_epoch, math.ceil(round(epochs * per_epoch, 6)))


def global_batch(examples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Return the indices of the examples of a step (from 1), over all ranks."""
    per_epoch = math.ceil(examples / batch_size)
    epoch, position = divmod(step - 1, per_epoch)
    chosen: list[int] = _order(examples, seed, epoch)[position * batch_size : (position + 1) * batch_size].tolist()
    return chosen


@lru_cache(maxsize=2)
def _order(examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the indices of all examples as an epoch (from 0) has them; kept, for a step needs a few of them."""
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(examples)


def deal_by_length(lengths: Sequence[int], rank: int, world: int, micro_batch: int) -> list[list[int]]:
    """Return a rank's micro batches of rows, as indices; every rank gets equally many, of which the last may be empty.

    Neighbours in length are computed at once, on all ranks, since rows are padded to the longest of their micro batch
    and ranks wait for each other; the longest first, so that too little memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    at_once = world * micro_batch
    return [order[start : start + at_once][rank::world] for start in range(0, len(order), at_once)]


def pack(lengths: Sequence[int], longest: int, multiple: int) -> list[list[int]]:
    """Return rows of at most `longest` tokens, as indices of the examples in each.

    As few rows as best-fit decreasing needs, rounded up to a multiple (of the ranks), and of equal length where that
    fits: what one rank does not compute, it waits for.

    Args:
        lengths: Tokens of each example, none above `longest`.
        longest: Tokens of a row.
        multiple: Of what the number of rows is to be one, if there are as many examples.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []
    """Free tokens and row, ascending."""
    for i in order:
        place = bisect.bisect_left(room, (lengths[i], 0))
        free, row = room.pop(place) if place < len(room) else (longest, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(i)
        bisect.insort(room, (free - lengths[i], row))
    wanted = min(len(lengths), math.ceil(len(rows) / multiple) * multiple)
    even: list[list[int]] = [[] for _ in range(wanted)]
    filled = [(0, row) for row in range(wanted)]
    for i in order:
        tokens, row = heapq.heappop(filled)
        even[row].append(i)
        heapq.heappush(filled, (tokens + lengths[i], row))
    return even if max(filled)[0] <= longest else rows
