"""A sample as the model sees it, for people: its tokens as text, and which of them are learned. Used by the tasks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

MOST_CHARACTERS: Final = 4000
"""Of a sample: of a longer one the beginning and the end."""

Parts = tuple[tuple[str, bool], ...]
"""Texts, and whether each is learned, in order."""


@dataclass(frozen=True)
class Shown:
    """A sample as the model sees it."""

    parts: Parts
    """Empty for what is no text."""
    answer: str = ""
    """What is learned of the whole, such as a label."""

    def to_json(self) -> dict[str, Any]:
        """Return it as metrics.json has it."""
        parts = [{"text": text, "learned": learned} for text, learned in self.parts]
        return {"parts": parts, **({"answer": self.answer} if self.answer else {})}


def decoded(tokenizer: Any, ids: Sequence[int], learned: Iterable[bool]) -> Parts:
    """Return tokens as text, special ones too; neighbours that are both learned, or both not, are one part.

    Args:
        tokenizer: From transformers.
        ids: Of the tokens.
        learned: Of each token, whether it is.
    """
    runs = [(flag, [i for _, i in run]) for flag, run in groupby(zip(learned, ids, strict=True), lambda pair: pair[0])]
    return shortened((tokenizer.decode(run, clean_up_tokenization_spaces=False), flag) for flag, run in runs)


def shortened(parts: Iterable[tuple[str, bool]]) -> Parts:
    """Return parts of at most `MOST_CHARACTERS` in all: what is too much in the middle is left out."""
    kept = list(parts)
    start = MOST_CHARACTERS // 2
    end = start + sum(len(text) for text, _ in kept) - MOST_CHARACTERS
    if end <= start:
        return tuple(kept)
    found, at = [], 0
    for text, flag in kept:
        first, last = start - at, end - at  # of what is left out, in this text
        at += len(text)
        if last > 0 and first < len(text):
            text = text[: max(first, 0)] + (" … " if first >= 0 else "") + text[last:]
        found.append((text, flag))
    return tuple(part for part in found if part[0])
