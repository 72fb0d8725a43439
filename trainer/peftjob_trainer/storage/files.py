"""A store in a folder of a mounted file system, with the same conditional writes as S3.

Opened by `open_store` for `file://` and `pvc://`. A write goes to a temporary file that is renamed into place under a
lock of the whole folder, so readers see whole objects and two writers with one condition see one winner, also from
two nodes where the volume supports POSIX locks.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from peftjob_api import Reason

from ..exits import TrainerError
from .store import ObjectInfo, ObjectNotFound, PreconditionFailed, Store, Stream

_LOCK = ".peftjob-lock"
_TEMPORARY = ".peftjob-tmp-"


class FileStore(Store):
    """The files below a folder, which is made by the first write."""

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self.uri = uri.rstrip("/")

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """See `Store.list`; our own lock and unfinished writes are no objects."""
        found = []
        with self._told():
            for folder, _, names in os.walk(self._root):
                for name in names:
                    path = Path(folder, name)
                    key = path.relative_to(self._root).as_posix()
                    if key.startswith(prefix) and not self._is_ours(name) and (info := self._info(key, path)):
                        found.append(info)
        return sorted(found, key=lambda o: o.key)

    def get(self, key: str) -> tuple[bytes, str]:
        """See `Store.get`."""
        with self._told(key):
            try:
                data = self._path(key).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise ObjectNotFound(f"{self.uri}/{key}") from error
        return data, hashlib.sha256(data).hexdigest()

    def head(self, key: str) -> ObjectInfo | None:
        """See `Store.head`."""
        with self._told(key):
            return self._info(key, self._path(key))

    def put(
        self, key: str, body: bytes | Path | Stream, *, if_none_match: bool = False, if_match: str | None = None
    ) -> str:
        """See `Store.put`."""
        path = self._path(key)
        with self._told(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f"{_TEMPORARY}{path.name}.", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    if isinstance(body, bytes):
                        file.write(body)
                    else:
                        with body.open("rb") if isinstance(body, Path) else body.open() as source:
                            shutil.copyfileobj(source, file, 1 << 20)
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
                etag = _sha256(Path(temporary))
                with self._locked():
                    present = self._info(key, path)
                    if (if_none_match and present is not None) or (
                        if_match is not None and (present is None or present.etag != if_match)
                    ):
                        raise PreconditionFailed(f"{self.uri}/{key}")
                    Path(temporary).replace(path)
                    _sync_folder(path.parent)
            finally:
                Path(temporary).unlink(missing_ok=True)
        return etag

    def download(self, key: str, path: Path) -> None:
        """See `Store.download`."""
        source = self._path(key)
        with self._told(key):
            if not source.is_file():
                raise ObjectNotFound(f"{self.uri}/{key}")
            temporary = path.with_name(path.name + ".part")
            shutil.copyfile(source, temporary)
            temporary.replace(path)

    def delete(self, key: str) -> None:
        """See `Store.delete`; folders that are empty then go, too."""
        path = self._path(key)
        with self._told(key), self._locked():
            path.unlink(missing_ok=True)
            for folder in path.relative_to(self._root).parents[:-1]:
                with suppress(OSError):  # gone, or not empty
                    (self._root / folder).rmdir()

    def around(self) -> Iterator[Store]:
        """See `Store.around`: up to the root of the file system."""
        for parent in self._root.parents:
            yield FileStore(parent, f"file://{parent}")

    def discard(self, prefix: str, is_over: Callable[[str], bool]) -> None:
        """See `Store.discard`: temporary files."""
        with self._told():
            found = [path.relative_to(self._root) for path in self._root.rglob(f"{_TEMPORARY}*")]
        for path in found:
            key = path.with_name(path.name.removeprefix(_TEMPORARY).rpartition(".")[0] or path.name).as_posix()
            if key.startswith(prefix) and is_over(key):
                self.delete(path.as_posix())

    def _path(self, key: str) -> Path:
        """Return the file of a key; a key that leaves the folder is a mistake of ours."""
        assert key, "an object needs a key"
        assert ".." not in Path(key).parts, key
        return self._root / key

    @staticmethod
    def _is_ours(name: str) -> bool:
        return name == _LOCK or name.startswith(_TEMPORARY)

    @staticmethod
    def _info(key: str, path: Path) -> ObjectInfo | None:
        """Return what a file is; None when there is none. The ETag is its content's hash, as good on any volume."""
        try:
            return ObjectInfo(key, path.stat().st_size, _sha256(path))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock: between threads, processes and, by the volume's own locks, nodes."""
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / _LOCK).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released by closing, also when the process is killed
            yield

    @contextmanager
    def _told(self, key: str = "") -> Iterator[None]:
        """Turn the operating system's errors into ours."""
        where = f"{self.uri}/{key}" if key else self.uri
        try:
            yield
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise TrainerError(
                    Reason.STORAGE_ACCESS_DENIED,
                    f"{where}: {error.strerror}: let the worker's user (uid {os.getuid()}) read and write the volume, "
                    f"for instance by securityContext.fsGroup in spec.workers.podTemplate",
                ) from error
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TrainerError(
                    Reason.STORAGE_FULL,
                    f"{where}: {error.strerror}: make room on the volume, or give it more",
                ) from error
            raise TrainerError(Reason.STORAGE_UNAVAILABLE, f"{where}: {error}: check the volume") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(path: Path) -> None:
    """Make a rename durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
