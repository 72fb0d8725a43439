"""Samples in files of this node, so that no rank holds the data: encoded once by one rank, read by all when needed.

`load` writes them, and everything that takes samples reads them like a list. A sample is a pickle, of our own making
and in the node's own work folder, at an offset that the index knows; lengths and offsets are mapped, not read.
"""

import hashlib
import os
import pickle
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self, overload

import numpy as np
from numpy.typing import NDArray

from .parts import Places
from .types import Picture, Sample

_AT_ONCE: Final = 64
"""Samples that are read in one go when all are."""


class Writer:
    """Writes samples to a file and its index, one after the other; each file appears whole or not at all."""

    def __init__(self, path: Path, labels: Sequence[str] | None = None) -> None:
        """Begin a file, whose folder is there; `labels` are what indices in the samples mean."""
        self._path = path
        self._file = path.with_suffix(".part").open("wb")
        self._offsets, self._lengths, self._cut = array("q", [0]), array("i"), array("b")
        self._digest = hashlib.sha256(repr(labels).encode())

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self._lengths)

    def add(self, sample: Sample, is_cut: bool) -> None:
        """Write a sample."""
        body = pickle.dumps(sample, pickle.HIGHEST_PROTOCOL)
        self._digest.update(_told(sample, body))
        self._file.write(body)
        self._offsets.append(self._offsets[-1] + len(body))
        self._lengths.append(sample.length)
        self._cut.append(is_cut)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def finish(self) -> tuple["StoredSamples", str]:
        """Return the samples, and the digest of all that they are."""
        self._file.close()
        for name, values in (("offsets", self._offsets), ("lengths", self._lengths), ("cut", self._cut)):
            with (temporary := self._path.with_suffix(f".{name}.part")).open("wb") as file:
                np.save(file, np.array(values))
            temporary.replace(_index(self._path, name))
        self._path.with_suffix(".part").replace(self._path)
        return StoredSamples(self._path), self._digest.hexdigest()


class StoredSamples(Sequence[Sample]):
    """Samples of a file, or some of them, in an order of their own; can be handed to another process of the node."""

    def __init__(self, path: Path, places: Places | None = None) -> None:
        """Take the samples of a file that a `Writer` has finished.

        Args:
            path: Of the file.
            places: Numbers of the samples in it; None: all.
        """
        self._path = path
        self._places = places

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self._offsets) - 1 if self._places is None else len(self._places)

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: slice) -> "StoredSamples": ...

    def __getitem__(self, place: int | slice) -> "Sample | StoredSamples":
        """Read a sample, or choose some without reading them."""
        if isinstance(place, slice):
            return self.take(np.arange(*place.indices(len(self))))
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        at = place % len(self)
        at = at if self._places is None else int(self._places[at])
        return self._read(at, at + 1)[0]

    def __iter__(self) -> Iterator[Sample]:
        """Read all, neighbours in the file together."""
        for start in range(0, len(self), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(self))
            chosen = range(start, stop) if self._places is None else self._places[start:stop].tolist()
            if chosen[-1] - chosen[0] == len(chosen) - 1:
                yield from self._read(chosen[0], chosen[-1] + 1)
            else:
                yield from (self._read(at, at + 1)[0] for at in chosen)

    def take(self, places: Places) -> "StoredSamples":
        """Return the samples at some places of these, in that order."""
        return StoredSamples(self._path, places if self._places is None else self._places[places])

    def numbers(self, indices: Sequence[int]) -> list[int]:
        """Return what number, from 1, each of some samples has in the file."""
        return [1 + (i if self._places is None else int(self._places[i])) for i in indices]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Of each sample."""
        return self._of_index("lengths")

    @property
    def cut(self) -> NDArray[np.int8]:
        """Of each sample, 1 if it was cut to `dataset.maxLength` tokens, else 0."""
        return self._of_index("cut")

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: no open file."""
        return {"_path": self._path, "_places": self._places}

    def __del__(self) -> None:
        """Close the file."""
        if "_file" in self.__dict__:
            os.close(self._file)

    def _of_index(self, name: str) -> NDArray[Any]:
        values = np.load(_index(self._path, name), mmap_mode="r")
        return values if self._places is None else values[self._places]

    def _read(self, first: int, last: int) -> list[Sample]:
        """Read the samples of the file from `first` to before `last`."""
        ends = self._offsets[first : last + 1].tolist()
        block = memoryview(os.pread(self._file, ends[-1] - ends[0], ends[0]))
        return [pickle.loads(block[begin - ends[0] : end - ends[0]]) for begin, end in pairwise(ends)]

    @cached_property
    def _file(self) -> int:
        return os.open(self._path, os.O_RDONLY)

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.load(_index(self._path, "offsets"), mmap_mode="r")
        return found


def lengths_of(samples: Sequence[Sample]) -> Sequence[int]:
    """Return the length of each sample, without reading any where they are stored."""
    return samples.lengths.tolist() if isinstance(samples, StoredSamples) else [sample.length for sample in samples]


def numbers_of(samples: Sequence[Sample], indices: Sequence[int]) -> list[int]:
    """Return what number, from 1, each of some samples has in the order of the files, those left out not counted."""
    return samples.numbers(indices) if isinstance(samples, StoredSamples) else [1 + i for i in indices]


def _told(sample: Sample, body: bytes) -> bytes:
    """Return what tells a sample from another one, of its pickle: not where on this node the file of an image lies."""
    if isinstance(sample, Picture) and isinstance(sample.file, Path):
        with sample.file.open("rb") as file:
            return pickle.dumps(replace(sample, file=hashlib.file_digest(file, "sha256").digest()))
    return body


def _index(path: Path, name: str) -> Path:
    return path.with_suffix(f".{name}.npy")
