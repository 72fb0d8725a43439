"""Exit codes of a trainer process and of its pod.

The trainer exits with them; the operator writes them into the Job's podFailurePolicy and decides restarts by them.
Numbers follow sysexits(3) where a meaning there fits.
"""

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """What a rank's end means to the operator."""

    DONE = 0
    BAD_CONFIG = 64
    BAD_DATA = 65
    INPUT_NOT_FOUND = 66
    UNAVAILABLE = 69
    INTERNAL = 70
    LOST_PEER = 71
    INTERRUPTED = 75
    NOT_PERMITTED = 78


PERMANENT: Final = frozenset({ExitCode.BAD_CONFIG, ExitCode.BAD_DATA, ExitCode.INPUT_NOT_FOUND, ExitCode.NOT_PERMITTED})
"""Running again cannot help."""

# The most specific first: a rank that knows why it died says more than one that only lost its peer.
_SPECIFICITY: Final = (
    ExitCode.NOT_PERMITTED,
    ExitCode.BAD_CONFIG,
    ExitCode.INPUT_NOT_FOUND,
    ExitCode.BAD_DATA,
    ExitCode.UNAVAILABLE,
    ExitCode.INTERNAL,
)


def most_specific(codes: list[int]) -> int:
    """Return the one code that tells most about why a set of ranks ended.

    Named errors win over unnamed ones (a signal's negative code, 1, 137), those over "interrupted", that over
    "lost a peer", and that over 0.
    """
    for code in _SPECIFICITY:
        if code in codes:
            return int(code)
    known = {ExitCode.DONE, ExitCode.LOST_PEER, ExitCode.INTERRUPTED}
    unnamed = [code for code in codes if code not in known]
    if unnamed:
        return unnamed[0]
    for code in (ExitCode.INTERRUPTED, ExitCode.LOST_PEER):
        if code in codes:
            return int(code)
    return int(ExitCode.DONE)
