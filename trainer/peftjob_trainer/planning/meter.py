"""Adds up what tensors would take, while a model runs without data. Used by `dry_run`.

Floating-point tensors are fake (`FakeTensorMode`): shapes, dtypes and lifetimes, no numbers and no memory. Integers and
booleans are real as long as they are small, so that a model that looks at its token ids, labels or masks to decide what
to do decides as it will. Every storage is counted from the first operator that returns it until it is freed.
"""

import math
import weakref
from dataclasses import dataclass
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
_CHECKS = (torch.ops.aten.allclose.default, torch.ops.aten.equal.default)
"""What a model or a task makes sure of: without numbers it is taken to hold."""
_NEEDS_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException)


@dataclass
class Resident:
    """Bytes that tensors hold resident, as an allocator leaves them."""

    waste: float = 1.0
    """Times their size that tensors from the heap take: what is free between others stays resident."""
    heap_below: int = 0
    """Bytes from which a tensor is mapped, and given back, by itself."""
    peak: int = 0
    _heap: int = 0
    _most_of_heap: int = 0
    _mapped: int = 0

    def add(self, nbytes: int) -> None:
        """Count a tensor that comes to life."""
        if nbytes < self.heap_below:
            self._heap += nbytes
            self._most_of_heap = max(self._most_of_heap, self._heap)
        else:
            self._mapped += nbytes
        self.peak = max(self.peak, round(self.waste * self._most_of_heap) + self._mapped)

    def remove(self, nbytes: int) -> None:
        """Count one that dies."""
        if nbytes < self.heap_below:
            self._heap -= nbytes
        else:
            self._mapped -= nbytes


GLIBC: Final = {"waste": 2.0, "heap_below": 2**25}
"""PyTorch asks glibc for aligned memory, for which glibc (to 2.37) does not take a free chunk of the same size: it
wants one that is a little larger. So about every second chunk of a step's tensors stays empty. From 32 MiB on they are
mapped one by one. A step of BERT, all of it on the heap, took 1.95 times its tensors."""


class Meter(TorchDispatchMode):
    """Counts bytes; to be entered inside of a `FakeTensorMode` that allows real inputs."""

    def __init__(self, **allocator: Any) -> None:
        """Begin to count; `allocator` is how `Resident` counts, exactly by default."""
        super().__init__()
        self._live: dict[int, int] = {}
        self._units: dict[int, list[int]] = {}
        self.whole = Resident(**allocator)
        """Without what is gathered."""
        self.sharded = Resident(**allocator)
        """With it."""

    def ignore(self, tensor: torch.Tensor) -> None:
        """Leave out a tensor that outlives the run."""
        self._live[tensor.untyped_storage()._cdata] = 0

    def gather(self, unit: int, sizes: list[int]) -> None:
        """Count the parameters of a unit of the base as gathered, out of one buffer if there are several."""
        if unit in self._units:
            return
        self._units[unit] = sizes
        buffer = sum(sizes) if len(sizes) > 1 else 0
        self.sharded.add(buffer)
        for nbytes in sizes:
            self.sharded.add(nbytes)
        self.sharded.remove(buffer)

    def release(self, unit: int) -> None:
        """Count a unit as freed."""
        for nbytes in self._units.pop(unit, []):
            self.sharded.remove(nbytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count what it returns."""
        out = _run(func, args, kwargs or {})
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._live:
            nbytes = self._live[key] = storage.nbytes()
            self.whole.add(nbytes)
            self.sharded.add(nbytes)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        nbytes = self._live.pop(key)
        self.whole.remove(nbytes)
        self.sharded.remove(nbytes)


def fake_mode() -> FakeTensorMode:
    """Return the mode around a `Meter`."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operator: for real if all that goes in and comes out is small and not floating-point."""
    if any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
        if func in _CHECKS:
            return True
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], _without_masks(args[1]))
        return func(*args, **kwargs)
    if func is torch.ops.aten.rand.default and math.prod(args[0]) == 1:
        with unset_fake_temporarily():
            return torch.ones(args[0])  # what chance leaves out, such as a module of LoHa, is there
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
