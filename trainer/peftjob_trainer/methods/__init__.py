"""Methods of adaptation, a module with a class each; chosen by `spec.method.type`. Used by `session`, `planning`."""

from collections.abc import Sequence
from typing import Any

from peftjob_api import PeftJobSpec

from .adalora import AdaLoRA
from .bitfit import BitFit
from .bottleneck import Bottleneck
from .common import Method, trainable
from .ia3 import IA3
from .layer_norm_tuning import LayerNormTuning
from .loha import LoHa
from .lokr import LoKr
from .lora import LoRA
from .oft import OFT
from .p_tuning import PTuning
from .prefix_tuning import PrefixTuning
from .prompt_tuning import PromptTuning
from .trainable_tokens import TrainableTokens, add_tokens
from .vera import VeRA

__all__ = ["Method", "add_tokens", "method_of", "trainable"]

_METHODS: dict[str, type[Method]] = {
    "LoRA": LoRA,
    "AdaLoRA": AdaLoRA,
    "VeRA": VeRA,
    "LoHa": LoHa,
    "LoKr": LoKr,
    "OFT": OFT,
    "IA3": IA3,
    "PromptTuning": PromptTuning,
    "PTuning": PTuning,
    "PrefixTuning": PrefixTuning,
    "Bottleneck": Bottleneck,
    "LayerNormTuning": LayerNormTuning,
    "BitFit": BitFit,
    "TrainableTokens": TrainableTokens,
}


def method_of(spec: PeftJobSpec, head: Sequence[str], tokenizer: Any = None) -> Method:
    """Return the method of a job; for the arguments see `Method`."""
    return _METHODS[spec.method.type](spec, head, tokenizer)
