"""Records of a run's steps, of which a long run keeps some: they lie in memory and go into every checkpoint."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

MOST_KEPT: Final = 4096
"""Records of evenly spaced steps; a plot has fewer dots. Even, so that half of them are evenly spaced, too."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimiser step."""

    step: int
    epoch: float
    loss: float
    """Per supervised token (or row) of the global batch."""
    learning_rate: float
    grad_norm: float
    """Of the trained parameters, before clipping."""
    tokens_per_second: float
    """Over all ranks."""
    seconds: float
    """That the step took."""

    @property
    def is_taken(self) -> bool:
        """Whether it changed what is trained: it is skipped if loss or gradient is not finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass
class Steps:
    """Those of a run so far: the first `MOST_KEPT` all, of more every second, of twice as many every fourth, and so on.

    What is kept is a function of the records alone: a run that went on from a checkpoint keeps what it would have.
    """

    kept: list[StepRecord] = field(default_factory=list)
    """Of evenly spaced steps, from step 1 on."""
    last: StepRecord | None = None
    """Of the last step, whether it is kept or not."""
    skipped: int = 0
    """How many of all were skipped."""
    skipped_in_a_row: int = 0
    """How many of the last ones."""
    seconds: float = 0.0
    """That all took."""

    @classmethod
    def of(cls, records: Iterable[StepRecord]) -> Self:
        """Return what is kept of all records of a run, in order."""
        steps = cls()
        for record in records:
            steps.append(record)
        return steps

    @classmethod
    def restored(cls, records: list[StepRecord], totals: Mapping[str, Any]) -> Self:
        """Return what a checkpoint holds: what `__iter__` went through, and `totals`."""
        steps = cls(records, records[-1] if records else None, **totals)
        steps.kept = [record for record in records if (record.step - 1) % steps._stride == 0]
        return steps

    def append(self, record: StepRecord) -> None:
        """Add the record of the step that follows the last one."""
        self.last = record
        self.seconds += record.seconds
        self.skipped += not record.is_taken
        self.skipped_in_a_row = 0 if record.is_taken else self.skipped_in_a_row + 1
        if (record.step - 1) % self._stride == 0:
            if len(self.kept) == MOST_KEPT:
                del self.kept[1::2]
            self.kept.append(record)

    @property
    def _stride(self) -> int:
        return self.kept[1].step - self.kept[0].step if len(self.kept) > 1 else 1

    @property
    def totals(self) -> dict[str, float]:
        """What does not follow from the records that are kept."""
        return {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row, "seconds": self.seconds}

    def copy(self) -> Self:
        """Return one that stays as it is while this one grows."""
        return replace(self, kept=list(self.kept))

    def __iter__(self) -> Iterator[StepRecord]:
        """Go through what is kept, and the last one."""
        yield from self.kept
        if self.last is not None and self.last.step != self.kept[-1].step:
            yield self.last
