"""Bad rows that are left out, with `dataset.onBadRow: Skip`. Used by `load`."""

from dataclasses import dataclass, field
from typing import Final

from peftjob_api import Reason

from ..exits import TrainerError

_MOST_REASONS: Final = 3


@dataclass
class Skipped:
    """How many bad rows there were, and what the first ones were bad for."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)
    """Messages, which name file and line; at most three."""

    def add(self, error: TrainerError) -> None:
        """Count a bad row."""
        self.count += 1
        if len(self.reasons) < _MOST_REASONS:
            self.reasons.append(error.message)

    def all_of(self, uri: str) -> TrainerError:
        """Return the error of data of which nothing is left."""
        return TrainerError(
            Reason.DATASET_MALFORMED, f"{uri}: no row can be used, {self.count} are bad; the first: {self.reasons[0]}"
        )
