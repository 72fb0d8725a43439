"""Values of rows, checked: each wrong one is an error that names file, line, column and fix. Used by the readers."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, TypeGuard, TypeVar

from peftjob_api import PeftJobSpec, Reason

from ..exits import TrainerError
from .rows import DataFile, Row, Source, kind_of, malformed

_MAX_SHOWN = 10
_ROW_REASONS = frozenset({Reason.DATASET_MALFORMED, Reason.DATASET_COLUMN_MISSING, Reason.UNKNOWN_LABEL})
"""Why a row is bad; other reasons are about more than one row."""
T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """What the rows are, and the column of each part: part (a field of `dataset.columns`) -> column."""

    kind: str
    columns: dict[str, str]


def columns_for(
    spec: PeftJobSpec, present: list[str], uri: str, needed: Sequence[str], optional: str | None = None
) -> dict[str, str]:
    """Return part -> column: as `dataset.columns` names it, else by the part's name; an optional one if it is there.

    Raises:
        TrainerError: `DATASET_COLUMN_MISSING`.
    """
    named = {part: getattr(spec.dataset.columns, part) for part in (*needed, *([optional] if optional else []))}
    columns = {part: named[part] or part for part in needed}
    if optional is not None and (named[optional] is not None or optional in present):
        columns[optional] = named[optional] or optional
    need(columns, present, uri)
    return columns


def need(columns: dict[str, str], present: list[str], where: str) -> None:
    """Raise unless every column is there.

    Raises:
        TrainerError: `DATASET_COLUMN_MISSING`.
    """
    for part, column in columns.items():
        if column not in present:
            raise TrainerError(
                Reason.DATASET_COLUMN_MISSING,
                f"{where} has no column {column!r}, only {listed(present)}: set spec.dataset.columns.{part} to the "
                f"column that holds the {part}",
            )


def checked_rows(source: Source, layout: Layout) -> Iterator[Row]:
    """Yield rows that have every column that is needed, no more than the source is to be read."""
    rows = (row for file in source.files for row in _of_file(file, source, layout))
    return islice(rows, source.most)


def read_rows(source: Source, layout: Layout, read: Callable[[Row], T]) -> Iterator[T]:
    """Yield what is read of each row; of bad rows, `source.on_bad` decides."""
    for row in checked_rows(source, layout):
        try:
            found = read(row)
        except TrainerError as error:
            if error.reason not in _ROW_REASONS:
                raise
            source.on_bad(error)
        else:
            yield found


def _of_file(file: DataFile, source: Source, layout: Layout) -> Iterator[Row]:
    columns = layout.columns
    if file.format != "JSONL":
        need(columns, next(file.columns()), file.uri)
    for row in file.rows(list(columns.values()), source.on_bad):
        try:
            need(columns, list(row.values), row.where)
        except TrainerError as error:
            source.on_bad(error)
        else:
            yield replace(row, folder=file.path.parent)


def listed(names: list[str]) -> str:
    """Return names for a message, not too many."""
    shown = ", ".join(repr(name) for name in names[:_MAX_SHOWN])
    return (shown or "none") + (f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else "")


def text_of(row: Row, column: str) -> str:
    """Return a string."""
    value = row.values[column]
    if not isinstance(value, str):
        raise malformed(row.where, f"column {column!r} holds a JSON {kind_of(value)}, not a string: write a string")
    return value


def label_of(row: Row, column: str) -> str:
    """Return a label as a string; numbers 0 and 1 are the labels `0` and `1`."""
    value = row.values[column]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise malformed(
            row.where, f"column {column!r} holds a JSON {kind_of(value)}, no label: write a string or an integer"
        )
    if value == "":
        raise malformed(row.where, f"column {column!r} is empty: write a label")
    return str(value)


def filled_text_of(row: Row, column: str) -> str:
    """Return a string that is more than white space."""
    text = text_of(row, column)
    if not text.strip():
        raise malformed(row.where, f"column {column!r} is empty: write a text, or remove the row")
    return text


def labels_in(row: Row, column: str) -> list[str]:
    """Return a list of labels, which may be empty; in a string, as in CSV, they are separated by `|`."""
    value = row.values[column]
    if isinstance(value, str):
        return [label for label in value.split("|") if label]
    return strings_in(row, column, "labels")


def strings_in(row: Row, column: str, what: str) -> list[str]:
    """Return a list of strings; integers are written as strings."""
    value = row.values[column]
    if not isinstance(value, list):
        raise malformed(row.where, f"column {column!r} holds a JSON {kind_of(value)}, no list: write a list of {what}")
    for number, item in enumerate(value, start=1):
        if isinstance(item, bool) or not isinstance(item, str | int) or item == "":
            found = "an empty string" if item == "" else f"a JSON {kind_of(item)}"
            raise malformed(row.where, f"item {number} of column {column!r} is {found}: write a list of {what}")
    return [str(item) for item in value]


def spans_of(row: Row, column: str, text: str) -> list[tuple[int, int, str]]:
    """Return (begin, end, label) of spans of a text in characters, in order; none overlaps another."""
    value, shape = row.values[column], "write a list of {start, end, label} objects"
    if not isinstance(value, list):
        raise malformed(row.where, f"column {column!r} holds a JSON {kind_of(value)}, no list of spans: {shape}")
    found: list[tuple[int, int, str]] = []
    for number, span in enumerate(value, start=1):
        parts = span if isinstance(span, dict) else {}
        begin, end, label = parts.get("start"), parts.get("end"), parts.get("label")
        if not _is_place(begin) or not _is_place(end) or not isinstance(label, str) or not label:
            raise malformed(row.where, f"span {number} of column {column!r} has no start, end and label: {shape}")
        if not (0 <= begin < end <= len(text) and text[begin:end].strip()):
            raise malformed(
                row.where,
                f"span {number} of column {column!r} goes from {begin} to {end}, where the text of {len(text)} "
                f"characters has nothing: start and end count characters from 0, end is the one after the last",
            )
        found.append((begin, end, label))
    found.sort()
    for (_, end, _), (begin, _, label) in pairwise(found):
        if begin < end:
            raise malformed(
                row.where, f"the span {label!r} from {begin} of column {column!r} overlaps the one before: remove one"
            )
    return found


def _is_place(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def number_of(row: Row, column: str) -> float:
    """Return a finite number, in CSV from its digits."""
    value = row.values[column]
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        shown = repr(value)[:40] if isinstance(value, str | float) else f"a JSON {kind_of(value)}"
        raise malformed(row.where, f"column {column!r} holds {shown}, no finite number: write a number such as 0.5")
    return number


def messages_of(row: Row, column: str, *, learned: bool) -> list[dict[str, Any]]:
    """Return the messages of a chat; with `learned` there is one of the assistant's."""
    value = row.values[column]
    shape = "write a list of {role, content} objects"
    if not isinstance(value, list) or not value:
        raise malformed(row.where, f"column {column!r} holds a JSON {kind_of(value)}, no list of messages: {shape}")
    for number, message in enumerate(value, start=1):
        for part in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(part), str):
                raise malformed(row.where, f"message {number} of column {column!r} has no string {part!r}: {shape}")
    if learned and not any(message["role"] == "assistant" for message in value):
        raise malformed(
            row.where,
            f"no message of column {column!r} has the role assistant, so there is nothing to learn: add one, or set "
            f"spec.task.causalLM.lossOn to AllTokens",
        )
    return value
