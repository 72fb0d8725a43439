"""What safetensors files hold and whether they are whole, told from their headers before any weight is read.

Called by `fetch_model` on each node, and by the loader of the base on each rank. A cut or damaged file is named
together with the first tensor that it lacks, instead of failing (or not) somewhere in a loader on some rank. Format:
https://github.com/huggingface/safetensors#format
"""

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftjob_api import Reason

from ..exits import TrainerError

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""What the format's own reader accepts."""
RECORD_NAME = ".peftjob-weights.json"
"""In a folder whose weights stayed where they are: what is known about them."""
_FIRST_READ = 64 * 1024
"""Bytes of a first read, which hold the whole header of most files."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class WeightsFile:
    """One safetensors file: where its tensors lie, and how to tell that it is still the same."""

    size: int
    tag: str
    """The ETag on S3 and on a hub; empty for a local file."""
    start: int
    """Bytes before the data."""
    tensors: dict[str, dict[str, Any]]
    """Name -> `dtype`, `shape`, `data_offsets` (bytes, from `start`)."""


@dataclass(frozen=True)
class Weights:
    """All weights files of a model."""

    uri: str
    commit: str | None
    """Of a model on a hub."""
    files: dict[str, WeightsFile]

    def write(self, folder: Path) -> None:
        """Leave this for the ranks of the node."""
        (folder / RECORD_NAME).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Weights | None":
        """Return what `write` left; None: the weights lie in the folder itself."""
        try:
            wire = json.loads((folder / RECORD_NAME).read_bytes())
        except FileNotFoundError:
            return None
        files = {name: WeightsFile(**file) for name, file in wire.pop("files").items()}
        return cls(**wire, files=files)


def indexed_files(folder: Path, uri: str) -> list[str]:
    """Return the names of the files that a model's index lists; `uri` is for messages.

    Raises:
        TrainerError: `BASE_MODEL_CORRUPT`: the index cannot be read.
    """
    return sorted(set(_weight_map(folder, uri).values()))


def _weight_map(folder: Path, uri: str) -> dict[str, str]:
    """Return tensor -> file name."""
    try:
        mapping = json.loads((folder / INDEX_NAME).read_bytes())["weight_map"]
        if not mapping or not all(isinstance(v, str) and Path(v).name == v for v in mapping.values()):
            raise ValueError("weight_map maps no tensors to files beside it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(uri, INDEX_NAME, f"it is no index of weights ({error})") from error
    return dict(mapping)


def verify_weights(folder: Path, uri: str) -> Weights:
    """Check every weights file in a local folder; return what they hold.

    Args:
        folder: Of the model.
        uri: Where it came from, for messages.

    Raises:
        TrainerError: `BASE_MODEL_CORRUPT`, naming the file and the tensor.
    """
    names = indexed_files(folder, uri) if (folder / INDEX_NAME).exists() else [WEIGHTS_NAME]
    files = {name: _local_file(folder / name, uri) for name in names}
    check_index(folder, uri, files)
    return Weights(uri, None, files)


def check_index(folder: Path, uri: str, files: Mapping[str, WeightsFile]) -> None:
    """Check that every file holds the tensors that the index promises of it, and that no two hold the same.

    Raises:
        TrainerError: `BASE_MODEL_CORRUPT`, naming the file and the tensor.
    """
    if not (folder / INDEX_NAME).exists():
        return
    for tensor, name in _weight_map(folder, uri).items():
        if tensor not in files[name].tensors:
            raise corrupt(uri, name, f"{INDEX_NAME} says that tensor {tensor!r} is in it, but it is not")
    owner: dict[str, str] = {}
    for name, file in sorted(files.items()):
        for tensor in file.tensors:
            if owner.setdefault(tensor, name) != name:
                raise corrupt(uri, name, f"tensor {tensor!r} is in it and in {owner[tensor]} too")


def _local_file(path: Path, uri: str) -> WeightsFile:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise corrupt(uri, path.name, f"{INDEX_NAME} names it, but it is not there") from error
    try:
        size = os.fstat(handle).st_size
        return read_header(lambda start, stop: os.pread(handle, stop - start, start), size, "", path.name, uri)
    finally:
        os.close(handle)


def read_header(read: Callable[[int, int], bytes], size: int, tag: str, name: str, uri: str) -> WeightsFile:
    """Return what a safetensors file holds, by one read of its beginning, or two where the header is large.

    Args:
        read: Returns the bytes from a first to before a last offset.
        size: Of the file, in bytes.
        tag: See `WeightsFile`.
        name: Of the file, for messages.
        uri: Of the model, for messages.

    Raises:
        TrainerError: `BASE_MODEL_CORRUPT`: the header is damaged, or the file is shorter than it says.
    """
    first = read(0, min(size, _FIRST_READ)) if size else b""
    length = struct.unpack("<Q", first[:8])[0] if len(first) >= 8 else size
    if length > min(size - 8, MAX_HEADER_BYTES):
        if first[:8] == b"version ":
            raise corrupt(uri, name, "it is a Git LFS pointer, not the file itself (run `git lfs pull`)")
        raise corrupt(uri, name, f"its {size} bytes hold no whole header, so it holds no tensor")
    text = first[8 : 8 + length]
    if len(text) < length:
        text += read(8 + len(text), 8 + length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = {name: (entry, *map(int, entry["data_offsets"])) for name, entry in header.items()}
        for tensor, (entry, begin, end) in tensors.items():
            bits = _BITS.get(entry["dtype"])
            if not 0 <= begin <= end or (bits and math.prod(entry["shape"]) * bits != (end - begin) * 8):
                raise corrupt(uri, name, f"tensor {tensor!r}: its offsets do not fit its shape and dtype")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(uri, name, f"its header is damaged ({error})") from error
    at = 0
    for begin, end, tensor in sorted((begin, end, tensor) for tensor, (_, begin, end) in tensors.items()):
        if begin != at:  # as the format demands, so that no byte means two things, or nothing
            raise corrupt(
                uri, name, f"tensor {tensor!r} begins at byte {begin} of the data, what is before ends at {at}"
            )
        at = end
    whole = 8 + length + at
    if size < whole:
        lacking = min((begin, tensor) for tensor, (_, begin, end) in tensors.items() if 8 + length + end > size)[1]
        raise corrupt(uri, name, f"it is cut short: {size} of {whole} bytes, tensor {lacking!r} is incomplete")
    if size > whole:
        raise corrupt(uri, name, f"it has {size} bytes where its header describes {whole}")
    return WeightsFile(size, tag, 8 + length, {tensor: entry for tensor, (entry, _, _) in tensors.items()})


def corrupt(uri: str, name: str, why: str) -> TrainerError:
    """Return the error about a weights file that cannot be used."""
    return TrainerError(
        Reason.BASE_MODEL_CORRUPT, f"{uri.rstrip('/')}/{name}: {why}: upload the file again (spec.baseModel.uri)"
    )
