"""Loads the splits of a job: fetch, read, check, encode.

Every wrong row is an error that names file and line (see docs/failure-modes.md for what each reason means), or is left
out and counted, if `dataset.onBadRow` says so.
"""

import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from peftjob_api import PeftJobSpec, Reason
from peftjob_api.spec import StorageSpec

from ..exits import TrainerError
from .cells import Layout, read_rows
from .files import fetch_split
from .parts import set_aside
from .readers import reader_of
from .rows import Row, Source, empty
from .skipped import Skipped
from .splits import Split, Splits
from .stored import Writer
from .types import Encoded, Preference

_POLL_SECONDS: Final = 0.05


def load_splits(spec: PeftJobSpec, processor: Any, storage: StorageSpec, work_dir: Path) -> Splits:
    """Return the samples of `spec.dataset`.

    Args:
        spec: Of the job.
        processor: The base model's tokenizer, or image processor, from transformers.
        storage: `spec.storage`.
        work_dir: Where remote files are copied to, and samples are kept.

    Raises:
        TrainerError: `DATASET_NOT_FOUND`, `DATASET_COLUMN_MISSING`, `DATASET_MALFORMED`, `DATASET_EMPTY`,
            `UNKNOWN_LABEL`, `INVALID_CONFIG` (no chat template), or what the storage service says.
    """
    dataset = spec.dataset
    sources = {
        split: Source.of(split, found, dataset)
        for split in ("train", "validation", "test")
        if (found := fetch_split(spec, split, storage, work_dir / split))
    }
    reader, train = reader_of(spec.task), sources["train"]
    layout, labels = _understand(reader, spec, train)
    work_dir.mkdir(parents=True, exist_ok=True)
    kept = Path(tempfile.mkdtemp(prefix="samples-", dir=work_dir))
    splits = {}
    for name, source in sources.items():
        encode = reader.encoder(spec, layout, processor, labels, source.uri)
        splits[name] = _load(name, spec, source, layout, encode, labels, kept)
    splits |= _divided(spec, splits["train"], train.uri)
    first = splits["train"].examples[0]
    chat = layout.kind == "messages" or (isinstance(first, Preference) and first.is_chat)
    return Splits(splits["train"], splits.get("validation"), splits.get("test"), labels, chat)


def load_once(spec: PeftJobSpec, processor: Any, storage: StorageSpec, work_dir: Path, *, is_first: bool) -> Splits:
    """Return the samples of `spec.dataset`, which one rank of a node encodes for all.

    Args:
        spec: Of the job.
        processor: The base model's tokenizer, or image processor, from transformers.
        storage: `spec.storage`.
        work_dir: Of this node's ranks, and of this run only.
        is_first: Whether this rank is the one; the others wait, for as long as their launcher lets them, which ends all
            when one has failed.

    Raises:
        TrainerError: See `load_splits`; on the first rank only.
    """
    told = work_dir / "splits.pickle"
    if is_first:
        splits = load_splits(spec, processor, storage, work_dir)
        temporary = told.with_suffix(".part")
        temporary.write_bytes(pickle.dumps(splits))
        temporary.replace(told)
        return splits
    while not told.is_file():
        time.sleep(_POLL_SECONDS)
    found: Splits = pickle.loads(told.read_bytes())
    return found


def _understand(reader: ModuleType, spec: PeftJobSpec, train: Source) -> tuple[Layout, list[str] | None]:
    """Return what the rows are, and the names of the classes, by the training data; bad rows are not counted yet."""
    skipped = Skipped()
    if spec.dataset.on_bad_row == "Skip":
        train = replace(train, on_bad=skipped.add)
    try:
        layout = _layout(reader, spec, train)
        return layout, reader.labels_of(spec, train, layout)
    except TrainerError as error:
        if error.reason is Reason.DATASET_EMPTY and skipped.count:
            raise skipped.all_of(train.uri) from error
        raise


def _layout(reader: ModuleType, spec: PeftJobSpec, train: Source) -> Layout:
    """Return what the rows are: by the first of them, or the first that is not bad."""
    first: TrainerError | None = None
    for present in train.columns():
        try:
            found: Layout = reader.choose_layout(spec, present, train.uri)
            return found
        except TrainerError as error:
            if spec.dataset.on_bad_row == "Fail" or error.reason is not Reason.DATASET_COLUMN_MISSING:
                raise
            first = first or error
    raise first or empty(train.uri)


def _load(
    name: str,
    spec: PeftJobSpec,
    source: Source,
    layout: Layout,
    encode: Callable[[Row], Encoded],
    labels: list[str] | None,
    kept: Path,
) -> Split:
    """Return the samples of the files of a split, which are written into a folder as they are made."""
    skipped = Skipped()
    if spec.dataset.on_bad_row == "Skip":
        source = replace(source, on_bad=skipped.add)
    dropped = 0
    with Writer(kept / f"{name}.pickle", labels) as writer:
        for example, is_cut in read_rows(source, layout, encode):
            if example is None:
                dropped += 1
            else:
                writer.add(example, is_cut)
        if not len(writer) and skipped.count:
            raise skipped.all_of(source.uri)
        if not len(writer):
            raise empty(source.uri, f"none of its {dropped} rows has a token to learn" if dropped else "it has no rows")
        examples, digest = writer.finish()
    return Split(name, examples, labels, dropped, skipped, digest)


def _divided(spec: PeftJobSpec, train: Split, uri: str) -> dict[str, Split]:
    """Return the splits that the fractions make of the training data; none without fractions.

    Raises:
        TrainerError: `DATASET_EMPTY`.
    """
    given = {"validation": spec.dataset.validation_fraction, "test": spec.dataset.test_fraction}
    fractions = {name: fraction for name, fraction in given.items() if fraction is not None}
    if not fractions:
        return {}
    try:
        parts = set_aside(len(train.examples), fractions, spec.dataset.split_seed or 0)
    except ValueError as error:
        raise empty(uri, f"{error}: {' and '.join(f'spec.dataset.{name}Fraction' for name in fractions)}") from error
    return {name: train.part(name, places) for name, places in parts.items()}
