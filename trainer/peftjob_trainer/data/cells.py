"""Values of rows, checked: each wrong one is an error that names file, line, column and fix. Used by the readers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peftjob_api import Reason

from ..exits import TrainerError
from .rows import Row, Source, kind_of, malformed

_MAX_SHOWN = 10


@dataclass(frozen=True)
class Layout:
    """What the rows are, and the column of each part: part (a field of `dataset.columns`) -> column."""

    kind: str
    columns: dict[str, str]


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
    """Yield rows that have every column that is needed."""
    if source.format != "JSONL":
        need(layout.columns, source.columns(), source.uri)
    for row in source.rows(list(layout.columns.values())):
        if source.format == "JSONL":
            need(layout.columns, list(row.values), row.where)
        yield row


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
