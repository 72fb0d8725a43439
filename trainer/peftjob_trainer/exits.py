"""How a trainer process ends: every foreseen failure is a `TrainerError` with a reason, an exit code and the fix.

Raised all over the trainer, caught once, by `rank_main` (and by the launcher for what it does before any rank runs).
"""

from peftjob_api import ExitCode, Reason

_CODES: dict[Reason, ExitCode] = {
    Reason.INVALID_CONFIG: ExitCode.BAD_CONFIG,
    Reason.TARGET_MODULES_NOT_FOUND: ExitCode.BAD_CONFIG,
    Reason.DOES_NOT_FIT: ExitCode.BAD_CONFIG,
    Reason.NON_FINITE_LOSS: ExitCode.BAD_CONFIG,
    Reason.OUT_OF_MEMORY: ExitCode.BAD_CONFIG,
    Reason.BASE_MODEL_NOT_FOUND: ExitCode.INPUT_NOT_FOUND,
    Reason.DATASET_NOT_FOUND: ExitCode.INPUT_NOT_FOUND,
    Reason.ADAPTER_NOT_FOUND: ExitCode.INPUT_NOT_FOUND,
    Reason.BUCKET_NOT_FOUND: ExitCode.INPUT_NOT_FOUND,
    Reason.BASE_MODEL_CORRUPT: ExitCode.BAD_DATA,
    Reason.ADAPTER_UNSUITABLE: ExitCode.BAD_DATA,
    Reason.CHECKPOINT_UNSUITABLE: ExitCode.BAD_DATA,
    Reason.DATASET_COLUMN_MISSING: ExitCode.BAD_DATA,
    Reason.DATASET_MALFORMED: ExitCode.BAD_DATA,
    Reason.DATASET_EMPTY: ExitCode.BAD_DATA,
    Reason.DATASET_DIFFERS: ExitCode.BAD_DATA,
    Reason.UNKNOWN_LABEL: ExitCode.BAD_DATA,
    Reason.STORAGE_UNAVAILABLE: ExitCode.UNAVAILABLE,
    Reason.STORAGE_FULL: ExitCode.UNAVAILABLE,
    Reason.STORAGE_ACCESS_DENIED: ExitCode.NOT_PERMITTED,
    Reason.CONDITIONAL_WRITES_UNSUPPORTED: ExitCode.NOT_PERMITTED,
    Reason.OUTPUT_OCCUPIED: ExitCode.NOT_PERMITTED,
    Reason.SUPERSEDED: ExitCode.INTERRUPTED,
    Reason.INTERRUPTED: ExitCode.INTERRUPTED,
    Reason.LOST_PEER: ExitCode.LOST_PEER,
    Reason.HANG: ExitCode.INTERNAL,
    Reason.INTERNAL_ERROR: ExitCode.INTERNAL,
}


class TrainerError(Exception):
    """A failure whose cause is known: `message` says what is wrong, where, and what to do."""

    def __init__(self, reason: Reason, message: str, claimed_attempt: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.claimed_attempt = claimed_attempt
        """Of `SUPERSEDED`: that of the gang which has claimed the output."""

    @property
    def code(self) -> ExitCode:
        """The exit code that tells the operator whether to try again."""
        return _CODES[self.reason]
