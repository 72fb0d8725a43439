"""Adds up what tensors would take, while a model runs without data. Used by `dry_run`.

Floating-point tensors are fake (`FakeTensorMode`): shapes, dtypes and lifetimes, no numbers and no memory. Integers and
booleans are real as long as they are small, so that a model that looks at its token ids, labels or masks to decide what
to do decides as it will. Every storage is counted from the first operator that returns it until it is freed.
"""

import weakref
from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_MAX_REAL: Final = 2**24
"""Elements up to which integers and booleans are computed: a mask of 4096 x 4096."""
_NEEDS_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException)


class Meter(TorchDispatchMode):
    """Counts bytes; to be entered inside of a `FakeTensorMode` that allows real inputs."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self._now = 0
        self._units: dict[int, int] = {}
        self.peak = 0
        """Most bytes at once, without what is gathered."""
        self.peak_gathered = 0
        """Most bytes at once, with it."""

    def ignore(self, tensor: torch.Tensor) -> None:
        """Leave out a tensor that outlives the run."""
        self._live[tensor.untyped_storage()._cdata] = 0

    def gather(self, unit: int, nbytes: int, buffer: int) -> None:
        """Count a unit of the base as gathered; for a moment its buffer of the collective is there, too."""
        if unit not in self._units:
            self._units[unit] = nbytes
            self._look(buffer)

    def release(self, unit: int) -> None:
        """Count a unit as freed."""
        self._units.pop(unit, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count what it returns."""
        out = _run(func, args, kwargs or {})
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        self._look()
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._live:
            self._live[key] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self._now -= self._live.pop(key)

    def _look(self, buffer: int = 0) -> None:
        self.peak = max(self.peak, self._now)
        self.peak_gathered = max(self.peak_gathered, self._now + sum(self._units.values()) + buffer)


def fake_mode() -> FakeTensorMode:
    """Return the mode around a `Meter`."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator: for real if all that goes in and comes out is small and not floating-point."""
    if any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], _without_masks(args[1]))
        return func(*args, **kwargs)
    try:
        out = func(*args, **kwargs)
    except _NEEDS_NUMBERS:
        out = None
    tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
    if any(t.is_floating_point() or t.numel() > _MAX_REAL for t in tensors) or (out is not None and not tensors):
        return out
    with unset_fake_temporarily():
        return func(*args, **kwargs)


def _without_masks(indices: Any) -> list[Any]:
    """Return indices with the places of a mask instead of the mask, whose result would have no known shape."""
    found: list[Any] = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor)
        with unset_fake_temporarily():
            found += index.nonzero(as_tuple=True) if is_mask else [index]
    return found
