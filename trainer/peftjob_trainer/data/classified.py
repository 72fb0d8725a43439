"""Rows of SequenceClassification: a text and its label, labels or number. Chosen by `readers`."""

import re
from collections.abc import Callable, Set
from typing import Any

from peftjob_api import PeftJobSpec, Reason

from ..exits import TrainerError
from .cells import Layout, filled_text_of, label_of, labels_in, listed, need, number_of, read_rows
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
    """Return the class names, of the task or of the training data; None for Regression.

    Raises:
        TrainerError: `DATASET_EMPTY`, or `DATASET_MALFORMED`: there is a single one.
    """
    if _problem(spec) == "Regression":
        return None
    if spec.task.labels is not None:
        return list(spec.task.labels)
    column, several = layout.columns["label"], _problem(spec) == "MultiLabel"
    found: set[str] = set()
    for labels in read_rows(source, layout, lambda row: labels_in(row, column) if several else [label_of(row, column)]):
        found.update(labels)
    if not found:
        raise empty(source.uri, "none of its rows has a label" if several else "it has no rows")
    if len(found) == 1:
        raise malformed(
            source.uri,
            f"every row has the label {found.pop()!r}: a classifier needs two; add rows of the others, or correct "
            f"spec.dataset.columns.label",
        )
    return in_order(found)


def in_order(labels: Set[str]) -> list[str]:
    """Return labels sorted, numbers as numbers."""
    if all(re.fullmatch("-?[0-9]+", label) for label in labels):
        # By name as well: all ranks need one order, also of labels such as 1 and 01.
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def encoder(
    spec: PeftJobSpec, layout: Layout, tokenizer: Any, labels: list[str] | None, uri: str
) -> Callable[[Row], Encoded]:
    """Return what makes an example of a row."""
    indices = {label: index for index, label in enumerate(labels or [])}
    column, problem = layout.columns["label"], _problem(spec)

    def index_of(row: Row, label: str) -> int:
        if label not in indices:
            raise unknown_label(spec, row.where, label, list(indices))
        return indices[label]

    def learned(row: Row) -> int | float | tuple[int, ...]:
        if problem == "Regression":
            return number_of(row, column)
        if problem == "MultiLabel":
            chosen = {index_of(row, label) for label in labels_in(row, column)}
            return tuple(int(index in chosen) for index in range(len(indices)))
        return index_of(row, label_of(row, column))

    def classified(row: Row) -> Encoded:
        text = filled_text_of(row, layout.columns["text"])
        return encode_classified(tokenizer, text, learned(row), spec.dataset.max_length)

    return classified


def unknown_label(spec: PeftJobSpec, where: str, label: str, labels: list[str]) -> TrainerError:
    """Return the error of a label outside the set."""
    field = f"spec.task.{spec.task.type[0].lower()}{spec.task.type[1:]}.labels"
    if spec.task.labels is not None:
        fix = f"the labels are {listed(labels)}: correct the row, or add it to {field}"
    else:
        fix = f"the training data has only {listed(labels)}: correct the row, or list all labels in {field}"
    return TrainerError(Reason.UNKNOWN_LABEL, f"{where}: unknown label {label!r}; {fix}")


def _problem(spec: PeftJobSpec) -> str:
    settings = spec.task.sequence_classification
    return settings.problem if settings else "SingleLabel"
