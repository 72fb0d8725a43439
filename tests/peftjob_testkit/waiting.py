"""Waiting for something to become true, with a message when it does not."""

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def wait_for(
    what: str, probe: Callable[[], _T | None], timeout: float, interval: float = 0.5, explain: Callable[[], str] = str
) -> _T:
    """Call `probe` until it returns something true; return that.

    Args:
        what: What is waited for, for the message.
        probe: Returns a true value when it is there.
        timeout: Seconds.
        interval: Seconds between probes.
        explain: Called on a time-out; its text ends the message.

    Raises:
        TimeoutError: It did not become true in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}\n{explain()}")
        time.sleep(interval)
