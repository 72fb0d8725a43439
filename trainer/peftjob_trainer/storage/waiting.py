"""A store that is waited for while it is away, however long that takes. Opened by `session` to publish.

The work of a gang is done by then, and lies in the pod's own volume: it is worth more than the pod. So each call is
made again, told in the status meanwhile, until it succeeds, `LASTING` is over, or the gang is told to stop.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from peftjob_api import Reason, WaitingInfo

from ..exits import TrainerError
from .patience import LASTING, Patience, retried
from .store import ConditionsUnsupported, ObjectInfo, ObjectNotFound, PreconditionFailed, Store, Stream

T = TypeVar("T")

_LOOK_SECONDS: Final = 0.2
"""Between two looks at whether the gang is told to stop."""


class WaitingStore(Store):
    """Another store, each call of which is made until it succeeds; for one thread.

    Beside what `Store` says, every method raises `TrainerError` `INTERRUPTED` when the gang is told to stop while the
    store is away, and `STORAGE_UNAVAILABLE`, so that another gang tries, where the store's last word was a refusal.
    """

    def __init__(
        self, inner: Store, told: Callable[[WaitingInfo | None], None], interrupted: Callable[[], bool]
    ) -> None:
        """Keep the store.

        Args:
            inner: Of little patience of its own, so that SIGTERM is noticed.
            told: Called with what is waited for, after each failure, and with None once the store is back.
            interrupted: Whether this process is told to stop.
        """
        self.uri = inner.uri
        self._inner, self._told, self._interrupted = inner, told, interrupted
        self._since: float | None = None

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """See `Store.list`."""
        return self._do(lambda: self._inner.list(prefix))

    def get(self, key: str) -> tuple[bytes, str]:
        """See `Store.get`."""
        return self._do(lambda: self._inner.get(key))

    def head(self, key: str) -> ObjectInfo | None:
        """See `Store.head`."""
        return self._do(lambda: self._inner.head(key))

    def put(
        self, key: str, body: bytes | Path | Stream, *, if_none_match: bool = False, if_match: str | None = None
    ) -> str:
        """See `Store.put`."""
        return self._do(lambda: self._inner.put(key, body, if_none_match=if_none_match, if_match=if_match))

    def download(self, key: str, path: Path) -> None:
        """See `Store.download`."""
        self._do(lambda: self._inner.download(key, path))

    def delete(self, key: str) -> None:
        """See `Store.delete`; it is not waited for as long, since what stays does no harm."""
        retried(lambda: self._inner.delete(key))

    def around(self) -> Iterator[Store]:
        """See `Store.around`; these are not waited for."""
        return self._inner.around()

    def discard(self, prefix: str, is_over: Callable[[str], bool]) -> None:
        """See `Store.discard`; it is not waited for as long."""
        retried(lambda: self._inner.discard(prefix, is_over))

    def _do(self, call: Callable[[], T]) -> T:
        patience = Patience(LASTING, self._pause)
        while True:
            try:
                result = call()
            except (ObjectNotFound, PreconditionFailed, ConditionsUnsupported):
                self._is_back()
                raise
            except TrainerError as error:
                self._bear(error, patience)
            else:
                self._is_back()
                return result

    def _bear(self, error: TrainerError, patience: Patience) -> None:
        if error.reason not in LASTING.reasons:
            raise error
        self._since = self._since or time.time()
        self._told(WaitingInfo(what="Adapter", since=self._since, message=error.message))
        self._message = error.message
        try:
            patience.bear(error)
        except TrainerError as last:
            if last is not error:
                raise
            hours = LASTING.seconds / 3600
            raise TrainerError(
                Reason.STORAGE_UNAVAILABLE, f"the adapter waited for {self.uri} for {hours:.0f} h: {error.message}"
            ) from error

    def _is_back(self) -> None:
        if self._since is not None:
            self._since = None
            self._told(None)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._interrupted():
                raise TrainerError(
                    Reason.INTERRUPTED,
                    f"told to stop (SIGTERM) while the finished adapter waited for its output: {self._message}",
                )
            time.sleep(min(left, _LOOK_SECONDS))
