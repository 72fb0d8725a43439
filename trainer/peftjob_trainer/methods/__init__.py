"""Methods of adaptation, a module with a class each; chosen by `spec.method.type`. Used by `session`, `planning`."""

from collections.abc import Sequence
from typing import Any

from peftjob_api import PeftJobSpec

from .common import Method, trainable
from .lora import LoRA

__all__ = ["Method", "method_of", "trainable"]

_METHODS: dict[str, type[Method]] = {"LoRA": LoRA}


def method_of(spec: PeftJobSpec, head: Sequence[str], tokenizer: Any = None) -> Method:
    """Return the method of a job; for the arguments see `Method`."""
    return _METHODS[spec.method.type](spec, head, tokenizer)
