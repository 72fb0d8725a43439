"""Image files: where a row's is, and what is in it. Used by `imaged`, the task ImageClassification and `predicting`."""

import io
from pathlib import Path, PurePosixPath
from typing import Any, Final

from PIL import Image, ImageOps

from .rows import Row, kind_of, malformed

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""That are decoded; others of PIL's start programs or have holes of their own."""
_SMALL: Final = (8, 8)
_WIDE: Final = ("I", "F")
"""PIL's modes of 32-bit numbers, whose range nobody knows."""


def file_of(row: Row, column: str) -> Path | bytes:
    """Return the image file of a row: where it is on this machine, or what it holds.

    Raises:
        TrainerError: `DATASET_MALFORMED`: the row names none, or one that is not there.
    """
    value = row.values[column]
    if isinstance(value, dict):  # as the library `datasets` writes images
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value.strip():
        found = "is empty" if isinstance(value, str) else f"holds a JSON {kind_of(value)}"
        raise malformed(
            row.where, f"column {column!r} {found}, no image: write a path relative to the file, or in Parquet bytes"
        )
    if not is_below(value):
        raise malformed(
            row.where,
            f"column {column!r} holds the path {value!r}: write it relative to the file, without .. and / in front",
        )
    if row.where.startswith("hf://"):
        raise malformed(
            row.where, f"column {column!r} holds a path, which is not followed on a hub: use Parquet with images' bytes"
        )
    if not (row.folder / value).is_file():
        raise malformed(row.where, f"there is no image {value!r} beside the file: copy it there, or correct the path")
    return row.folder / value


def is_below(name: str) -> bool:
    """Tell whether a path stays in the folder that it is relative to."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def check(file: Path | bytes, where: str) -> None:
    """Decode an image, no larger than need be, to see that it can be; for errors see `decode`."""
    _open(file, where, small=True)


def decode(file: Path | bytes, where: str) -> Any:
    """Return an image as it is to be seen: RGB, upright.

    Raises:
        TrainerError: `DATASET_MALFORMED`: it cannot be decoded, or has numbers of an unknown range.
    """
    image = _open(file, where)
    if image.mode.startswith("I;16"):  # PIL would cut off what is above 255
        import numpy as np

        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")


def blank() -> Any:
    """Return an image that stands for any."""
    return Image.new("RGB", (64, 64))


def processed(image: Any, processor: Any) -> Any:
    """Return what a base's image processor makes of an image, or of several: fp32 (images, channels, height, width)."""
    return processor(image, return_tensors="pt")["pixel_values"]


def _open(file: Path | bytes, where: str, *, small: bool = False) -> Any:
    try:
        with Image.open(file if isinstance(file, Path) else io.BytesIO(file), formats=_FORMATS) as image:
            if small:
                image.draft(None, _SMALL)  # of JPEG: all bytes are read, few pixels computed
            image.load()
            found = image if small else ImageOps.exif_transpose(image)
    except Exception as error:  # of any decoder, about any bytes
        size = file.stat().st_size if isinstance(file, Path) else len(file)
        named = f" {file.name}" if isinstance(file, Path) else ""
        raise malformed(
            where,
            f"the image{named} ({size} bytes) cannot be decoded ({_said(error)}): save it again as PNG or JPEG, or "
            f"remove it",
        ) from error
    if found.mode in _WIDE:
        raise malformed(
            where, "the image has 32-bit numbers, whose range is not known: save it with 8 or 16 bits a channel"
        )
    return found


def _said(error: Exception) -> str:
    """Return what a decoder says of a file, without the address of an object in memory."""
    return "it is no PNG, JPEG, WebP, BMP, GIF or TIFF" if "cannot identify" in str(error) else str(error)
