"""What a row of the data becomes: a sample, of a kind that its task knows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

IGNORED: Final = -100
"""The label of a token that is not learned, as PyTorch's cross entropy has it."""


class Sample(Protocol):
    """What one row of the data has become; each task knows the kinds that it reads."""

    @property
    def length(self) -> int:
        """Tokens of it (or patches of an image): samples of like length are computed at once."""
        ...


@dataclass(frozen=True)
class Example:
    """One text, and what is to be learned of it."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...] | int | float
    """For CausalLM and TokenClassification as many as `input_ids`, `IGNORED` where nothing is learned, not shifted; for
    SequenceClassification the index of the class, of MultiLabel 0 or 1 for each class, of Regression the number."""

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.input_ids)


@dataclass(frozen=True)
class SourceTarget:
    """A text, and what it is to become."""

    source_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    """With what ends it, without what a decoder begins with."""
    target: str = ""
    """As it is in the data: a tokenizer may not be able to write every character."""

    @property
    def length(self) -> int:
        """Number of tokens, of both."""
        return len(self.source_ids) + len(self.target_ids)


@dataclass(frozen=True)
class Picture:
    """An image file, not decoded yet, and its class."""

    file: Path | bytes
    """The file, or what it holds."""
    label: int
    where: str
    """In the data, for messages."""
    length: int
    """Patches that a base of patches of 16 x 16 pixels, as most are, makes of it."""
    draw: tuple[int, int, int] | None = None
    """Seed, epoch and index, by which it is varied; None: it stays as it is."""


@dataclass(frozen=True)
class Preference:
    """Two answers to the same prompt, each behind it."""

    chosen: Example
    """What is learned rather."""
    rejected: Example
    is_chat: bool = False
    """Whether the tokenizer's template rendered them."""

    @property
    def length(self) -> int:
        """Number of tokens, of both."""
        return self.chosen.length + self.rejected.length


@dataclass(frozen=True)
class Match:
    """A query, and the item that fits it."""

    query: tuple[int, ...]
    item: tuple[int, ...]
    negatives: tuple[tuple[int, ...], ...] = ()
    """Items that do not fit."""

    @property
    def length(self) -> int:
        """Number of tokens, of all."""
        return len(self.query) + len(self.item) + sum(map(len, self.negatives))


Encoded = tuple[Sample | None, bool]
"""A sample, or None for a row with nothing to learn; and whether it was cut."""
