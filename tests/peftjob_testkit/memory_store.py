"""A store in memory that remembers each change, so that a test can replay any beginning of them."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from peftjob_trainer.storage import ObjectInfo, ObjectNotFound, PreconditionFailed, Store, Stream


class MemoryStore(Store):
    """Objects in a dictionary, with S3's conditions and content hashes as ETags."""

    def __init__(self, objects: dict[str, bytes] | None = None, uri: str = "s3://memory/out") -> None:
        self.uri = uri
        self.objects = dict(objects or {})
        self.written: list[tuple[str, bytes | None]] = []
        """Every change, in order: key, and content; None: deleted."""

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """See `Store.list`."""
        return [self._info(key) for key in sorted(self.objects) if key.startswith(prefix)]

    def get(self, key: str) -> tuple[bytes, str]:
        """See `Store.get`."""
        if key not in self.objects:
            raise ObjectNotFound(key)
        return self.objects[key], self._info(key).etag

    def head(self, key: str) -> ObjectInfo | None:
        """See `Store.head`."""
        return self._info(key) if key in self.objects else None

    def put(
        self, key: str, body: bytes | Path | Stream, *, if_none_match: bool = False, if_match: str | None = None
    ) -> str:
        """See `Store.put`."""
        present = self.head(key)
        if (if_none_match and present) or (if_match is not None and (present is None or present.etag != if_match)):
            raise PreconditionFailed(key)
        if isinstance(body, Stream):
            body = body.open().read()
        self.objects[key] = body.read_bytes() if isinstance(body, Path) else body
        self.written.append((key, self.objects[key]))
        return self._info(key).etag

    def download(self, key: str, path: Path) -> None:
        """See `Store.download`."""
        path.write_bytes(self.get(key)[0])

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self.objects.pop(key, None)
        self.written.append((key, None))

    def discard(self, prefix: str, is_over: Callable[[str], bool]) -> None:
        """See `Store.discard`: each write is whole at once."""

    def _info(self, key: str) -> ObjectInfo:
        data = self.objects[key]
        return ObjectInfo(key, len(data), hashlib.sha256(data).hexdigest())
