"""From the files of `spec.dataset` to token ids and labels.

`load_splits` is called by every rank (or once per node) before training; what it returns depends on nothing but the
files, the tokenizer (or image processor) and the spec, so all ranks hold the same examples in the same order.
"""

from .load import load_splits
from .types import IGNORED, Example, Picture, Preference, Sample, SourceTarget, Split, Splits

__all__ = ["IGNORED", "Example", "Picture", "Preference", "Sample", "SourceTarget", "Split", "Splits", "load_splits"]
