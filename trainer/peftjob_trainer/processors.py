"""What makes a base model's inputs of texts or images: its tokenizer, or its image processor. Used by `session`, `plan`
and `predicting`.
"""

from pathlib import Path
from typing import Any, Final

from peftjob_api import PeftJobSpec, Reason
from transformers import AutoImageProcessor, AutoTokenizer

from .data.pictures import blank, processed
from .exits import TrainerError
from .methods import add_tokens
from .sharding.skeleton import read_config

IMAGE_TASKS: Final = ("ImageClassification",)
"""Tasks that read images."""


def load_processor(folder: Path, spec: PeftJobSpec) -> Any:
    """Return the base's image processor for a task of images, else its tokenizer; for errors see there."""
    if spec.task.type in IMAGE_TASKS:
        return load_image_processor(folder, spec.base_model.uri)
    return load_tokenizer(folder, spec)


def pad_of(processor: Any) -> int:
    """Return the token id of padding; 0 for images, which have none."""
    found: int = getattr(processor, "pad_token_id", 0)
    return found


def load_tokenizer(folder: Path, spec: PeftJobSpec | None = None) -> Any:
    """Return the base's tokenizer; one without a padding token pads with its end, or failing that unknown, token.

    Args:
        folder: Of the base model.
        spec: Of the job, whose method may add tokens.

    Raises:
        TrainerError: `INVALID_CONFIG`: it cannot be loaded, has no token to pad with, or no room for more tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise TrainerError(
            Reason.INVALID_CONFIG, f"{folder}: transformers cannot load this tokenizer ({error})"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"{folder}: the tokenizer has no token to pad with: set pad_token in its tokenizer_config.json",
        )
    if spec is not None:
        add_tokens(spec, tokenizer, folder)
    return tokenizer


def load_image_processor(folder: Path, uri: str) -> Any:
    """Return the base's image processor, which makes images of the size that the base reads.

    Args:
        folder: Of the base model.
        uri: Of the base model, for messages.

    Raises:
        TrainerError: `INVALID_CONFIG`: it cannot be loaded, or makes images of another size.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(folder)
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"{uri}: transformers cannot load an image processor ({error}): use a base model of images, with its "
            f"preprocessor_config.json",
        ) from error
    wanted = getattr(read_config(folder, uri), "image_size", None)
    height, width = processed(blank(), processor).shape[-2:]
    if wanted is not None and (height, width) != (
        tuple(wanted) if isinstance(wanted, list | tuple) else (wanted, wanted)
    ):
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"{uri}: its preprocessor_config.json makes images of {height} x {width} pixels, its config.json has "
            f"image_size {wanted}: correct size or crop_size in the former",
        )
    return processor
