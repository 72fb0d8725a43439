"""Reads rows from JSONL, CSV and Parquet files, one at a time, and knows where each one stands.

Used by `load`. A row that cannot be read is an error with file and line: a sample that is silently skipped or
misunderstood is found weeks later, in the model. Who wants to go on after a bad row says what to do with its error.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from peftjob_api import Reason
from peftjob_api.dataset_spec import DatasetSpec

from ..exits import TrainerError

_FORMATS = {".jsonl": "JSONL", ".csv": "CSV", ".parquet": "Parquet"}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Of images in a folder, in small letters; other files are let be."""
_PARQUET_BATCH_ROWS = 1024
_MAX_FIELD_CHARACTERS = 2**31 - 1  # what a C long holds everywhere


@dataclass(frozen=True)
class Row:
    """One row."""

    values: dict[str, Any]
    where: str
    """File and line (or row), for messages."""
    folder: Path = Path()
    """That paths in the row are relative to."""


OnBad = Callable[[TrainerError], None]
"""What is done with the error of a bad row, before the next one is read."""


def fail(error: TrainerError) -> NoReturn:
    """Go no further."""
    raise error


@dataclass(frozen=True)
class DataFile:
    """One data file: a local copy, and the uri by which its user knows it."""

    path: Path
    uri: str
    format: str
    """`JSONL`, `CSV` or `Parquet`; `ImageFolder` of an image, whose only row has its name and that of its folder."""

    @classmethod
    def of(cls, path: Path, uri: str, dataset: DatasetSpec) -> "DataFile":
        """Return the file with its format as the spec says, or by the ending of its uri."""
        return cls(path, uri, _FORMATS[Path(uri).suffix] if dataset.format == "Auto" else dataset.format)

    def columns(self, on_bad: OnBad = fail) -> Iterator[list[str]]:
        """Yield the names of the columns: the header's or the schema's, once, or the keys of each JSON object.

        Raises:
            TrainerError: `DATASET_EMPTY` or `DATASET_MALFORMED`.
        """
        if self.format == "Parquet":
            with _parquet(self) as file:
                yield list(file.schema_arrow.names)
        elif self.format == "CSV":
            with _csv(self) as (header, _):
                yield header
        elif self.format == "ImageFolder":
            yield list(self._image().values)
        else:
            yield from (list(row.values) for row in _jsonl_rows(self, on_bad))

    def rows(self, columns: Sequence[str], on_bad: OnBad = fail) -> Iterator[Row]:
        """Yield the rows in order; only `columns` are sure to be in them.

        Raises:
            TrainerError: `DATASET_MALFORMED`, with the line; `DATASET_COLUMN_MISSING` where a JSON object lacks one.
        """
        if self.format == "Parquet":
            return _parquet_rows(self, columns)
        if self.format == "ImageFolder":
            return iter([self._image()])
        return _csv_rows(self, on_bad) if self.format == "CSV" else _jsonl_rows(self, on_bad)

    def _image(self) -> Row:
        return Row({"image": self.path.name, "label": PurePosixPath(self.uri).parent.name}, self.uri)


@dataclass(frozen=True)
class Source:
    """The files of a split, read one after the other."""

    uri: str
    """As the spec names it: of a file, a pattern, or several."""
    files: tuple[DataFile, ...]
    most: int | None = None
    """How many rows are read; None: all."""
    on_bad: OnBad = fail

    @classmethod
    def of(cls, split: str, found: Mapping[str, Path], dataset: DatasetSpec) -> "Source":
        """Return the source of a split, of the uri and path of each of its files."""
        if dataset.format == "ImageFolder":
            found = dict(_images(found, {uri.removesuffix("/**") for uri in dataset.files(split)}))
        files = tuple(DataFile.of(path, uri, dataset) for uri, path in found.items())
        return cls(", ".join(dataset.files(split)), files, dataset.max_samples)

    def columns(self) -> Iterator[list[str]]:
        """Yield the names of the columns of each file, of JSONL those of each row.

        Raises:
            TrainerError: `DATASET_EMPTY` or `DATASET_MALFORMED`.
        """
        for file in self.files:
            yield from file.columns(self.on_bad)


def malformed(where: str, why: str) -> TrainerError:
    """Return the error of a row that is not as it has to be."""
    return TrainerError(Reason.DATASET_MALFORMED, f"{where}: {why}")


def empty(uri: str, why: str = "it has no rows") -> TrainerError:
    """Return the error of a file with nothing to learn from."""
    return TrainerError(Reason.DATASET_EMPTY, f"{uri}: {why}: put examples into it, or correct the uri in spec.dataset")


def _jsonl_rows(source: DataFile, on_bad: OnBad) -> Iterator[Row]:
    with source.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{source.uri} line {number}"
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode().rstrip())
            except UnicodeDecodeError as error:
                on_bad(malformed(where, f"not UTF-8 (byte {error.start + 1}): save the file as UTF-8"))
                continue
            except (ValueError, RecursionError) as error:
                said = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
                on_bad(malformed(where, f"no valid JSON ({said}): write one JSON object on each line"))
                continue
            if isinstance(values, dict):
                yield Row(values, where)
            else:
                on_bad(malformed(where, f"a JSON {kind_of(values)}, not an object: write one JSON object on each line"))


@contextmanager
def _csv(source: DataFile) -> Iterator[tuple[list[str], Any]]:
    """Open a CSV file; return its header, and a reader after it."""
    # The module's own limit of 128 KiB is shorter than long documents.
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    with source.path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        where = f"{source.uri} line 1"
        try:
            header = next(reader, None)
        except (csv.Error, UnicodeDecodeError) as error:
            raise malformed(where, f"no header can be read ({error}): save the file as CSV in UTF-8") from error
        if not header:
            raise empty(source.uri, "it has no header")
        if len(set(header)) != len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise malformed(where, f"the header has column {twice!r} twice: rename one")
        yield header, reader


def _csv_rows(source: DataFile, on_bad: OnBad) -> Iterator[Row]:
    with _csv(source) as (header, reader):
        while True:
            where = f"{source.uri} line {reader.line_num + 1}"  # where the row starts; a quoted field may span lines
            try:
                fields = next(reader, None)
            except csv.Error as error:
                on_bad(malformed(where, f'no valid CSV ({error}): quote fields by " and double a " in them'))
                continue
            except UnicodeDecodeError as error:
                raise malformed(where, f"not UTF-8, there or soon after ({error.reason}): save it as UTF-8") from error
            if fields is None:
                return
            if not fields:
                continue
            if len(fields) != len(header):
                on_bad(
                    malformed(
                        where,
                        f"{len(fields)} fields where the header has {len(header)} ({', '.join(header)}): quote fields "
                        f"that contain commas or line breaks",
                    )
                )
                continue
            yield Row(dict(zip(header, fields, strict=True)), where)


@contextmanager
def _parquet(source: DataFile) -> Iterator[Any]:
    """Open a Parquet file."""
    import pyarrow.parquet  # 25 MB on each rank, for a format that few jobs use

    try:
        file = pyarrow.parquet.ParquetFile(source.path)
    except (pyarrow.ArrowException, OSError) as error:
        if source.path.stat().st_size == 0:
            raise empty(source.uri, "the file has no bytes") from error
        raise malformed(
            source.uri, f"no Parquet file ({_first_line(error)}): write it again, or set spec.dataset.format"
        ) from error
    with file:
        yield file


def _parquet_rows(source: DataFile, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow

    with _parquet(source) as file:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=list(columns)):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{source.uri} row {number}")
        except (pyarrow.ArrowException, OSError) as error:
            raise malformed(
                f"{source.uri} after row {number}", f"damaged ({_first_line(error)}): write the file again"
            ) from error


def _images(found: Mapping[str, Path], folders: Set[str]) -> Iterator[tuple[str, Path]]:
    """Yield the images of folders, one of each sub-folder in turn, so that the first ones are of all labels.

    Raises:
        TrainerError: `DATASET_MALFORMED`: one has no label.
    """
    by_label: dict[str, list[tuple[str, Path]]] = {}
    for uri, path in found.items():
        if not uri.lower().endswith(IMAGE_SUFFIXES):
            continue
        above = uri.rpartition("/")[0]
        if above in folders:
            raise malformed(uri, "it is in no sub-folder, whose name would be its label: move it into one")
        by_label.setdefault(above.rpartition("/")[2], []).append((uri, path))
    for each in zip_longest(*by_label.values()):
        yield from (image for image in each if image is not None)


def kind_of(value: object) -> str:
    """Return the JSON name of a value's type, for messages."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
