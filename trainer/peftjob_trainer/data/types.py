"""What data is once it is loaded: examples of token ids, in splits."""

from dataclasses import dataclass
from typing import Final

IGNORED: Final = -100
"""The label of a token that is not learned, as PyTorch's cross entropy has it."""


@dataclass(frozen=True)
class Example:
    """One sample."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...] | int
    """For CausalLM as many as `input_ids`, `IGNORED` where nothing is learned, not shifted; for
    SequenceClassification the index of the class."""


@dataclass(frozen=True)
class Split:
    """The examples of one file, in its order."""

    name: str
    """`train`, `validation` or `test`."""
    examples: list[Example]
    labels: list[str] | None
    """Names of the classes, in the order of the classifier's outputs."""
    truncated: int
    """Examples that were cut to `dataset.maxLength` tokens."""
    dropped: int = 0
    """Rows of plain text with nothing to learn: empty, or a single token."""


@dataclass(frozen=True)
class Splits:
    """All data of a job."""

    train: Split
    validation: Split | None
    test: Split | None
    labels: list[str] | None
    """Names of the classes; None for CausalLM."""
    chat: bool = False
    """Whether the rows were chats, rendered by the tokenizer's template."""
