"""What every store does: a folder of objects with conditional writes, on S3 or on a file system.

Used by `claim` and `publish`, which build fencing on nothing but the conditions, and by `fetch` to read inputs.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path


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


class Store(ABC):
    """A folder of objects; keys are relative to it and use `/`.

    Every method raises `TrainerError` (`STORAGE_UNAVAILABLE`, `STORAGE_ACCESS_DENIED`, `BUCKET_NOT_FOUND`) when the
    store itself fails.
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
    def put(self, key: str, body: bytes | Path, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        """Write an object, whole or not at all, and return its new ETag.

        Args:
            key: Of the object.
            body: Its content, or the file that holds it.
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
