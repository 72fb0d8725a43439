"""A tensor without data that remembers where in the files its elements lie. Used by `segments`.

The operations by which transformers converts a checkpoint (`ConversionOps`) run on it as on a tensor: they stack,
concatenate and split. Whatever moves contiguous elements as a whole is followed; anything else raises
`NotContiguous`, and the caller reads that tensor another way.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

MAX_RUNS: Final = 4096
"""Contiguous pieces of one tensor. Experts need two for each; a thousand times more are rows or columns in turn."""


class NotContiguous(Exception):
    """An operation does more than to put contiguous elements in another order."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    file: str
    name: str
    offset: int
    """Of its first byte in the file."""
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """Contiguous elements of a stored tensor."""

    tensor: Stored
    start: int
    count: int


class Layout:
    """A shape, and the runs that make up its elements in row-major order."""

    def __init__(self, shape: Sequence[int], runs: Sequence[Run]) -> None:
        self.shape = torch.Size(shape)
        self.runs = list(runs)
        assert sum(run.count for run in runs) == math.prod(shape), (shape, runs)
        if len(self.runs) > MAX_RUNS:
            raise NotContiguous(f"{len(self.runs)} pieces")

    @classmethod
    def of(cls, tensor: Stored) -> "Layout":
        """Return a stored tensor as it is."""
        return cls(tensor.shape, [Run(tensor, 0, math.prod(tensor.shape))])

    def part(self, start: int, stop: int) -> Iterator[tuple[int, Run]]:
        """Yield the runs of the elements from `start` to before `stop`, each with its place among those."""
        at = 0
        for run in self.runs:
            first, last = max(start, at), min(stop, at + run.count)
            if first < last:
                yield first - start, Run(run.tensor, run.start + first - at, last - first)
            at += run.count

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the file."""
        return self.runs[0].tensor.dtype if self.runs else torch.float32

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one dimension of it."""
        return self.shape if dim is None else self.shape[dim]

    def contiguous(self) -> "Layout":
        """Return the same."""
        return self

    clone = detach = contiguous

    def reshape(self, *shape: Any) -> "Layout":
        """Return the same elements in another shape."""
        wanted = list(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        if -1 in wanted:
            at = wanted.index(-1)
            wanted[at] = self.numel() // max(1, -math.prod(wanted))
        return Layout(wanted, self.runs)

    view = reshape

    def unsqueeze(self, dim: int) -> "Layout":
        """Return the same with one more dimension of size 1."""
        at = dim % (self.ndim + 1)
        return Layout((*self.shape[:at], 1, *self.shape[at:]), self.runs)

    def squeeze(self, dim: int) -> "Layout":
        """Return the same without a dimension of size 1; one of another size stays."""
        at = dim % self.ndim
        return Layout((*self.shape[:at], *self.shape[at + 1 :]), self.runs) if self.shape[at] == 1 else self

    def narrow(self, dim: int, start: int, length: int) -> "Layout":
        """Return some indices of a dimension."""
        at = dim % self.ndim
        outer, inner = math.prod(self.shape[:at]), math.prod(self.shape[at + 1 :])
        whole = self.shape[at] * inner
        if outer > MAX_RUNS:
            raise NotContiguous(f"{outer} pieces")
        runs = [
            run
            for block in range(outer)
            for _, run in self.part(block * whole + start * inner, block * whole + (start + length) * inner)
        ]
        return Layout((*self.shape[:at], length, *self.shape[at + 1 :]), runs)

    def split(self, sizes: int | Sequence[int], dim: int = 0) -> tuple["Layout", ...]:
        """Return pieces of a size, or of some sizes, along a dimension."""
        length = self.shape[dim]
        if isinstance(sizes, int):
            sizes = [min(sizes, length - at) for at in range(0, length, sizes)]
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        return tuple(self.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=True))

    def chunk(self, chunks: int, dim: int = 0) -> tuple["Layout", ...]:
        """Return at most so many pieces of one size along a dimension; the last may be smaller."""
        return self.split(-(-self.shape[dim] // chunks), dim)

    def unbind(self, dim: int = 0) -> tuple["Layout", ...]:
        """Return the pieces of size 1 along a dimension, without it."""
        return tuple(piece.squeeze(dim) for piece in self.split(1, dim))

    def transpose(self, dim0: int, dim1: int) -> "Layout":
        """Exchange two dimensions, which moves nothing only if one has size 1, and all between them."""
        first, last = sorted((dim0 % self.ndim, dim1 % self.ndim))
        shape = list(self.shape)
        shape[first], shape[last] = shape[last], shape[first]
        if sum(size != 1 for size in self.shape[first : last + 1]) > 1:
            raise NotContiguous("a transpose")
        return Layout(shape, self.runs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotContiguous(name)

    def __getitem__(self, index: Any) -> "Layout":
        if index is Ellipsis:
            return self
        if isinstance(index, int):
            return self.narrow(0, index % self.shape[0], 1).squeeze(0)
        raise NotContiguous("indexing")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Stand in for a tensor in torch's own functions."""
        name = getattr(func, "__name__", str(func))
        if name not in _FUNCTIONS:
            raise NotContiguous(name)
        return _FUNCTIONS[name](*args, **(kwargs or {}))


def concatenate(tensors: Sequence[Layout], dim: int = 0) -> Layout:
    """Put tensors after each other along a dimension."""
    at = dim % tensors[0].ndim
    head, tail = tensors[0].shape[:at], tensors[0].shape[at + 1 :]
    if any(t.shape[:at] != head or t.shape[at + 1 :] != tail for t in tensors):
        raise ValueError(f"shapes {[tuple(t.shape) for t in tensors]} do not fit together along dimension {at}")
    outer = math.prod(head)
    if outer * len(tensors) > MAX_RUNS:
        raise NotContiguous(f"{outer * len(tensors)} pieces")
    blocks = [t.numel() // outer if outer else 0 for t in tensors]
    runs = [
        run
        for block in range(outer)
        for tensor, size in zip(tensors, blocks, strict=True)
        for _, run in tensor.part(block * size, (block + 1) * size)
    ]
    return Layout((*head, sum(t.shape[at] for t in tensors), *tail), runs)


def stack(tensors: Sequence[Layout], dim: int = 0) -> Layout:
    """Put tensors after each other along a new dimension."""
    return concatenate([tensor.unsqueeze(dim) for tensor in tensors], dim)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "cat": concatenate,
    "concat": concatenate,
    "stack": stack,
    "split": Layout.split,
    "chunk": Layout.chunk,
    "unbind": Layout.unbind,
    "narrow": Layout.narrow,
    "reshape": Layout.reshape,
    "squeeze": Layout.squeeze,
    "unsqueeze": Layout.unsqueeze,
    "transpose": Layout.transpose,
}
