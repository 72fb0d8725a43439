"""A model without data, made from its config alone. Used by `load` for what is then filled, by `planning` on paper."""

import re
from pathlib import Path
from typing import Any, Protocol

import torch
from peftjob_api import Reason
from transformers import AutoConfig
from transformers.initialization import meta_device_safe_creation_ops, no_tie_weights

from ..exits import TrainerError


class Skeletons(Protocol):
    """What a task asks for a model without data: a `Base`, or paper."""

    def skeleton(self, auto_class: Any, **settings: Any) -> Any:
        """Return the model on the meta device; see `make_skeleton`."""
        ...


def make_skeleton(folder: Path, uri: str, dtype: torch.dtype, auto_class: Any, **settings: Any) -> Any:
    """Return the model on the meta device, as `from_pretrained` makes it before it reads weights; nothing is tied yet.

    Args:
        folder: With the config.
        uri: `spec.baseModel.uri`, for messages.
        dtype: Of the parameters.
        auto_class: Such as `AutoModelForCausalLM`.
        settings: Changes to the config.

    Raises:
        TrainerError: `INVALID_CONFIG`: transformers does not know the model, or not for this task, or it is quantised.
    """
    config = read_config(folder, uri, **settings)
    try:
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError("its weights are quantised: use the model that it was made from")
        with torch.device("meta"), meta_device_safe_creation_ops(), no_tie_weights():
            return auto_class.from_config(config, dtype=dtype)
    except (ValueError, OSError, KeyError) as error:
        raise TrainerError(Reason.INVALID_CONFIG, f"{uri}: transformers cannot make this model ({error})") from error


def read_config(folder: Path, uri: str, **settings: Any) -> Any:
    """Return a model's config.

    Raises:
        TrainerError: `INVALID_CONFIG`: transformers does not know the model.
    """
    try:
        return AutoConfig.from_pretrained(folder, **settings)
    except (ValueError, OSError, KeyError) as error:
        raise TrainerError(Reason.INVALID_CONFIG, f"{uri}: transformers cannot make this model ({error})") from error


def matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern of a model's dtype plan means a parameter, as transformers matches them."""
    return re.search(pattern.replace("*", r".*"), name) is not None
