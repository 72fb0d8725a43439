"""Whether safetensors files are whole, told from their headers before any weight is read.

Called by `fetch_model`. A cut or damaged file is named together with the first tensor that it lacks, instead of
failing (or not) somewhere in a loader on some rank. Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

from peftjob_api import Reason

from ..exits import TrainerError

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""What the format's own reader accepts."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


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
        raise _corrupt(uri, INDEX_NAME, f"it is no index of weights ({error})") from error
    return dict(mapping)


def verify_weights(folder: Path, uri: str) -> None:
    """Check every weights file of a model: the header against the file's size, the index against the headers.

    Args:
        folder: Local folder of the model.
        uri: Where it came from, for messages.

    Raises:
        TrainerError: `BASE_MODEL_CORRUPT`, naming the file and the tensor.
    """
    if not (folder / INDEX_NAME).exists():
        read_header(folder / WEIGHTS_NAME, uri)
        return
    mapping = _weight_map(folder, uri)
    present = {name: set(read_header(folder / name, uri)) for name in sorted(set(mapping.values()))}
    for tensor, name in mapping.items():
        if tensor not in present[name]:
            raise _corrupt(uri, name, f"{INDEX_NAME} says that tensor {tensor!r} is in it, but it is not")


def read_header(path: Path, uri: str) -> dict[str, dict[str, Any]]:
    """Return the tensors of a safetensors file: name -> `dtype`, `shape`, `data_offsets` (bytes, after the header).

    Raises:
        TrainerError: `BASE_MODEL_CORRUPT`: the header is damaged, or the file is shorter than it says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            text = file.read(length) if length <= min(size - 8, MAX_HEADER_BYTES) else None
    except FileNotFoundError as error:
        raise _corrupt(uri, path.name, f"{INDEX_NAME} names it, but it is not there") from error
    if text is None:
        if start == b"version ":
            raise _corrupt(uri, path.name, "it is a Git LFS pointer, not the file itself (run `git lfs pull`)")
        raise _corrupt(uri, path.name, f"its {size} bytes hold no whole header, so it holds no tensor")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = {name: (entry, *map(int, entry["data_offsets"])) for name, entry in header.items()}
        for name, (entry, begin, end) in tensors.items():
            bits = _BITS.get(entry["dtype"])
            if begin > end or (bits and math.prod(entry["shape"]) * bits != (end - begin) * 8):
                raise _corrupt(uri, path.name, f"tensor {name!r}: its offsets do not fit its shape and dtype")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(uri, path.name, f"its header is damaged ({error})") from error
    whole = 8 + length + max((end for _, _, end in tensors.values()), default=0)
    if size < whole:
        first = min((begin, name) for name, (_, begin, end) in tensors.items() if 8 + length + end > size)[1]
        raise _corrupt(uri, path.name, f"it is cut short: {size} of {whole} bytes, tensor {first!r} is incomplete")
    if size > whole:
        raise _corrupt(uri, path.name, f"it has {size} bytes where its header describes {whole}")
    return {name: entry for name, (entry, _, _) in tensors.items()}


def _corrupt(uri: str, name: str, why: str) -> TrainerError:
    return TrainerError(
        Reason.BASE_MODEL_CORRUPT, f"{uri.rstrip('/')}/{name}: {why}: upload the file again (spec.baseModel.uri)"
    )
