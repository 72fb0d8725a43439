"""Rows to predict on: from a file of the kinds that are trained on, or lines of text. Used by `predict`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from peftjob_api import Reason

from ..data.cells import listed, messages_of, strings_in, text_of
from ..data.rows import DataFile, Row, empty
from ..exits import TrainerError

FORMATS: Final = {".jsonl": "JSONL", ".csv": "CSV", ".parquet": "Parquet", ".txt": "Text"}
STDIN: Final = "-"


@dataclass(frozen=True)
class Inputs:
    """What is predicted on, in the order of the rows."""

    kind: str
    """`text`, `messages` or `tokens`."""
    values: Sequence[Any]
    """Texts, lists of `{role, content}`, or lists of words."""


def read_inputs(name: str, format_: str | None, parts: Sequence[str], columns: Mapping[str, str]) -> Inputs:
    """Read rows.

    Args:
        name: A file, or `-`: lines of text from standard input.
        format_: `JSONL`, `CSV`, `Parquet` or `Text`; None: by the file's ending.
        parts: That the task can read, the preferred first: such as `messages`, `prompt` and `text`.
        columns: Part -> column, where it has not the part's name.

    Raises:
        TrainerError: `DATASET_NOT_FOUND`, `DATASET_COLUMN_MISSING`, `DATASET_EMPTY` or `DATASET_MALFORMED`.
    """
    if name == STDIN:
        return Inputs("text", [line.rstrip("\r\n") for line in sys.stdin if line.strip()])
    path = Path(name)
    if not path.is_file():
        raise TrainerError(Reason.DATASET_NOT_FOUND, f"--input {name}: there is no such file")
    chosen = format_ or FORMATS.get(path.suffix)
    if chosen is None:
        raise TrainerError(
            Reason.INVALID_CONFIG, f"--input {name}: it does not end in {', '.join(FORMATS)}: set --format"
        )
    if chosen == "Text":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise TrainerError(Reason.DATASET_MALFORMED, f"--input {name}: not UTF-8: save it as UTF-8") from error
        return Inputs("text", [line for line in lines if line.strip()])
    source = DataFile(path, name, chosen)
    part, column = _column(source, parts, columns)
    kind = part if part in ("messages", "tokens") else "text"
    return Inputs(kind, [_value(row, kind, column) for row in source.rows([column])])


def _column(source: DataFile, parts: Sequence[str], columns: Mapping[str, str]) -> tuple[str, str]:
    """Return which part the rows have, and its column."""
    present = next(source.columns(), None)
    if present is None:
        raise empty(source.uri)
    named = [(part, columns.get(part, part)) for part in parts]
    for part, column in sorted(named, key=lambda each: each[0] not in columns):
        if column in present:
            return part, column
    wanted = " or ".join(repr(column) for _, column in named)
    raise TrainerError(
        Reason.DATASET_COLUMN_MISSING,
        f"--input {source.uri} has no column {wanted}, only {listed(present)}: rename the column to predict on",
    )


def _value(row: Row, kind: str, column: str) -> Any:
    if column not in row.values:
        raise TrainerError(
            Reason.DATASET_COLUMN_MISSING, f"{row.where} has no column {column!r}, only {listed(list(row.values))}"
        )
    if kind == "messages":
        return messages_of(row, column, learned=False)
    return strings_in(row, column, "words") if kind == "tokens" else text_of(row, column)
