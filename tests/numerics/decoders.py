"""Small random decoders in this process, of all architectures that there are: what losses are compared on."""

from typing import Any

import torch
import transformers
from architectures import ARCHITECTURES, CAUSAL, LLAMA, Architecture

DECODERS = [a for a in ARCHITECTURES if a.auto == CAUSAL and a.stored == a.run == "float32" and not a.shards]
MAMBA = Architecture(
    "mamba", CAUSAL, "mamba", {key: LLAMA[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")}
)


def make(architecture: Architecture, spread: float = 0.05) -> Any:
    """Return a random, frozen model without dropout."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(architecture.model_type, **architecture.settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.config.use_cache = False
    for parameter in model.parameters():
        parameter.requires_grad_(False).normal_(0, spread)
    return model
