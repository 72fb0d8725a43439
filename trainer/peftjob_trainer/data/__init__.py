"""From the files of `spec.dataset` to token ids and labels.

`load_once` is called by every rank before training: one of each node encodes the samples into files, from which all
read. What there is, and in which order, depends on nothing but the data, the tokenizer (or image processor) and the
spec.
"""

from .load import load_once, load_splits
from .splits import Split, Splits
from .stored import lengths_of, numbers_of
from .types import IGNORED, Example, Match, Picture, Preference, Sample, SourceTarget

__all__ = [
    "IGNORED",
    "Example",
    "Match",
    "Picture",
    "Preference",
    "Sample",
    "SourceTarget",
    "Split",
    "Splits",
    "lengths_of",
    "load_once",
    "load_splits",
    "numbers_of",
]
