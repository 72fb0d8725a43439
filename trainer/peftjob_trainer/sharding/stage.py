"""Takes ranges of files into tensors. Used by `load`.

Where dtype and device are the file's and the CPU, bytes go straight into the tensor. Otherwise they pass through one
of two buffers (pinned, for an accelerator): while one is copied on and cast, the other is being read into.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from .layout import Layout, Run
from .sources import Read, Source

BUFFER_BYTES: Final = 64 * 2**20
"""Of each of the two buffers."""
_ALIGNMENT: Final = 16


@dataclass(frozen=True)
class Target:
    """Elements of a parameter, and where they go."""

    name: str
    into: torch.Tensor
    """Flat, of `stop - start` elements."""
    start: int
    stop: int


@dataclass(frozen=True)
class _Passage:
    """Elements on their way: a run of a file, and where they go."""

    run: Run
    into: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.run.count * self.run.tensor.dtype.itemsize


class Stage:
    """Reads from one source to one device."""

    def __init__(self, source: Source, device: torch.device) -> None:
        self._source = source
        self._device = device

    def read(self, targets: Sequence[Target], layouts: Mapping[str, Layout]) -> None:
        """Fill all targets; for errors see `Source.read`."""
        straight: list[Read] = []
        staged: list[_Passage] = []
        for target in targets:
            for at, run in layouts[target.name].part(target.start, target.stop):
                into = target.into[at : at + run.count]
                if into.device.type == "cpu" and into.dtype == run.tensor.dtype:
                    straight.append(_read(run, into, is_new=True))
                else:
                    staged += _halves(run, into)
        if straight:
            self._source.read(straight)
        if staged:
            self._pass(staged)

    def _pass(self, passages: list[_Passage]) -> None:
        passages.sort(key=lambda p: (p.run.tensor.file, p.run.tensor.offset, p.run.start))
        on_device = self._device.type != "cpu"
        size = min(BUFFER_BYTES, sum(p.nbytes + _ALIGNMENT for p in passages))
        buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=on_device) for _ in range(2 if on_device else 1)]
        copied: list[Any] = [None] * len(buffers)
        for number, batch in enumerate(_batches(passages, size)):
            own = number % len(buffers)
            if copied[own] is not None:
                copied[own].synchronize()
            views, at = [], 0
            for passage in batch:
                views.append(buffers[own][at : at + passage.nbytes].view(passage.run.tensor.dtype))
                at += -(-passage.nbytes // _ALIGNMENT) * _ALIGNMENT
            self._source.read([_read(p.run, view) for p, view in zip(batch, views, strict=True)])
            for passage, view in zip(batch, views, strict=True):
                passage.into.copy_(view, non_blocking=on_device)
            if on_device:
                # The stream of these copies: that of our device, which need not be the current one.
                copied[own] = torch.cuda.current_stream(self._device).record_event()
        if on_device:
            torch.cuda.synchronize(self._device)  # other streams may use the values at once


def byte_reads(layout: Layout, start: int, into: torch.Tensor) -> Iterator[Read]:
    """Yield what to read for the elements from `start` on, of the file's dtype, into a new flat tensor on the CPU."""
    for at, run in layout.part(start, start + into.numel()):
        yield _read(run, into[at : at + run.count], is_new=True)


def _read(run: Run, into: torch.Tensor, is_new: bool = False) -> Read:
    offset = run.tensor.offset + run.start * run.tensor.dtype.itemsize
    into_bytes = memoryview(into.view(torch.uint8).numpy())  # type: ignore[arg-type]
    return Read(run.tensor.file, offset, into_bytes, run.tensor.name, is_new)


def _halves(run: Run, into: torch.Tensor) -> Iterator[_Passage]:
    """Yield a run in parts of at most a quarter of a buffer, so that several fill it well."""
    step = BUFFER_BYTES // 4 // run.tensor.dtype.itemsize
    for at in range(0, run.count, step):
        count = min(step, run.count - at)
        yield _Passage(Run(run.tensor, run.start + at, count), into[at : at + count])


def _batches(passages: Sequence[_Passage], size: int) -> Iterator[list[_Passage]]:
    """Yield passages as they fit into a buffer."""
    batch: list[_Passage] = []
    used = 0
    for passage in passages:
        needed = -(-passage.nbytes // _ALIGNMENT) * _ALIGNMENT
        if batch and used + needed > size:
            yield batch
            batch, used = [], 0
        batch.append(passage)
        used += needed
    if batch:
        yield batch
