"""Methods of adaptation, a module with a class each; chosen by `spec.method.type`. Used by `session`, `planning`."""

from collections.abc import Sequence
from typing import Any

from peftjob_api import PeftJobSpec

from .adalora import AdaLoRA
from .common import Method, trainable
from .ia3 import IA3
from .loha import LoHa
from .lokr import LoKr
from .lora import LoRA
from .oft import OFT
from .vera import VeRA

__all__ = ["Method", "method_of", "trainable"]

_METHODS: dict[str, type[Method]] = {
    "LoRA": LoRA,
    "AdaLoRA": AdaLoRA,
    "VeRA": VeRA,
    "LoHa": LoHa,
    "LoKr": LoKr,
    "OFT": OFT,
    "IA3": IA3,
}


def method_of(spec: PeftJobSpec, head: Sequence[str], tokenizer: Any = None) -> Method:
    """Return the method of a job; for the arguments see `Method`."""
    return _METHODS[spec.method.type](spec, head, tokenizer)
