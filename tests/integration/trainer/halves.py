"""A file of two tensors, read as the second of two ranks reads it. Used by tests of sources that misbehave."""

from typing import Any

import numpy
from peftjob_trainer.sharding.sources import Read, Source
from safetensors.numpy import save

ELEMENTS = 200_000
VALUES = {name: numpy.arange(ELEMENTS, dtype="float32") + start for name, start in (("embed", 0), ("head", 7))}
FILE = save(VALUES)
OTHERS = save({name: values + 1 for name, values in VALUES.items()})
HALF_BYTES = len(VALUES) * ELEMENTS * 4 // 2


def read_half(source: Source) -> dict[str, numpy.ndarray[Any, Any]]:
    """Read the second half of each tensor."""
    about = source.weights.files["model.safetensors"]
    half = ELEMENTS // 2
    found = {name: numpy.zeros(half, dtype="float32") for name in about.tensors}
    source.read(
        [
            Read("model.safetensors", about.start + entry["data_offsets"][0] + 4 * half,
                 memoryview(found[name].view("uint8")), name)
            for name, entry in about.tensors.items()
        ]
    )  # fmt: skip
    source.verify()
    return found


def check_half(found: dict[str, numpy.ndarray[Any, Any]]) -> None:
    """Make sure that the right values came."""
    assert {name: values.tolist() for name, values in found.items()} == {
        name: values[ELEMENTS // 2 :].tolist() for name, values in VALUES.items()
    }
