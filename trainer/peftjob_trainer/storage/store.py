"""What every store does: a folder of objects with conditional writes, on S3 or on a file system.

Used by `claim` and `publish`, which build fencing on nothing but the conditions, and by `fetch` to read inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from peftjob_api import Reason

from ..exits import TrainerError

CHUNK_BYTES: Final = 1024 * 1024
"""Of a range, read at once."""


class ObjectNotFound(Exception):
    """No object has this key."""


class PreconditionFailed(Exception):
    """The object is not in the state that a conditional write asked for: someone else wrote first."""


class ConditionsUnsupported(Exception):
    """The store refuses conditional writes as such."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its key below the store's folder, size in bytes, and the tag that changes with its content."""

    key: str
    size: int
    etag: str


class Stream:
    """An object's content as it is made, so that nobody holds all of it; read like a file opened for reading."""

    def __init__(self, size: int, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Keep how it is made.

        Args:
            size: In bytes.
            chunks: Begins to make it, again for each attempt to write it; the same bytes each time.
        """
        self.size = size
        self._make = chunks

    def open(self) -> "Reader":
        """Return it from the beginning."""
        return Reader(self._make())


class Reader:
    """Reads what comes in chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._left = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, as many as asked for unless fewer are left; all of them for a negative size."""
        parts: list[memoryview] = []
        wanted = size
        while size < 0 or wanted > 0:
            if not self._left:
                chunk = next(self._chunks, None)
                if chunk is None:
                    break
                self._left = memoryview(chunk)
            part = self._left if size < 0 else self._left[:wanted]
            self._left = self._left[len(part) :]
            wanted -= len(part)
            parts.append(part)
        return b"".join(parts)


class Store(ABC):
    """A folder of objects; keys are relative to it and use `/`.

    Every method raises `TrainerError` (`STORAGE_UNAVAILABLE`, `STORAGE_FULL`, `STORAGE_ACCESS_DENIED`,
    `BUCKET_NOT_FOUND`) when the store itself fails.
    """

    uri: str
    """Of the folder, without a `/` at its end."""

    @abstractmethod
    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects whose keys start with `prefix`, sorted by key."""

    @abstractmethod
    def get(self, key: str) -> tuple[bytes, str]:
        """Return an object's content and ETag.

        Raises:
            ObjectNotFound: There is none.
        """

    @abstractmethod
    def head(self, key: str) -> ObjectInfo | None:
        """Return what is known about an object; None when there is none."""

    @abstractmethod
    def put(
        self, key: str, body: bytes | Path | Stream, *, if_none_match: bool = False, if_match: str | None = None
    ) -> str:
        """Write an object, whole or not at all, and return its new ETag.

        Args:
            key: Of the object.
            body: Its content, or the file that holds it, or what makes it.
            if_none_match: Write only if there is no such object.
            if_match: Write only if the object still has this ETag.

        Raises:
            PreconditionFailed: The condition does not hold; nothing was written.
            ConditionsUnsupported: The store knows no such conditions; nothing was written.
        """

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Copy an object into a file, which appears complete or not at all.

        Raises:
            ObjectNotFound: There is none.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def around(self) -> "Iterator[Store]":
        """Yield the folders that this one lies in, from the innermost on; none where a store has but one."""
        yield from ()

    @abstractmethod
    def discard(self, prefix: str, is_over: Callable[[str], bool]) -> None:
        """Remove what unfinished writes left of objects below a prefix, which no other method shows.

        Args:
            prefix: Of keys.
            is_over: Tells by an object's key whether nobody writes it any more.
        """


def no_ranges(where: str, endpoint: str) -> TrainerError:
    """Return the error about a server that answers a range with something else."""
    return TrainerError(
        Reason.INVALID_CONFIG,
        f"{where}: {endpoint} serves no ranges of a file, which ranks read: set another endpoint in spec.storage",
    )
