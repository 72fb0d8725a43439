"""Models made of random numbers, as they lie on a hub: nothing is downloaded. Used by every part of the bench."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests/numerics"))

SHARD_BYTES = 10**9
_BLOCK_ELEMENTS = 2**22
CAUSAL, SEQ2SEQ, MASKED, IMAGES = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForMaskedLM",
    "AutoModelForImageClassification",
)


@dataclass(frozen=True)
class Model:
    """A model by its config."""

    auto: str
    """The class of transformers that loads it."""
    model_type: str
    settings: dict[str, Any]


_LLAMA = {"num_attention_heads": 8, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": 1,
          "pad_token_id": 0}  # fmt: skip
_EXPERTS = {
    "vocab_size": 8000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_experts_per_tok": 2,
}  # fmt: skip
MODELS = {
    "llama-26m": Model(CAUSAL, "llama", {
        **_LLAMA, "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8,
        "tie_word_embeddings": False}),
    "llama-33m": Model(CAUSAL, "llama", {
        **_LLAMA, "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 960, "num_hidden_layers": 8,
        "tie_word_embeddings": True}),
    "llama-1.1b": Model(CAUSAL, "llama", {
        "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 4,
        "num_hidden_layers": 22, "vocab_size": 32000, "tie_word_embeddings": False}),
    "llama-8b": Model(CAUSAL, "llama", {
        "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 32, "vocab_size": 128256, "rope_theta": 500000.0, "max_position_embeddings": 8192,
        "eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": False}),
    "qwen2-50m": Model(CAUSAL, "qwen2", {
        **_LLAMA, "vocab_size": 16000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 10,
        "tie_word_embeddings": False}),
    "mixtral-40m": Model(CAUSAL, "mixtral", {**_EXPERTS, "intermediate_size": 1024, "num_local_experts": 8}),
    "qwen2-moe-40m": Model(CAUSAL, "qwen2_moe", {
        **_EXPERTS, "num_experts": 16, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 1024,
        "intermediate_size": 1024}),
    "t5-60m": Model(SEQ2SEQ, "t5", {
        "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8,
        "decoder_start_token_id": 0}),
    "bert-40m": Model(MASKED, "bert", {
        "vocab_size": 30522, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
        "intermediate_size": 2048}),
    "vit-22m": Model(IMAGES, "vit", {
        "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}),
}  # fmt: skip


def write(name: str, folder: Path, dtype: str = "float32", **changes: Any) -> int:
    """Write a model with a tokenizer of bytes into a folder, unless it is there; return the bytes of its weights.

    Its matrices repeat a block of random numbers, which no loader can know, so that a billion take seconds.

    Args:
        name: In `MODELS`.
        folder: Made if need be.
        dtype: Of the weights.
        changes: To the config.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports DeepSpeed, which would say what it found
    import tiny
    import torch
    import transformers

    if not (folder / "config.json").exists():
        transformers.logging.disable_progress_bar()
        made = MODELS[name]
        config = transformers.AutoConfig.for_model(made.model_type, **{**made.settings, **changes})
        with torch.device("meta"):
            model = getattr(transformers, made.auto).from_config(config, dtype=getattr(torch, dtype))
        model = model.to_empty(device="cpu")
        model.tie_weights()
        block = 0.02 * torch.randn(_BLOCK_ELEMENTS, generator=torch.Generator().manual_seed(1))
        for parameter in model.parameters():
            fill(parameter.data, block)
        model.save_pretrained(folder, max_shard_size=SHARD_BYTES)
        tiny.write_tokenizer(folder)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def fill(tensor: Any, block: Any) -> None:
    """Give a tensor values: a matrix the block's, over and over; a vector ones, as norms have them."""
    if tensor.dim() < 2:
        tensor.fill_(1.0)
        return
    flat, size = tensor.view(-1), block.numel()
    for at in range(0, flat.numel(), size):
        flat[at : at + size].copy_(block[: min(size, flat.numel() - at)])
