"""Rows of Seq2SeqLM: a text that goes in, and one that is to come out. Chosen by `readers`."""

from collections.abc import Callable
from typing import Any

from peftjob_api import PeftJobSpec

from .cells import Layout, columns_for, filled_text_of
from .encode import encode_source_target
from .rows import Row, Source
from .types import Encoded


def choose_layout(spec: PeftJobSpec, present: list[str], uri: str) -> Layout:
    """Return the columns of source and target.

    Raises:
        TrainerError: `DATASET_COLUMN_MISSING`.
    """
    return Layout("source and target", columns_for(spec, present, uri, ("source", "target")))


def labels_of(spec: PeftJobSpec, source: Source, layout: Layout) -> list[str] | None:
    """Return None: there are no classes."""
    return None


def encoder(
    spec: PeftJobSpec, layout: Layout, tokenizer: Any, labels: list[str] | None, uri: str
) -> Callable[[Row], Encoded]:
    """Return what makes a sample of a row."""
    settings = spec.task.seq2seq_lm
    prefix = (settings.source_prefix if settings else None) or ""

    def encode(row: Row) -> Encoded:
        source = filled_text_of(row, layout.columns["source"])
        target = filled_text_of(row, layout.columns["target"])
        return encode_source_target(tokenizer, prefix + source, target, spec.dataset.max_length)

    return encode
