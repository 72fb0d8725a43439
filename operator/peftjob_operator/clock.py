"""The time, as the API server has it. Used by `observe`, and told by `kube`.

What decisions compare (deletion times, when a pod got its node) comes from the cluster, so this machine's own clock,
which may be off or be set while the operator runs, must not matter: every answer of the API server carries its time,
and between answers a clock counts that nobody can set.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

TOLERANCE_SECONDS: Final = 2.0
"""Of the API server's Date, which is in whole seconds and as old as its answer's way is long."""


class ClusterClock:
    """The API server's time; this machine's until the API server was heard."""

    def __init__(self, ticks: Callable[[], float] = time.monotonic, own: Callable[[], float] = time.time) -> None:
        self._ticks = ticks
        self._offset = own() - ticks()

    def __call__(self) -> datetime:
        """Return the time."""
        return datetime.fromtimestamp(self._ticks() + self._offset, UTC)

    def hear(self, date: str | None) -> None:
        """Take the time over from the `Date` of an answer, if it differs by more than it is exact."""
        try:
            told = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        offset = told - self._ticks()
        if abs(offset - self._offset) > TOLERANCE_SECONDS:
            self._offset = offset
