"""Which examples of the training data `validationFraction` and `testFraction` set aside; pure. Used by `load`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]
"""Numbers of examples in the order of the files, from 0."""


def set_aside(count: int, fractions: Mapping[str, float], seed: int) -> dict[str, Places]:
    """Return the places of each part in ascending order; `train` has those that no fraction takes.

    A function of these numbers alone: nodes, ranks and their number make no difference.

    Args:
        count: Number of examples.
        fractions: Part -> its share, rounded to whole examples, of which it has at least one.
        seed: `dataset.splitSeed`.

    Raises:
        ValueError: Too few examples for one in each part.
    """
    if count <= len(fractions):
        raise ValueError(f"{count} examples are too few for {len(fractions) + 1} parts")
    order: Any = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    parts: dict[str, Places] = {}
    for name, fraction in fractions.items():
        size = min(max(1, round(fraction * count)), len(order) - len(fractions) + len(parts))
        parts[name], order = np.sort(order[:size]), order[size:]
    return {**parts, "train": np.sort(order)}
