"""Bottleneck adapters: the papers' formula, where they go in each kind of model, and files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig
from peftjob_bottleneck import BITFIT, BOTTLENECK, Bottleneck, Settings, inject, load, save
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    T5Config,
    ViTConfig,
)

SMALL: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
STYLES = ("Houlsby", "Pfeiffer", "Parallel")
ONE = {**SMALL, "num_hidden_layers": 1}
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 1}
BART = {"vocab_size": 50, "d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "encoder_layers": 1}
HEADS = {"decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
CONFIGS: dict[str, tuple[Any, list[str]]] = {
    "llama": (LlamaConfig(**ONE), ["self_attn.o_proj", "mlp.down_proj"]),
    "gpt2": (GPT2Config(vocab_size=50, n_embd=16, n_head=2, n_layer=1), ["attn.c_proj", "mlp.c_proj"]),
    "neox": (GPTNeoXConfig(**ONE), ["attention.dense", "mlp.dense_4h_to_h"]),
    "opt": (
        OPTConfig(**ONE, ffn_dim=24, word_embed_proj_dim=16),
        ["self_attn.out_proj", "fc2"],
    ),
    "experts": (MixtralConfig(**ONE, num_local_experts=2, num_key_value_heads=2), ["self_attn.o_proj", "mlp"]),
    "bert": (BertConfig(**ONE), ["attention.output.dense", "output.dense"]),
    "distilbert": (
        DistilBertConfig(vocab_size=50, dim=16, n_heads=2, n_layers=1, hidden_dim=24),
        ["attention.out_lin", "ffn.lin2"],
    ),
    "t5": (
        T5Config(**T5),
        ["0.SelfAttention.o", "1.DenseReluDense.wo", "0.SelfAttention.o", "1.EncDecAttention.o", "2.DenseReluDense.wo"],
    ),
    "bart": (
        BartConfig(**BART, **HEADS),
        ["self_attn.out_proj", "fc2", "self_attn.out_proj", "encoder_attn.out_proj", "fc2"],
    ),
    "vit": (ViTConfig(**{**ONE, "vocab_size": None}, image_size=8, patch_size=4), ["attention.o_proj", "mlp.fc2"]),
}  # fmt: skip


def settings(style: Any, **changes: Any) -> Settings:
    defaults = {"style": style, "reduction_factor": 4, "nonlinearity": "Tanh", "scale": 1.0, "dropout": 0.0}
    return Settings(**{**defaults, **changes})


def make(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModel.from_config(config).eval()


def tokens(model: Any) -> dict[str, torch.Tensor]:
    if model.config.model_type == "vit":
        return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)}
    ids = torch.arange(10).view(2, 5)
    both = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return {"input_ids": ids, **both}


def adapters(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, Bottleneck)]


@torch.no_grad()
def shake(model: Any) -> None:
    for adapter in adapters(model):
        for parameter in adapter.parameters():
            parameter.normal_(0, 0.2)


@torch.no_grad()
def run(model: Any) -> torch.Tensor:
    output: torch.Tensor = model(**tokens(model))[0]
    return output


def test_the_layer_computes_the_papers_formula() -> None:
    adapter = Bottleneck(3, 2, "ReLU", scale=0.5, dropout=0.0)
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 1.0]]))
        adapter.down.bias.copy_(torch.tensor([0.5, -4.0]))
        adapter.up.weight.copy_(torch.tensor([[1.0, 3.0], [-1.0, 0.0], [2.0, 1.0]]))
        adapter.up.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    # down: [1 + 2*3 + 0.5, -2 + 3 - 4] = [7.5, -3]; ReLU: [7.5, 0]; up: [7.5, -7.5 + 1, 15]; times 0.5.
    assert adapter(torch.tensor([1.0, 2.0, 3.0])).tolist() == [3.75, -3.25, 7.5]


@pytest.mark.parametrize("name", CONFIGS)
def test_adapters_are_where_the_sublayers_end_and_begin_as_nothing(name: str) -> None:
    config, want = CONFIGS[name]
    before = run(make(config))
    for style in STYLES:
        model = make(config)
        names = [n.removesuffix(".bottleneck") for n in inject(model, settings(style))]
        here = want if style == "Houlsby" else [n for n in want if "tention" not in n and "attn" not in n]
        assert len(names) == len(here), names
        assert all(n.endswith(f".{each}") for n, each in zip(names, here, strict=True)), names
        assert torch.equal(run(model), before)
        shake(model)
        assert float((run(model) - before).abs().max()) > 1e-3


@pytest.mark.parametrize("style", STYLES)
def test_each_style_adds_what_its_paper_adds(style: Any) -> None:
    """Against a block of Llama written out: x + attention, and to that + feed-forward network."""
    model, plain = make(LlamaConfig(**ONE)), make(LlamaConfig(**ONE)).layers[0]
    inject(model, settings(style, scale=4.0))
    shake(model)
    block = model.layers[0]
    x = torch.linspace(-1, 1, 2 * 5 * 16).view(2, 5, 16)
    turned = model.rotary_emb(x, torch.arange(5)[None])
    with torch.no_grad():
        found = block(x, position_embeddings=turned)
        attention = plain.self_attn(plain.input_layernorm(x), position_embeddings=turned, attention_mask=None)[0]
        if style == "Houlsby":
            attention = attention + block.self_attn.o_proj.bottleneck(attention)
        middle = x + attention
        inside = plain.post_attention_layernorm(middle)
        out = plain.mlp(inside)
        out = out + block.mlp.down_proj.bottleneck(inside if style == "Parallel" else out)
    assert torch.allclose(found, middle + out, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_an_adapter_in_files_is_the_same_in_another_model(name: str, tmp_path: Path) -> None:
    model = make(CONFIGS[name][0])
    kind = settings("Parallel", scale=2.0)
    inject(model, kind)
    shake(model)
    trained = {n: p for n, p in model.named_parameters() if ".bottleneck." in n}
    save(tmp_path, BOTTLENECK, trained, kind, "base", None)
    assert torch.equal(run(load(make(CONFIGS[name][0]), tmp_path)), run(model))
    half = load(make(CONFIGS[name][0]).bfloat16(), tmp_path)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_biases_in_files_are_the_same_in_another_model(tmp_path: Path) -> None:
    model = make(CONFIGS["bert"][0])
    biases = {n: p for n, p in model.named_parameters() if n.endswith(".bias")}
    with torch.no_grad():
        for bias in biases.values():
            bias.normal_()
    save(tmp_path, BITFIT, biases, None, "base", None)
    assert torch.equal(run(load(make(CONFIGS["bert"][0]), tmp_path)), run(model))


def test_plain_peft_refuses_it_by_name(tmp_path: Path) -> None:
    save(tmp_path, BITFIT, {"a.bias": torch.ones(1)}, None, "base", None)
    with pytest.raises(KeyError, match="PEFTJOB_BITFIT"):
        PeftConfig.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "want"),
    [({"peft_type": "LORA"}, "by peft"), ({"version": 2}, "later"), ({}, "another base")],
    ids=["of peft", "of a later layout", "of another base"],
)
def test_what_cannot_be_loaded_is_told(change: dict[str, Any], want: str, tmp_path: Path) -> None:
    save(tmp_path, BITFIT, {"a.bias": torch.ones(1)}, None, "base", None)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=want):
        load(make(CONFIGS["bert"][0]), tmp_path)
