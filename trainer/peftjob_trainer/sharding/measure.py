"""Measures how much of the frozen base a rank really holds while it computes. Called by `train` for one early step.

The claim of sharding is easily lost without any error (DeepSpeed's defaults keep what they gathered), so each run
measures it and says so in its report. Looked at are the boundaries of all modules without children: before and after
each one's forward, when the gradient of its output arrives, and when that of its input is there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..history import BaseBytes
from .state import Sharded
from .zero3 import unit_bytes


class Measurement:
    """What was seen so far."""

    def __init__(self, sharded: Sharded) -> None:
        self._sharded = sharded
        self._partition = self._peak = sharded.resident_bytes()

    def look(self, *_: Any) -> None:
        """Look at what is alive now; a hook of modules and of tensors."""
        self._peak = max(self._peak, self._sharded.resident_bytes())

    def result(self) -> BaseBytes:
        """Return what was seen."""
        return BaseBytes(
            whole=self._sharded.whole_bytes(),
            partition=self._partition,
            peak=self._peak,
            largest_block=max(unit_bytes(self._sharded.model)),
        )


@contextmanager
def measured(sharded: Sharded) -> Iterator[Measurement]:
    """Look at every boundary in this context; a replica of the base is at all of them what it is at rest."""
    measurement = Measurement(sharded)
    if not sharded.is_partitioned:
        yield measurement
        return

    def on_gradient(tensors: Any) -> None:
        for tensor in tensors if isinstance(tensors, tuple | list) else (tensors,):
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad and torch.is_grad_enabled():
                tensor.register_hook(measurement.look)

    def before(_: Any, inputs: Any) -> None:
        measurement.look()
        on_gradient(inputs)

    def after(_: Any, inputs: Any, output: Any) -> None:
        measurement.look()
        on_gradient(output)

    leaves = [module for module in sharded.model.modules() if next(module.children(), None) is None]
    # ZeRO's own hooks are older, so ours see what they gathered.
    hooks = [module.register_forward_pre_hook(before) for module in leaves]
    hooks += [module.register_forward_hook(after) for module in leaves]
    try:
        yield measurement
    finally:
        for hook in hooks:
            hook.remove()
