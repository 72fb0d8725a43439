"""Adapters that peft has not: bottleneck layers, and BitFit. Trained by peftjob_trainer, loaded by this alone.

    from peftjob_bottleneck import load
    model = AutoModelForCausalLM.from_pretrained(BASE)
    load(model, ADAPTER_FOLDER)

It needs torch, transformers and safetensors only.
"""

from .files import BITFIT, BOTTLENECK, load, save
from .inject import Settings, inject
from .layer import Bottleneck

__all__ = ["BITFIT", "BOTTLENECK", "Bottleneck", "Settings", "inject", "load", "save"]
