"""Rows of SequenceClassification: a text and its label. Chosen by `readers`."""

import re
from collections.abc import Callable
from typing import Any

from peftjob_api import PeftJobSpec, Reason

from ..exits import TrainerError
from .cells import Layout, checked_rows, label_of, listed, need, text_of
from .encode import encode_classified
from .rows import Row, Source, empty, malformed
from .types import Encoded


def choose_layout(spec: PeftJobSpec, present: list[str], uri: str) -> Layout:
    """Return the columns of text and label.

    Raises:
        TrainerError: `DATASET_COLUMN_MISSING`.
    """
    named = spec.dataset.columns
    columns = {"text": named.text or "text", "label": named.label or "label"}
    need(columns, present, uri)
    return Layout("classified", columns)


def labels_of(spec: PeftJobSpec, source: Source, layout: Layout) -> list[str] | None:
    """Return the class names: the task's, or the sorted distinct labels of the training data (numbers as numbers).

    Raises:
        TrainerError: `DATASET_EMPTY`, or `DATASET_MALFORMED`: there is a single one.
    """
    given = _given(spec)
    if given is not None:
        return list(given)
    found = {label_of(row, layout.columns["label"]) for row in checked_rows(source, layout)}
    if not found:
        raise empty(source.uri)
    if len(found) == 1:
        raise malformed(
            source.uri,
            f"every row has the label {found.pop()!r}: a classifier needs two; add rows of the others, or correct "
            f"spec.dataset.columns.label",
        )
    if all(re.fullmatch("-?[0-9]+", label) for label in found):
        # By name as well: all ranks need one order, also of labels such as 1 and 01.
        return sorted(found, key=lambda label: (int(label), label))
    return sorted(found)


def encoder(
    spec: PeftJobSpec, layout: Layout, tokenizer: Any, labels: list[str] | None, uri: str
) -> Callable[[Row], Encoded]:
    """Return what makes an example of a row."""
    assert labels is not None
    indices = {label: index for index, label in enumerate(labels)}

    def classified(row: Row) -> Encoded:
        label = label_of(row, layout.columns["label"])
        if label not in indices:
            raise _unknown(row.where, label, labels, given=_given(spec) is not None)
        return encode_classified(
            tokenizer, text_of(row, layout.columns["text"]), indices[label], spec.dataset.max_length
        )

    return classified


def _given(spec: PeftJobSpec) -> list[str] | None:
    return spec.task.sequence_classification.labels if spec.task.sequence_classification else None


def _unknown(where: str, label: str, labels: list[str], *, given: bool) -> TrainerError:
    known = listed(labels)
    if given:
        fix = f"the labels are {known}: correct the row, or add it to spec.task.sequenceClassification.labels"
    else:
        fix = (
            f"the training data has only {known}: correct the row, or list all labels in "
            f"spec.task.sequenceClassification.labels"
        )
    return TrainerError(Reason.UNKNOWN_LABEL, f"{where}: unknown label {label!r}; {fix}")
