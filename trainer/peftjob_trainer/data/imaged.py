"""Rows of ImageClassification: an image and its label. Chosen by `readers`."""

from collections.abc import Callable
from typing import Any

from peftjob_api import PeftJobSpec

from . import classified
from .cells import Layout, label_of, need
from .pictures import blank, check, file_of, processed
from .rows import Row, Source
from .types import Encoded, Picture

PATCH = 16
"""Pixels of a side, in most bases."""


def choose_layout(spec: PeftJobSpec, present: list[str], uri: str) -> Layout:
    """Return the columns of image and label.

    Raises:
        TrainerError: `DATASET_COLUMN_MISSING`.
    """
    named = spec.dataset.columns
    columns = {"image": named.image or "image", "label": named.label or "label"}
    need(columns, present, uri)
    return Layout("images", columns)


def labels_of(spec: PeftJobSpec, source: Source, layout: Layout) -> list[str] | None:
    """Return the class names, of the task or of the training data; for errors see `classified`."""
    return classified.labels_of(spec, source, Layout(layout.kind, {"label": layout.columns["label"]}))


def encoder(
    spec: PeftJobSpec, layout: Layout, processor: Any, labels: list[str] | None, uri: str
) -> Callable[[Row], Encoded]:
    """Return what makes a sample of a row, whose image is decoded to see that it can be, and then again when used."""
    indices = {label: index for index, label in enumerate(labels or [])}
    height, width = processed(blank(), processor).shape[-2:]
    length = -(-height // PATCH) * -(-width // PATCH)

    def encode(row: Row) -> Encoded:
        label = label_of(row, layout.columns["label"])
        if label not in indices:
            raise classified.unknown_label(spec, row.where, label, list(indices))
        file = file_of(row, layout.columns["image"])
        check(file, row.where)
        return Picture(file, indices[label], row.where, length), False

    return encode
