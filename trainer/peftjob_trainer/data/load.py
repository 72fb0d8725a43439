"""Loads the splits of a job: fetch, read, check, encode.

Every wrong row is an error that names file and line: see docs/failure-modes.md for what each reason means.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftjob_api import PeftJobSpec
from peftjob_api.spec import StorageSpec

from ..storage import fetch_file
from .cells import Layout, checked_rows
from .readers import reader_of
from .rows import Row, Source, empty
from .types import Encoded, Sample, Split, Splits

log = logging.getLogger(__name__)


def load_splits(spec: PeftJobSpec, tokenizer: Any, storage: StorageSpec, work_dir: Path) -> Splits:
    """Return the samples of `spec.dataset`.

    Args:
        spec: Of the job.
        tokenizer: The base model's, from transformers.
        storage: `spec.storage`.
        work_dir: Where remote files are copied to.

    Raises:
        TrainerError: `DATASET_NOT_FOUND`, `DATASET_COLUMN_MISSING`, `DATASET_MALFORMED`, `DATASET_EMPTY`,
            `UNKNOWN_LABEL`, `INVALID_CONFIG` (no chat template), or what the storage service says.
    """
    sources = {}
    for name in ("train", "validation", "test"):
        uri = getattr(spec.dataset, name)
        if uri is not None:
            sources[name] = Source.of(fetch_file(uri, storage, work_dir / name), uri, spec.dataset)
    reader, train = reader_of(spec.task), sources["train"]
    layout = reader.choose_layout(spec, train.columns(), train.uri)
    labels = reader.labels_of(spec, train, layout)
    splits = {
        name: _load(name, source, layout, reader.encoder(spec, layout, tokenizer, labels, source.uri), labels)
        for name, source in sources.items()
    }
    return Splits(splits["train"], splits.get("validation"), splits.get("test"), labels, layout.kind == "messages")


def _load(
    name: str, source: Source, layout: Layout, encode: Callable[[Row], Encoded], labels: list[str] | None
) -> Split:
    """Return one split."""
    examples: list[Sample] = []
    truncated = dropped = 0
    for row in checked_rows(source, layout):
        example, cut = encode(row)
        if example is None:
            dropped += 1
            continue
        examples.append(example)
        truncated += cut
    if not examples:
        raise empty(source.uri, f"none of its {dropped} rows has a token to learn" if dropped else "it has no rows")
    log.info("%s: %d examples, %d cut to maxLength, %d without anything to learn left out",
             source.uri, len(examples), truncated, dropped)  # fmt: skip
    return Split(name, examples, labels, truncated, dropped)
