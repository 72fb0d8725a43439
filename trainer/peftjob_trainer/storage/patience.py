"""How long a storage service that fails is asked again, and how often. Used by all that talk to one.

Three waits lie in each other: the library's own few tries of a request (seconds); `BRIEF` around a call of ours, so
that a server that restarts costs no gang; and `LASTING`, where training goes on meanwhile, or is done and nothing but
the store keeps a gang from its end.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from peftjob_api import Reason

from ..exits import TrainerError

T = TypeVar("T")

_FIRST_SECONDS: Final = 0.2
BUSY_SECONDS: Final = 120.0
"""At least so long for a service that says itself when to come again."""


class Busy(TrainerError):
    """The service is there, but wants to be left alone for a time, in seconds."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(Reason.STORAGE_UNAVAILABLE, message)
        self.seconds = seconds


@dataclass(frozen=True)
class Policy:
    """Which errors are worth waiting for, and how long."""

    seconds: float
    """In all, since the last success."""
    longest: float
    """Between two tries, in seconds."""
    reasons: frozenset[Reason]
    """Of errors that may pass."""


BRIEF = Policy(20.0, 3.0, frozenset({Reason.STORAGE_UNAVAILABLE}))
ONCE = Policy(0.0, 0.0, frozenset())
LASTING = Policy(
    12 * 3600.0,
    60.0,
    # Where the same place and credentials have served this gang before, a refusal is an accident too: keys that are
    # being replaced, rights that somebody changed, a load balancer that answers in the server's place.
    frozenset({
        Reason.STORAGE_UNAVAILABLE, Reason.STORAGE_FULL, Reason.STORAGE_ACCESS_DENIED, Reason.INVALID_CONFIG,
    }),
)  # fmt: skip


def pause(policy: Policy, error: TrainerError, failures: int, waited: float, jitter: float) -> float | None:
    """Return the seconds until the next try; None: the error stands; pure.

    Args:
        policy: That holds here.
        error: The last one.
        failures: In a row, this one included.
        waited: Seconds since the first try of them began.
        jitter: In [0, 1), so that the jobs of a cluster do not all come back at one moment.
    """
    if error.reason not in policy.reasons:
        return None
    seconds = min(policy.longest, _FIRST_SECONDS * 2.0 ** min(failures - 1, 16)) * (0.75 + 0.5 * jitter)
    limit = policy.seconds
    if isinstance(error, Busy):
        seconds, limit = max(seconds, error.seconds), max(limit, BUSY_SECONDS)
    return seconds if waited + seconds <= limit else None


class Patience:
    """Waits between the tries of one call."""

    def __init__(self, policy: Policy | None = None, sleep: Callable[[float], None] | None = None) -> None:
        """Begin with the first try.

        Args:
            policy: `BRIEF` if none is given.
            sleep: Waits for so many seconds.
        """
        self._policy, self._sleep = policy or BRIEF, sleep or time.sleep
        self.renew()

    def renew(self) -> None:
        """Start anew, after some success."""
        self._since, self._failures = time.monotonic(), 0

    def bear(self, error: TrainerError) -> None:
        """Wait for a while after an error; raise it if asking again does not help or was tried for long enough."""
        self._failures += 1
        seconds = pause(self._policy, error, self._failures, time.monotonic() - self._since, random.random())
        if seconds is None:
            raise error
        self._sleep(seconds)


def retried(call: Callable[[], T], policy: Policy | None = None) -> T:
    """Return what a call returns, made again while the store is away for a moment."""
    patience = Patience(policy)
    while True:
        try:
            return call()
        except TrainerError as error:
            patience.bear(error)
