"""All ranks write a merged model, each its own shard file, under the claim that rank 0 holds. Used by `session`.

Rank 0 publishes: it tells the others, through the store by which the ranks met, which file may be written on which
condition, and takes from their answers what the manifest says of it. So the files of a merged model are fenced, hashed
and committed as all others are (see `publish`).
"""

import copy
import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from peftjob_api.spec import OutputSpec, WorkersSpec

from ..claim_record import FileEntry
from ..publish import MERGED_FOLDER, Written
from ..sharding import Base
from ..storage import PreconditionFailed, Store, Stream
from ..storage.uris import parse
from ..storage.weights import INDEX_NAME
from .compute import windows
from .content import Tensor, Unit, dealt, units

log = logging.getLogger(__name__)

PATIENCE: Final = timedelta(hours=12)
"""For the others to write; the launcher, or the operator, ends a rank whose peer died."""
_ALIGNMENT: Final = 8
_COPIED: Final = ("generation_config.json",)
_KEY = "peftjob/merge"


@dataclass(frozen=True)
class Shard:
    """A file of the merged model."""

    name: str
    header: bytes
    units: tuple[Unit, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.header) + sum(unit.nbytes for unit in self.units)

    @property
    def tensors(self) -> list[Tensor]:
        """In the order of the file."""
        return [tensor for unit in self.units for tensor in unit.tensors]


def shards(hands: Sequence[Sequence[Unit]]) -> list[Shard]:
    """Return the files that some ranks write, named as transformers names the shards of a model."""
    return [
        Shard(
            f"model-{number:05}-of-{len(hands):05}.safetensors",
            header([t for u in hand for t in u.tensors]),
            tuple(hand),
        )
        for number, hand in enumerate(hands, 1)
    ]


def header(tensors: Sequence[Tensor]) -> bytes:
    """Return the beginning of a safetensors file: https://github.com/huggingface/safetensors#format."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        entries[tensor.key] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def index(files: Sequence[Shard]) -> bytes:
    """Return the content of `model.safetensors.index.json`."""
    tensors = [(tensor, file.name) for file in files for tensor in file.tensors]
    meta = {
        "total_parameters": sum(math.prod(tensor.shape) for tensor, _ in tensors),
        "total_size": sum(tensor.nbytes for tensor, _ in tensors),
    }
    found = {"metadata": meta, "weight_map": {t.key: name for t, name in sorted(tensors, key=lambda each: each[0].key)}}
    return (json.dumps(found, indent=1) + "\n").encode()


def writers(output: OutputSpec, workers: WorkersSpec) -> int:
    """Return how many ranks write, from rank 0 on: all, unless only those of its node see the folder that it sees."""
    is_apart = parse(output.uri).scheme == "file" and workers.nodes > 1
    return workers.ranks_per_node if is_apart else workers.world_size


class Merge:
    """The merged model, as one rank sees it. Of rank 0, it is the `Shards` that `publish` asks for."""

    files: Sequence[Shard]

    def __init__(self, rank: int, world: int, count: int) -> None:
        """Keep which rank of how many this is, and how many write, from rank 0 on."""
        self._rank = rank
        self._world = world
        self._count = count
        self._round = 0

    def prepare(self, model: Any, base: Base) -> None:
        """Find out what it is made of, and have the base kept open for it.

        Args:
            model: With the method in it, not filled yet.
            base: That it was prepared by.

        Raises:
            TrainerError: `INVALID_CONFIG`: see `units`.
        """
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.files = shards(
            dealt(units(model, base.segments, base.source.weights, inner.base_model_prefix), self._count)
        )
        base.keep_open = True
        self._base = base
        self._config = copy.deepcopy(inner.config)
        self._class = type(inner).__name__

    def describe(self, folder: Path, tokenizer: Any) -> None:
        """Write what a merged model has beside its weights: the index, config and tokenizer; on rank 0."""
        folder.mkdir(exist_ok=True)
        (folder / INDEX_NAME).write_bytes(index(self.files))
        self._config.architectures = [self._class]
        if hasattr(self._config, "use_cache"):
            self._config.use_cache = True  # which is off for training
        self._config.save_pretrained(folder)
        for name in _COPIED:
            if (self._base.folder / name).is_file():
                shutil.copyfile(self._base.folder / name, folder / name)
        tokenizer.save_pretrained(folder)

    def open(self, meeting: Any, output: Store) -> None:
        """Take the store by which the ranks met, and the output."""
        self._meeting, self._output = meeting, output

    # What `publish` asks of rank 0.

    @property
    def names(self) -> list[str]:
        """Keys of the files at the output."""
        return [f"{MERGED_FOLDER}/{file.name}" for file in self.files]

    def write(self, conditions: Mapping[str, str | None]) -> dict[str, Written]:
        """Have all files written that have a condition: an ETag to replace, or None where nothing is.

        Raises:
            TrainerError: What the storage service says, or `BASE_MODEL_CORRUPT`: the base changed meanwhile.
        """
        key = f"{_KEY}/{self._round}"
        self._round += 1
        self._meeting.set(key, json.dumps(dict(conditions)))
        found = self._own(conditions)
        for rank in range(1, len(self.files)):
            if self.names[rank] in conditions:
                self._meeting.wait([f"{key}/{rank}"], PATIENCE)
                for name, (etag, sha256, size) in json.loads(self._meeting.get(f"{key}/{rank}")).items():
                    found[name] = Written(etag, FileEntry(sha256=sha256, size_bytes=size))
        return found

    def finish(self) -> None:
        """Let the other ranks go."""
        self._meeting.set(f"{_KEY}/{self._round}", "null")
        # The store by which they meet ends with this rank.
        self._meeting.wait([f"{_KEY}/gone/{rank}" for rank in range(1, self._world)], PATIENCE)
        self._base.close()

    def serve(self) -> None:
        """Write what rank 0 asks for, until it is done; on all other ranks. For errors see `write`."""
        while True:
            key = f"{_KEY}/{self._round}"
            self._round += 1
            self._meeting.wait([key], PATIENCE)
            conditions = json.loads(self._meeting.get(key))
            if conditions is None:
                self._meeting.set(f"{_KEY}/gone/{self._rank}", "")
                self._base.close()
                return
            answer = {
                name: (written.etag, written.entry.sha256, written.entry.size_bytes)
                for name, written in self._own(conditions).items()
            }
            if answer:
                self._meeting.set(f"{key}/{self._rank}", json.dumps(answer))

    def _own(self, conditions: Mapping[str, str | None]) -> dict[str, Written]:
        """Write this rank's file, if it has a condition."""
        if self._rank >= len(self.files) or self.names[self._rank] not in conditions:
            return {}
        name, file = self.names[self._rank], self.files[self._rank]
        condition, started = conditions[name], time.monotonic()
        digest = hashlib.sha256()

        def chunks() -> Iterator[bytes]:
            nonlocal digest
            digest = hashlib.sha256()
            for chunk in self._chunks(file):
                digest.update(chunk)
                yield chunk

        try:
            etag = self._output.put(
                name, Stream(file.size, chunks), if_none_match=condition is None, if_match=condition
            )
        except PreconditionFailed:
            etag = None
        self._base.source.verify()
        log.info("merged: %s, %.1f MB in %.1f s", name, file.size / 1e6, time.monotonic() - started)
        return {name: Written(etag, FileEntry(sha256=digest.hexdigest(), size_bytes=file.size))}

    def _chunks(self, file: Shard) -> Iterator[bytes]:
        yield file.header
        for unit in file.units:
            yield from windows(unit, self._base.values, self._base.source)
