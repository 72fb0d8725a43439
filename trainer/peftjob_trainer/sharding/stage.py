"""Takes ranges of files into tensors. Used by `load`.

Where dtype and device are the file's and the CPU, bytes go straight into the tensor. Otherwise they pass through a ring
of buffers (pinned, for an accelerator): while some are copied on and cast, others are being read into.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

import torch

from .layout import Layout, Run
from .sources import Read, Source

RING_BYTES: Final = {"cpu": 64 * 2**20, "cuda": 256 * 2**20}
"""Of all buffers together. An accelerator takes bytes faster than one thread reads them, even from the page cache."""
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

    def part(self, start: int, count: int) -> "_Passage":
        """Return some of the elements."""
        return _Passage(Run(self.run.tensor, self.run.start + start, count), self.into[start : start + count])


@dataclass
class _Buffer:
    """Memory that passages go through; made by the thread that uses it first, since pinning it takes time."""

    memory: torch.Tensor | None = None
    copied: Any = None
    """The event after which it may be used again, if there is one."""


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
                    staged.append(_Passage(run, into))
        if straight:
            self._source.read(straight)
        if staged:
            self._pass(staged)

    def _pass(self, passages: list[_Passage]) -> None:
        """Carry passages through a ring of buffers, as many at a time as there are, in the order of the files."""
        passages.sort(key=lambda p: (p.run.tensor.file, p.run.tensor.offset, p.run.start))
        needed = sum(_aligned(p.nbytes) for p in passages)
        size = min(self._source.part_bytes, needed)
        count = max(1, min(RING_BYTES[self._device.type] // size, -(-needed // size)))
        ring: SimpleQueue[_Buffer] = SimpleQueue()
        for _ in range(count):
            ring.put(_Buffer())
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(self._carry, batch, size, ring) for batch in batches(passages, size)]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((error for future in futures if future in done and (error := future.exception())), None)
            if failed is not None:
                pool.shutdown(wait=True, cancel_futures=True)
                raise failed
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # other streams may use the values at once

    def _carry(self, batch: list[_Passage], size: int, ring: "SimpleQueue[_Buffer]") -> None:
        """Read what fits into a buffer, and begin to copy it on; in a thread, whose device is not ours yet."""
        on_device = self._device.type == "cuda"
        buffer = ring.get()
        try:
            with torch.cuda.device(self._device) if on_device else nullcontext():
                if buffer.memory is None:
                    buffer.memory = torch.empty(size, dtype=torch.uint8, pin_memory=on_device)
                if buffer.copied is not None:
                    buffer.copied.synchronize()
                views, at = [], 0
                for passage in batch:
                    views.append(buffer.memory[at : at + passage.nbytes].view(passage.run.tensor.dtype))
                    at += _aligned(passage.nbytes)
                self._source.read([_read(p.run, view) for p, view in zip(batch, views, strict=True)], at_once=1)
                for passage, view in zip(batch, views, strict=True):
                    # In the file's dtype over the bus, and cast there: a copy that casts on its way waits for it.
                    moved = view if view.dtype == passage.into.dtype else view.to(self._device, non_blocking=True)
                    passage.into.copy_(moved, non_blocking=True)
                if on_device:
                    buffer.copied = torch.cuda.current_stream().record_event()
        finally:
            ring.put(buffer)


def byte_reads(layout: Layout, start: int, into: torch.Tensor) -> Iterator[Read]:
    """Yield what to read for the elements from `start` on, of the file's dtype, into a new flat tensor on the CPU."""
    for at, run in layout.part(start, start + into.numel()):
        yield _read(run, into[at : at + run.count], is_new=True)


def batches(passages: Sequence[_Passage], size: int) -> Iterator[list[_Passage]]:
    """Yield passages as they fill a buffer of so many bytes, a multiple of the alignment; large ones in parts."""
    batch: list[_Passage] = []
    used = 0
    for passage in passages:
        at = 0
        while at < passage.run.count:
            count = min(passage.run.count - at, (size - used) // passage.run.tensor.dtype.itemsize)
            if count:
                batch.append(passage.part(at, count))
                used += _aligned(batch[-1].nbytes)
                at += count
            else:
                yield batch
                batch, used = [], 0
    if batch:
        yield batch


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _read(run: Run, into: torch.Tensor, is_new: bool = False) -> Read:
    offset = run.tensor.offset + run.start * run.tensor.dtype.itemsize
    into_bytes = memoryview(into.view(torch.uint8).numpy())  # type: ignore[arg-type]
    return Read(run.tensor.file, offset, into_bytes, run.tensor.name, is_new)
