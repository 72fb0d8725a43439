"""Brings the files of a split to this node: the launcher first, then each rank, which finds them there."""

from pathlib import Path

from peftjob_api import PeftJobSpec
from peftjob_api.spec import StorageSpec

from ..storage import fetch_beside, fetch_files
from ..storage.uris import parse
from .pictures import is_below
from .rows import DataFile


def fetch_split(spec: PeftJobSpec, split: str, storage: StorageSpec, dest: Path) -> dict[str, Path]:
    """Return the uri and local path of each file of a split, none if there is none; images that they name are there.

    Args:
        spec: Of the job.
        split: `train`, `validation` or `test`.
        storage: `spec.storage`.
        dest: Folder for copies.

    Raises:
        TrainerError: `DATASET_NOT_FOUND`, `DATASET_MALFORMED` (where a file cannot be read for the images that it
            names), or what the storage service says.
    """
    uris = spec.dataset.files(split)
    if not uris:
        return {}
    found = fetch_files(uris, storage, dest)
    if spec.task.type == "ImageClassification" and spec.dataset.format != "ImageFolder":
        for uri, path in found.items():
            if parse(uri).scheme == "s3":
                named = _named(DataFile.of(path, uri, spec.dataset), spec.dataset.columns.image or "image")
                fetch_beside(uri, named, storage, path.parent)
    return found


def _named(file: DataFile, column: str) -> list[str]:
    """Return the paths in a column, each once; what is wrong with others is told when the rows are read."""
    if not any(column in present for present in file.columns(on_bad=_pass)):
        return []
    values = (row.values.get(column) for row in file.rows([column], _pass))
    paths = (value.get("path") if isinstance(value, dict) and not value.get("bytes") else value for value in values)
    return list(dict.fromkeys(path for path in paths if isinstance(path, str) and path.strip() and is_below(path)))


def _pass(error: Exception) -> None:
    """Let a bad row be, which its reader tells of."""
