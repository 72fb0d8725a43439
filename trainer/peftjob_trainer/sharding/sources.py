"""Reads ranges of weights files straight into memory: from a local file, from S3, or from a hub. Used by `load`.

Neighbouring ranges become one request, large ones several, and a bounded number of them are under way at a time.
Every source holds on to one version of each file: a file that is cut, replaced or gone while it is read is an error
that names it and the tensor, never a mixture of two versions.
"""

import ctypes
import hashlib
import itertools
import mmap
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from peftjob_api import Reason
from peftjob_api.spec import StorageSpec

from ..exits import TrainerError
from ..storage import ObjectNotFound, PreconditionFailed, hub
from ..storage.fetch import open_s3
from ..storage.patience import Patience
from ..storage.s3 import S3Store
from ..storage.weights import Weights, corrupt, verify_weights

LOCAL_THREADS: Final = 4
LOCAL_PART_BYTES: Final = 16 * 2**20
REMOTE_THREADS: Final = 8
REMOTE_PART_BYTES: Final = 16 * 2**20
"""Of one request: large against a round trip, small enough for a few of them to share a link."""
MAX_GAP_BYTES: Final = 64 * 1024
"""Between two ranges that one request gets anyway: this takes less time than another round trip."""
GAPS_SHARE: Final = 0.005
"""Of all bytes, at most so much is read in vain."""
_MAX_VECTORS: Final = 512
"""Destinations of one system call (IOV_MAX is 1024 on Linux)."""
_MADV_POPULATE_WRITE: Final = 23
"""Of Linux since 5.14; older ones refuse it."""
_LIBC: Final = ctypes.CDLL(None)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@dataclass(frozen=True)
class Read:
    """Bytes of a file that are wanted."""

    file: str
    offset: int
    into: memoryview
    """Where they go, as bytes; tells also how many they are."""
    tensor: str
    """Whose they are, for messages."""
    is_new: bool = False
    """Nobody has touched that memory yet."""

    @property
    def stop(self) -> int:
        """The offset after the last byte."""
        return self.offset + len(self.into)


@dataclass(frozen=True)
class Piece:
    """A range of one file that is asked for at once: reads in order, perhaps with small gaps between them."""

    reads: tuple[Read, ...]

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.reads[0].file

    @property
    def start(self) -> int:
        """The offset of the first byte."""
        return self.reads[0].offset

    @property
    def stop(self) -> int:
        """The offset after the last byte."""
        return self.reads[-1].stop


def pieces(reads: Sequence[Read], part: int, max_gap: int) -> list[Piece]:
    """Return the requests for some reads, in the order of the files' bytes.

    Args:
        reads: In any order, not overlapping.
        part: Bytes of one request, at most.
        max_gap: Bytes between two reads that may be read in vain; the smallest gaps first, `GAPS_SHARE` in all.
    """
    small = [
        replace(read, offset=read.offset + at, into=read.into[at : at + part])
        for read in reads
        for at in range(0, len(read.into), part)
    ]
    small.sort(key=lambda read: (read.file, read.offset))
    bridged = _affordable(small, max_gap)
    grouped: list[list[Read]] = []
    for at, read in enumerate(small):
        last = grouped[-1] if grouped else None
        if (
            last
            and last[-1].file == read.file
            and (read.offset == last[-1].stop or at in bridged)
            and read.stop - last[0].offset <= part
            and len(last) < _MAX_VECTORS
        ):
            last.append(read)
        else:
            grouped.append([read])
    return [Piece(tuple(group)) for group in grouped]


def _affordable(reads: Sequence[Read], max_gap: int) -> set[int]:
    """Return which reads follow on their predecessor after a gap that is read in vain: the smallest, within budget."""
    budget = int(GAPS_SHARE * sum(len(read.into) for read in reads))
    gaps = sorted(
        (after.offset - before.stop, at)
        for at, (before, after) in enumerate(itertools.pairwise(reads), 1)
        if before.file == after.file and before.stop < after.offset <= before.stop + max_gap
    )
    spent = itertools.accumulate(gap for gap, _ in gaps)
    return {at for (_, at), total in zip(gaps, spent, strict=True) if total <= budget}


class Source(ABC):
    """The weights files of a model."""

    threads = REMOTE_THREADS
    part_bytes = REMOTE_PART_BYTES
    max_gap = MAX_GAP_BYTES
    cached = False
    """Whether what one rank read comes from the node's memory for the others."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.bytes_read = 0
        """That came from storage, headers aside; those of failed requests too."""
        self._lock = threading.Lock()

    def read(self, reads: Sequence[Read], at_once: int | None = None) -> None:
        """Fill what the reads say, several at a time; return when all is there.

        Args:
            reads: In any order, not overlapping.
            at_once: How many requests are under way at a time, at most; None: as many as are good for this source.

        Raises:
            TrainerError: `BASE_MODEL_CORRUPT`: a file is not what its header promised, or not the same any more;
                `STORAGE_UNAVAILABLE`: after repeated attempts; or what else the storage service says.
        """
        todo = pieces(reads, self.part_bytes, self.max_gap)
        threads = min(at_once or self.threads, len(todo))
        if threads <= 1:
            for piece in todo:
                self._fill(piece)
            return
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(self._fill, piece) for piece in todo]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((error for future in futures if future in done and (error := future.exception())), None)
            if failed is not None:
                pool.shutdown(wait=True, cancel_futures=True)
                raise failed

    def fingerprint(self) -> int:
        """Return a number (63 bits) that is the same for all who see the same version of all files."""
        known = [self.weights.commit or ""]
        for name, file in sorted(self.weights.files.items()):
            known += [name, str(file.size), file.tag, repr(sorted((k, repr(v)) for k, v in file.tensors.items()))]
        return int.from_bytes(hashlib.sha256("\n".join(known).encode()).digest()[:8], "big") >> 1

    @abstractmethod
    def verify(self) -> None:
        """Make sure, after the last read, that no file has changed since the first.

        Raises:
            TrainerError: `BASE_MODEL_CORRUPT`.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""

    @abstractmethod
    def _fill(self, piece: Piece) -> None:
        """Fill one piece."""

    def _count(self, number: int) -> None:
        with self._lock:
            self.bytes_read += number

    def _corrupt(self, file: str, tensor: str, why: str) -> TrainerError:
        return corrupt(self.weights.uri, file, f"{why} (reading tensor {tensor!r})")


class LocalSource(Source):
    """Files of a mounted file system; the descriptors stay open, so a file that is renamed over is seen as such."""

    threads = LOCAL_THREADS
    part_bytes = LOCAL_PART_BYTES
    max_gap = 0
    cached = True

    def __init__(self, folder: Path, weights: Weights) -> None:
        super().__init__(weights)
        self._folder = folder
        self._handles = {name: os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC) for name in weights.files}
        self._seen = {name: _identity(os.fstat(handle)) for name, handle in self._handles.items()}

    def close(self) -> None:
        """See `Source.close`."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles = {}

    def __del__(self) -> None:
        self.close()

    def verify(self) -> None:
        """See `Source.verify`: by inode, size and time of the last change."""
        for name, handle in self._handles.items():
            try:
                now = _identity((self._folder / name).stat())
            except FileNotFoundError:
                now = None
            if not self._seen[name] == now == _identity(os.fstat(handle)):
                raise corrupt(self.weights.uri, name, f"it changed while {self._first(name)} and others were read")

    def _first(self, name: str) -> str:
        return f"tensor {next(iter(self.weights.files[name].tensors), '')!r}"

    def _fill(self, piece: Piece) -> None:
        handle, at = self._handles[piece.file], piece.start
        left = [read.into for read in piece.reads]
        populate([read.into for read in piece.reads if read.is_new])
        while left:
            try:
                got = os.preadv(handle, left, at)
            except OSError as error:
                raise TrainerError(
                    Reason.STORAGE_UNAVAILABLE,
                    f"{self.weights.uri}/{piece.file}: {error.strerror} (reading tensor {_at(piece, at)!r}): check "
                    f"the volume",
                ) from error
            if got == 0:
                size = os.fstat(handle).st_size
                raise self._corrupt(
                    piece.file, _at(piece, at), f"it ends after {size} bytes, its header described {self._size(piece)}"
                )
            self._count(got)
            at += got
            while left and got >= len(left[0]):
                got -= len(left.pop(0))
            if got:
                left[0] = left[0][got:]

    def _size(self, piece: Piece) -> int:
        return self.weights.files[piece.file].size


class _Streamed(Source):
    """Files behind a service: each piece is a stream of bytes, taken up again where it broke off."""

    def verify(self) -> None:
        """See `Source.verify`: every answer was of the version that was asked for."""

    @abstractmethod
    def _chunks(self, file: str, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes of a range as they come."""

    def _fill(self, piece: Piece) -> None:
        at, patience = piece.start, Patience()
        while at < piece.stop:
            try:
                for chunk in self._chunks(piece.file, at, piece.stop):
                    self._count(len(chunk))
                    scatter(piece, at, chunk)
                    at += len(chunk)
                    patience.renew()
                if at < piece.stop:
                    raise TrainerError(
                        Reason.STORAGE_UNAVAILABLE, f"{self.weights.uri}/{piece.file}: the answer ended early"
                    )
            except (PreconditionFailed, ObjectNotFound) as error:
                raise self._corrupt(
                    piece.file, _at(piece, at), "it was replaced or removed while it was read, so nothing of it is used"
                ) from error
            except TrainerError as error:
                try:
                    patience.bear(error)
                except TrainerError:
                    message = f"{error.message} (reading tensor {_at(piece, at)!r} of {piece.file})"
                    raise TrainerError(error.reason, message) from error


class S3Source(_Streamed):
    """Objects of S3, each at the ETag that the launcher saw."""

    def __init__(self, store: S3Store, weights: Weights) -> None:
        super().__init__(weights)
        self._store = store

    def close(self) -> None:
        """See `Source.close`."""
        self._store.close()

    def _chunks(self, file: str, start: int, stop: int) -> Iterator[bytes]:
        return self._store.chunks(file, start, stop, self.weights.files[file].tag)


class HubSource(_Streamed):
    """Files of a hub, at the commit that the launcher saw."""

    part_bytes = 4 * REMOTE_PART_BYTES
    """Fewer requests: hubs count them."""

    def __init__(self, repo: hub.Repo, weights: Weights) -> None:
        super().__init__(weights)
        self._repo = repo

    def close(self) -> None:
        """See `Source.close`."""
        self._repo.close()

    def _chunks(self, file: str, start: int, stop: int) -> Iterator[bytes]:
        about = self.weights.files[file]
        return self._repo.chunks(file, start, stop, about.size, about.tag)


def open_source(folder: Path, uri: str, storage: StorageSpec) -> Source:
    """Return the weights of a base model.

    Args:
        folder: That `fetch_model` returned: it holds the weights, or says where they are.
        uri: `spec.baseModel.uri`.
        storage: `spec.storage`.

    Raises:
        TrainerError: `BASE_MODEL_CORRUPT`, naming file and tensor.
    """
    weights = Weights.read(folder)
    if weights is None:
        return LocalSource(folder, verify_weights(folder, uri))
    if weights.commit is not None:
        return HubSource(hub.open_commit(weights.uri, weights.commit, storage.hugging_face), weights)
    return S3Source(open_s3(weights.uri, storage), weights)


def scatter(piece: Piece, at: int, chunk: bytes) -> None:
    """Put bytes, which begin at an offset of the file, where the reads of a piece want them; gaps go nowhere."""
    end = at + len(chunk)
    for read in piece.reads:
        first, last = max(at, read.offset), min(end, read.stop)
        if first < last:
            read.into[first - read.offset : last - read.offset] = chunk[first - at : last - at]


def populate(views: Sequence[memoryview]) -> None:
    """Have the kernel map all pages of some memory at once; what is in them stays.

    To read from the page cache takes less time than to touch new memory page by page. (Huge pages would be faster yet,
    but a virtual machine that gives free ones back to its host has to fetch each from there: several times slower.)
    """
    for view in views:
        if len(view) >= mmap.PAGESIZE:
            address = ctypes.addressof(ctypes.c_char.from_buffer(view))
            start = address // mmap.PAGESIZE * mmap.PAGESIZE
            # Where this fails, reading touches the pages as it ever did.
            _LIBC.madvise(start, address + len(view) - start, _MADV_POPULATE_WRITE)


def _at(piece: Piece, offset: int) -> str:
    """Return the tensor at an offset."""
    return next((read.tensor for read in piece.reads if offset < read.stop), piece.reads[-1].tensor)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
