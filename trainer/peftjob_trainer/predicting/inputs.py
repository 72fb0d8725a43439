"""Rows to predict on: from a file of the kinds that are trained on, lines of text, or images. Used by `predict`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from peftjob_api import Reason

from ..data.cells import listed, messages_of, strings_in, text_of
from ..data.pictures import file_of
from ..data.rows import IMAGE_SUFFIXES, DataFile, Row, empty
from ..exits import TrainerError

FORMATS: Final = {".jsonl": "JSONL", ".csv": "CSV", ".parquet": "Parquet", ".txt": "Text"}
STDIN: Final = "-"


@dataclass(frozen=True)
class Inputs:
    """What is predicted on, in the order of the rows."""

    kind: str
    """`text`, `messages`, `tokens` or `image`."""
    values: Sequence[Any]
    """Texts, lists of `{role, content}`, lists of words, or `Shown`."""


@dataclass(frozen=True)
class Shown:
    """An image file."""

    file: Path | bytes
    """The file, or what it holds."""
    where: str
    """Its path, or the row that holds it."""


def read_inputs(name: str, format_: str | None, parts: Sequence[str], columns: Mapping[str, str]) -> Inputs:
    """Read rows.

    Args:
        name: A file, or `-`: lines of text, or paths of images, from standard input. For images also one image, or a
            folder of them, in the order of their names.
        format_: `JSONL`, `CSV`, `Parquet` or `Text`; None: by the file's ending.
        parts: That the task can read, the preferred first: such as `messages`, `prompt` and `text`.
        columns: Part -> column, where it has not the part's name.

    Raises:
        TrainerError: `DATASET_NOT_FOUND`, `DATASET_COLUMN_MISSING`, `DATASET_EMPTY` or `DATASET_MALFORMED`.
    """
    is_image = parts == ("image",)
    if name == STDIN:
        lines = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
        return Inputs("image", [_shown(Path(line)) for line in lines]) if is_image else Inputs("text", lines)
    path = Path(name)
    if is_image and format_ is None and (path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES):
        return Inputs("image", [_shown(each) for each in _images(path)])
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
        lines = [line for line in lines if line.strip()]
        return Inputs("image", [_shown(Path(line)) for line in lines]) if is_image else Inputs("text", lines)
    source = DataFile(path, name, chosen)
    part, column = _column(source, parts, columns)
    if is_image:
        rows = (replace(row, folder=path.parent) for row in source.rows([column]))
        return Inputs("image", [_of_row(row, column) for row in rows])
    kind = part if part in ("messages", "tokens") else "text"
    return Inputs(kind, [_value(row, kind, column) for row in source.rows([column])])


def _images(path: Path) -> list[Path]:
    """Return an image, or all of a folder."""
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())
    if not found:
        raise TrainerError(Reason.DATASET_EMPTY, f"--input {path}: there is no image in the folder")
    return found


def _shown(path: Path) -> Shown:
    if not path.is_file():
        raise TrainerError(Reason.DATASET_NOT_FOUND, f"there is no image {path}")
    return Shown(path, str(path))


def _of_row(row: Row, column: str) -> Shown:
    _need(row, column)
    file = file_of(row, column)
    return Shown(file, str(file) if isinstance(file, Path) else row.where)


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
    _need(row, column)
    if kind == "messages":
        return messages_of(row, column, learned=False)
    return strings_in(row, column, "words") if kind == "tokens" else text_of(row, column)


def _need(row: Row, column: str) -> None:
    if column not in row.values:
        raise TrainerError(
            Reason.DATASET_COLUMN_MISSING, f"{row.where} has no column {column!r}, only {listed(list(row.values))}"
        )
