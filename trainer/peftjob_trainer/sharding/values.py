"""Values of the base that something else is made from, such as heads, buffers, norms of rows or chosen tokens.

Made by `load`; to be used between `prepare` and `fill`, while the base itself has no data yet: each read goes to the
files, and gets just the bytes that are asked for. What each rank needs of many tensors is computed once in the world.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from .layout import Layout
from .segments import Conversion, Segments
from .sources import Source
from .stage import Stage, Target, byte_reads


class Values:
    """Reads tensors of a base by their names in the model."""

    def __init__(self, source: Source, segments: Segments, model: Any, device: torch.device) -> None:
        self._source = source
        self._segments = segments
        self._model = model
        self._device = device

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return a whole parameter or buffer, on the CPU; for errors see `Source.read`."""
        layout = self._segments.layouts.get(name)
        if layout is None:
            return self._converted(name, dtype)
        value = torch.empty(layout.shape, dtype=dtype)
        self._read([Target(name, value.view(-1), 0, value.numel())])
        return value

    def rows(self, name: str, indices: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return some rows of a parameter, of shape `[len(indices), *shape[1:]]`, on the CPU; only those are read.

        Args:
            name: Of the parameter.
            indices: In the first dimension, not negative, in any order; some may be the same.
            dtype: Of the result.

        Raises:
            IndexError: There is no such row.
        """
        layout = self._segments.layouts.get(name)
        if layout is None:
            return self._converted(name, dtype)[list(indices)]
        unique = sorted(set(indices))
        if unique and not 0 <= unique[0] <= unique[-1] < layout.shape[0]:
            raise IndexError(f"{name} has {layout.shape[0]} rows, not {unique[0]} to {unique[-1]}")
        width = math.prod(layout.shape[1:])
        found = torch.empty(len(unique), width, dtype=dtype)
        self._read([Target(name, found[at], row * width, (row + 1) * width) for at, row in enumerate(unique)])
        place = {row: at for at, row in enumerate(unique)}
        return found[[place[row] for row in indices]].view(-1, *layout.shape[1:])

    def span(self, name: str, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the elements of a parameter from `start` to before `stop`, flat, on the CPU; only those are read."""
        if name not in self._segments.layouts:
            return self._converted(name, dtype).flatten()[start:stop]
        found = torch.empty(stop - start, dtype=dtype)
        self._read([Target(name, found, start, stop)])
        return found

    def each(
        self,
        shapes: Mapping[str, Sequence[int]],
        compute: Callable[[str, torch.Tensor], torch.Tensor],
        dtype: torch.dtype,
    ) -> dict[str, torch.Tensor]:
        """Return what is computed from each of some parameters, the same on all ranks; collective.

        Each parameter is read and computed with by one rank of the world. What comes of it is sent, so it should be
        small.

        Args:
            shapes: Name of a parameter -> shape of what comes of it.
            compute: Of a name and a whole parameter, on the CPU.
            dtype: Of the parameters; what comes of them is fp32, on this rank's device.
        """
        mine = deal({name: self._elements(name) for name in shapes}, dist.get_world_size())[dist.get_rank()]
        numbers = [math.prod(shape) for shape in shapes.values()]
        flat = torch.zeros(sum(numbers), dtype=torch.float32)
        places = dict(zip(shapes, flat.split(numbers), strict=True))
        for name in mine:
            places[name].copy_(compute(name, self.tensor(name, dtype)).reshape(-1))
        flat = flat.to(self._device)
        dist.all_reduce(flat)  # the others have zeros there
        return {n: part.view(*shapes[n]) for n, part in zip(shapes, flat.split(numbers), strict=True)}

    def converted(self, conversion: Conversion, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Return what the library would compute from whole tensors, by name in the model."""
        tensors = {t: torch.empty(t.shape, dtype=t.dtype) for t in conversion.stored}
        self._source.read([r for t, whole in tensors.items() for r in byte_reads(Layout.of(t), 0, whole.view(-1))])
        # As the library does, the cast comes first.
        return conversion.run(self._model, {t: whole.to(dtype) for t, whole in tensors.items()})

    def _converted(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        return self.converted(self._conversion(name), dtype)[name]

    def _conversion(self, name: str) -> Conversion:
        return next(conversion for conversion in self._segments.conversions if name in conversion.targets)

    def _elements(self, name: str) -> int:
        """Return how many elements are read for a parameter."""
        if name in self._segments.layouts:
            return self._segments.layouts[name].numel()
        return sum(math.prod(tensor.shape) for tensor in self._conversion(name).stored)

    def _read(self, targets: Sequence[Target]) -> None:
        Stage(self._source, torch.device("cpu")).read(targets, self._segments.layouts)


def deal(sizes: Mapping[str, int], hands: int) -> list[list[str]]:
    """Return who of so many gets what, the same for all who ask: the largest first, each to who has least so far."""
    dealt: list[list[str]] = [[] for _ in range(hands)]
    held = [0] * hands
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = held.index(min(held))
        dealt[least].append(name)
        held[least] += sizes[name]
    return dealt
