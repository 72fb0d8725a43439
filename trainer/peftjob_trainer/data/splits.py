"""What data is once it is loaded: samples in splits."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .parts import Places
from .skipped import Skipped
from .stored import StoredSamples, lengths_of
from .types import Sample


@dataclass(frozen=True)
class Split:
    """The samples of a split, in the order of its files."""

    name: str
    """`train`, `validation` or `test`."""
    examples: Sequence[Sample]
    labels: list[str] | None
    """Names of the classes, in the order of the classifier's outputs."""
    dropped: int = 0
    """Rows of plain text with nothing to learn: empty, or a single token."""
    skipped: Skipped = field(default_factory=Skipped)
    """Bad rows."""
    digest: str = ""
    """Of all samples of its files and of `labels`: SHA-256 in hexadecimal. Equal on nodes that have read the same."""

    @property
    def lengths(self) -> Sequence[int]:
        """Of each sample."""
        return lengths_of(self.examples)

    @property
    def truncated(self) -> int:
        """Samples that were cut to `dataset.maxLength` tokens."""
        return int(self.examples.cut.sum()) if isinstance(self.examples, StoredSamples) else 0

    def part(self, name: str, places: Places) -> "Split":
        """Return some of the samples as a split; what was left out stays with `train`."""
        assert isinstance(self.examples, StoredSamples)
        kept: dict[str, Any] = {} if name == "train" else {"dropped": 0, "skipped": Skipped()}
        return replace(self, name=name, examples=self.examples.take(places), **kept)


@dataclass(frozen=True)
class Splits:
    """All data of a job."""

    train: Split
    validation: Split | None
    test: Split | None
    labels: list[str] | None
    """Names of the classes; None for a task without classes."""
    chat: bool = False
    """Whether the rows were chats, rendered by the tokenizer's template."""

    def each(self) -> list[Split]:
        """Return the splits that there are."""
        return [split for split in (self.train, self.validation, self.test) if split is not None]
