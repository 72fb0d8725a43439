"""A queue of keys: each is there once, worked on by one task at a time, and comes back later if its work failed.

As client-go's workqueue, for asyncio. Fed by `handlers`, worked off by `reconcile`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 60.0

_Key = TypeVar("_Key", bound=Hashable)


class Retry(Exception):
    """The work met a state that has changed since; to be done again soon, and no failure."""


class WorkQueue(Generic[_Key]):
    """Keys waiting for work."""

    def __init__(self) -> None:
        self._ready: asyncio.Queue[_Key] = asyncio.Queue()
        self._waiting: set[_Key] = set()
        self._working: set[_Key] = set()
        self._again: set[_Key] = set()
        self._timers: dict[_Key, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[_Key, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: _Key) -> None:
        """Ask for work on a key now; if it is being worked on, once more after that."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_later(self, key: _Key, seconds: float) -> None:
        """Ask for work on a key after some time; of several times the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        due = time.monotonic() + seconds
        if key in self._timers:
            earlier, handle = self._timers[key]
            if earlier <= due:
                return
            handle.cancel()
        self._timers[key] = due, asyncio.get_running_loop().call_later(seconds, self._ring, key)

    def _ring(self, key: _Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def run(self, work: Callable[[_Key], Awaitable[float | None]], workers: int) -> None:
        """Work off the queue, until cancelled.

        Args:
            work: Called with each key; returns the seconds until the key shall come again, if it shall. An error of
                its may say in `retry_after` how many seconds must pass before it is called again.
            workers: Keys worked on at the same time.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work(work))

    async def _work(self, work: Callable[[_Key], Awaitable[float | None]]) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._working.add(key)
            if key in self._timers:  # what it would ask for happens now
                self._timers.pop(key)[1].cancel()
            try:
                later = await work(key)
                self._failures.pop(key, None)
            except Retry:
                later = 0.2
            except Exception as error:
                number = self._failures[key] = self._failures.get(key, 0) + 1
                later = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(number - 1, 16))
                later = max(later, getattr(error, "retry_after", None) or 0.0)
                # The API server away is no fault of ours: a line, no traceback.
                log.warning("%s: %s; again in %.1f s", key, error, later, exc_info=not isinstance(error, OSError))
            finally:
                self._working.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)
            if later is not None:
                self.add_later(key, later)
