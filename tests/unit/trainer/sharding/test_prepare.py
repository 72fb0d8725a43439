"""A model before its bytes come: where they are, what is missing or wrong, and what is made instead of read."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peftjob_api import Reason
from peftjob_api.spec import StorageSpec
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.sharding import Base
from peftjob_trainer.sharding.segments import find_segments
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertModel,
    LlamaForCausalLM,
    MixtralForCausalLM,
)

SIZES = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
Tensors = dict[str, torch.Tensor]


def write(folder: Path, model_type: str, model_class: Any, **settings: Any) -> Path:
    torch.manual_seed(1)
    model_class(AutoConfig.for_model(model_type, **SIZES, **settings)).save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write(tmp_path, "llama", LlamaForCausalLM, tie_word_embeddings=False)


def base(folder: Path, seed: int = 7) -> Base:
    return Base(folder, f"file://{folder}", StorageSpec(), torch.float32, torch.device("cpu"), seed)


def change(folder: Path, edit: Callable[[Tensors], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def prepared(folder: Path, auto: Any = AutoModelForCausalLM, new: tuple[str, ...] = (), **settings: Any) -> Any:
    loading = base(folder)
    model = loading.skeleton(auto, **settings)
    loading.prepare(model, new)
    return model


WRONG: dict[str, tuple[Callable[[Tensors], Any], tuple[str, ...]]] = {
    "a missing tensor": (lambda t: t.pop("model.norm.weight"), ("model.norm.weight", "would stay random")),
    "a missing head": (lambda t: t.pop("lm_head.weight"), ("lm_head.weight",)),
    "another shape": (
        lambda t: t.update({"model.norm.weight": torch.ones(9)}),
        ("model.norm.weight", "[9]", "[8]", "model.safetensors"),
    ),
    "integers": (
        lambda t: t.update({"model.norm.weight": torch.ones(8, dtype=torch.int32)}),
        ("'model.norm.weight'", "model.safetensors", "numbers of a kind"),
    ),
    "floats without their scales": (
        lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.float8_e4m3fn)}),
        ("'lm_head.weight'", "model.safetensors"),
    ),
}


@pytest.mark.parametrize(("edit", "want"), WRONG.values(), ids=WRONG.keys())
def test_what_the_files_lack_is_named(llama: Path, edit: Callable[[Tensors], Any], want: tuple[str, ...]) -> None:
    change(llama, edit)
    with pytest.raises(TrainerError) as error:
        prepared(llama)
    assert error.value.reason is Reason.BASE_MODEL_CORRUPT
    assert [part for part in (*want, f"file://{llama}") if part not in error.value.message] == [], error.value.message


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown model": ({"model_type": "of my own"}, "of my own"),
    "a model without this task": ({"model_type": "vit"}, "ViTConfig"),
    "a quantised model": ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantised"),
}


@pytest.mark.parametrize(("settings", "want"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_model_that_cannot_be_made_is_told(llama: Path, settings: dict[str, Any], want: str) -> None:
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(TrainerError) as error:
        prepared(llama)
    assert error.value.reason is Reason.INVALID_CONFIG
    assert want in error.value.message


def test_placeholders_take_no_memory_and_a_copy_of_one_is_noticed(llama: Path) -> None:
    model = prepared(llama)
    for parameter in model.parameters():
        assert parameter.untyped_storage().nbytes() == 4
        assert parameter.device.type == "cpu"
    assert math.isnan(copy.deepcopy(model.lm_head.weight).sum().item())


def test_buffers_are_those_that_the_model_makes(llama: Path) -> None:
    want = dict(AutoModelForCausalLM.from_pretrained(llama).named_buffers())
    found = dict(prepared(llama).named_buffers())
    assert found.keys() == want.keys()
    assert found
    assert all(torch.equal(found[name], want[name]) for name in want)


def test_a_new_head_comes_from_the_seed_alone(tmp_path: Path) -> None:
    write(tmp_path, "bert", BertModel)
    heads = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = torch.random.get_rng_state()
        model = prepared(tmp_path, AutoModelForSequenceClassification, ("classifier",), num_labels=5)
        assert torch.equal(torch.random.get_rng_state(), before)
        heads.append(model.classifier)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert heads[0].weight.dtype == torch.float32
    assert 0.01 < heads[0].weight.std() < 0.03  # initializer_range is 0.02
    assert not heads[0].bias.any()


@pytest.mark.parametrize(("labels", "is_kept"), [(3, True), (2, False)], ids=["that fits", "for other labels"])
def test_a_head_that_the_base_brings(tmp_path: Path, labels: int, is_kept: bool) -> None:
    write(tmp_path, "bert", lambda config: AutoModelForSequenceClassification.from_config(config), num_labels=3)
    model = prepared(tmp_path, AutoModelForSequenceClassification, ("classifier",), num_labels=labels)
    stored = load_file(tmp_path / "model.safetensors")["classifier.weight"]
    assert torch.equal(model.classifier.weight, stored) is is_kept
    assert model.classifier.weight.shape == (labels, 8)


def test_tied_weights_are_one_under_whichever_name_they_lie(tmp_path: Path) -> None:
    write(tmp_path, "llama", LlamaForCausalLM, tie_word_embeddings=True)
    last = "model.embed_tokens.weight"
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        change(tmp_path, lambda tensors, old=last, new=name: tensors.update({new: tensors.pop(old)}))
        model = prepared(tmp_path)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.lm_head.weight.peftjob_name == name
        last = name


def test_experts_are_pieces_of_the_files_in_the_order_of_the_model(tmp_path: Path) -> None:
    write(tmp_path, "mixtral", MixtralForCausalLM, num_local_experts=3, num_key_value_heads=2)
    loading = base(tmp_path)
    segments = find_segments(loading.skeleton(AutoModelForCausalLM), loading.source.weights.files)
    assert segments.conversions == []
    assert segments.missing == set()
    assert segments.unused == []
    runs = segments.layouts["model.layers.0.mlp.experts.gate_up_proj"].runs
    found = [run.tensor.name.split("experts.")[1] for run in runs]
    assert found == [f"{expert}.{part}.weight" for expert in range(3) for part in ("w1", "w3")]
    assert all((run.start, run.count) == (0, 12 * 8) for run in runs)
