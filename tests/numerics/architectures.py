"""Small random models of many architectures, as they lie on a hub: what loading is tested on."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CAUSAL, CLASSES, IMAGES, SEQ2SEQ = (
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForImageClassification",
    "AutoModelForSeq2SeqLM",
)
TEXT = {"vocab_size": 301, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
"""An odd vocabulary, and a width that 3 does not divide: shares of ranks begin in the middle of rows."""
LLAMA = {**TEXT, "intermediate_size": 56, "num_key_value_heads": 1, "pad_token_id": 0}
ENCODER = {**TEXT, "intermediate_size": 56, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
EXPERTS = {
    **{k: v for k, v in LLAMA.items() if k != "pad_token_id"},
    "num_experts": 5, "num_local_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """One model on disk, and how it is loaded."""

    name: str
    auto: str
    model_type: str
    settings: dict[str, Any]
    saved_as: str | None = None
    """The class that is saved, if it is another than is loaded: the prefix of its keys is then another, too."""
    new: tuple[str, ...] = ()
    """Modules that the files lack."""
    stored: str = "float32"
    """Dtype of the files."""
    run: str = "float32"
    """Dtype of the run."""
    shards: str | None = None
    """Largest file, as `save_pretrained` takes it."""
    falls_back: bool = False
    """Whether some tensor needs the library's own conversion."""
    inputs: dict[str, Any] = field(default_factory=dict)


ARCHITECTURES = [
    Architecture("llama", CAUSAL, "llama", LLAMA),
    Architecture("llama, tied", CAUSAL, "llama", {**LLAMA, "tie_word_embeddings": True}),
    Architecture("llama, in shards", CAUSAL, "llama", LLAMA, shards="30KB"),
    Architecture("llama, from bf16", CAUSAL, "llama", LLAMA, stored="bfloat16"),
    Architecture("llama, in bf16", CAUSAL, "llama", LLAMA, stored="bfloat16", run="bfloat16"),
    Architecture("llama, fp32 to bf16", CAUSAL, "llama", LLAMA, run="bfloat16"),
    Architecture("llama, without its head's prefix", CLASSES, "llama", LLAMA, saved_as="AutoModel", new=("score",)),
    Architecture("qwen2, tied", CAUSAL, "qwen2", {**LLAMA, "tie_word_embeddings": True}),
    Architecture("qwen3", CAUSAL, "qwen3", {**LLAMA, "head_dim": 12}),
    Architecture("mistral", CAUSAL, "mistral", LLAMA),
    Architecture("gemma", CAUSAL, "gemma", {**LLAMA, "head_dim": 12}),
    Architecture("gpt2", CAUSAL, "gpt2", {"vocab_size": 301, "n_embd": 40, "n_layer": 2, "n_head": 2}),
    Architecture("gpt_neox", CAUSAL, "gpt_neox", {**TEXT, "intermediate_size": 56}),
    Architecture("phi", CAUSAL, "phi", {**TEXT, "intermediate_size": 56}),
    Architecture(
        "opt", CAUSAL, "opt", {**TEXT, "ffn_dim": 56, "word_embed_proj_dim": 40, "max_position_embeddings": 64}
    ),
    Architecture("bloom", CAUSAL, "bloom", {"vocab_size": 301, "hidden_size": 40, "n_layer": 2, "n_head": 2}),
    Architecture("mixtral", CAUSAL, "mixtral", EXPERTS),
    Architecture("mixtral, in shards", CAUSAL, "mixtral", EXPERTS, shards="60KB", stored="bfloat16", run="bfloat16"),
    Architecture("qwen2_moe", CAUSAL, "qwen2_moe", EXPERTS),
    Architecture("qwen3_moe", CAUSAL, "qwen3_moe", {**EXPERTS, "head_dim": 12}),
    Architecture("olmoe", CAUSAL, "olmoe", EXPERTS),
    Architecture("bert", CLASSES, "bert", ENCODER),
    Architecture("bert, without its head", CLASSES, "bert", ENCODER, saved_as="AutoModel", new=("classifier",)),
    Architecture("roberta", CLASSES, "roberta", {**ENCODER, "pad_token_id": 1}),
    Architecture(
        "distilbert", CLASSES, "distilbert",
        {"vocab_size": 301, "dim": 40, "hidden_dim": 56, "n_layers": 2, "n_heads": 2, "dropout": 0.0,
         "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
    ),
    Architecture(
        "t5", SEQ2SEQ, "t5",
        {"vocab_size": 301, "d_model": 40, "d_kv": 20, "d_ff": 56, "num_layers": 2, "num_heads": 2,
         "dropout_rate": 0.0, "decoder_start_token_id": 0},
    ),
    Architecture(
        "bart", SEQ2SEQ, "bart",
        {"vocab_size": 301, "d_model": 40, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 56, "decoder_ffn_dim": 56, "dropout": 0.0,
         "max_position_embeddings": 64},
    ),
    Architecture(
        "vit", IMAGES, "vit",
        {k: v for k, v in ENCODER.items() if k != "vocab_size"} | {"image_size": 16, "patch_size": 8},
    ),
]  # fmt: skip


def write(folder: Path, only: Collection[str] | None = None) -> None:
    """Write all models, or those of some names, each into a folder of its number."""
    import torch
    import transformers

    for number, architecture in enumerate(ARCHITECTURES):
        if only is not None and architecture.name not in only:
            continue
        torch.manual_seed(number)
        config = transformers.AutoConfig.for_model(architecture.model_type, **architecture.settings)
        if architecture.auto in (CLASSES, IMAGES):
            config.num_labels = 3
        auto = getattr(transformers, architecture.saved_as or architecture.auto)
        model = auto.from_config(config, dtype=getattr(torch, architecture.stored))
        for parameter in model.parameters():  # biases and norms too
            parameter.data.normal_(0, 0.05)
        shards = {"max_shard_size": architecture.shards} if architecture.shards else {}
        model.save_pretrained(folder / str(number), **shards)
    (folder / "architectures.json").write_text(json.dumps([a.name for a in ARCHITECTURES]))
