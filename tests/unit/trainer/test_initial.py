"""An adapter to continue from: what fits is loaded, what differs is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peftjob_api import PeftJobSpec, Reason
from peftjob_api.spec import StorageSpec
from peftjob_trainer import initial
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.methods import method_of, trainable
from peftjob_trainer.storage import fetch_adapter
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

# peft 0.21 asks transformers 5.23 by a name that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
SIZES = {"vocab_size": 30, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "num_hidden_layers": 1}
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def spec(**lora: Any) -> PeftJobSpec:
    settings = {"rank": 4, "alpha": 8, "targetModules": ["q_proj"], **lora}
    return PeftJobSpec.model_validate(
        {
            "baseModel": {"uri": "file:///base"},
            "method": {"lora": settings, "initFrom": "file:///before"},
            "dataset": {"train": "file:///train.jsonl"},
            "output": {"uri": "file:///out"},
        }
    )


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """A folder with an adapter that peft wrote, with no zeros in it."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM", lora_dropout=0.3)
    adapted = get_peft_model(llama(), config)
    for parameter in adapted.parameters():
        torch.nn.init.normal_(parameter)
    adapted.save_pretrained(str(tmp_path / "before"))
    return tmp_path / "before"


def adopted(folder: Path, **lora: Any) -> dict[str, torch.Tensor]:
    """Return what is trained, after the adapter was put into a model."""
    method = method_of(spec(**lora), [])
    model = method.inject(llama())
    initial.adopt(initial.read(folder, "s3://adapters/before"), method, model)
    return dict(trainable(model))


def test_values_are_those_of_the_adapter(before: Path) -> None:
    values = load_file(before / "adapter_model.safetensors")
    found = {name.replace(".default", ""): p for name, p in adopted(before).items()}
    assert found.keys() == values.keys()
    assert all(torch.equal(found[name], values[name]) for name in values)


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("break_it", "want"),
    [
        (lambda f: change_config(f, peft_type="LOHA", r=8), ["its peft_type is LOHA, this job's LORA: set"]),
        (lambda f: change_config(f, r=8, lora_alpha=32), ["its alpha is 32, this job's 8", "its rank is 8"]),
        (lambda f: change_config(f, use_dora=True), ["its dora is True, this job's False"]),
        (lambda f: change_tensors(f, lambda t: t.pop(KEY)), [f"it lacks {KEY}: use the base model"]),
        (lambda f: change_tensors(f, lambda t: t.update(x=torch.ones(1))), ["it also holds x"]),
        (
            lambda f: change_tensors(f, lambda t: t.update({KEY: torch.ones(4, 16)})),
            [f"its {KEY} has shape [4, 16], this job's [4, 8]"],
        ),
        (
            lambda f: change_tensors(f, lambda t: t[KEY].fill_(float("nan"))),
            ["it has no finite values for base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"],
        ),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"cut"), ["it cannot be read", "copy it again"]),
        (lambda f: (f / "adapter_config.json").write_text("[]"), ["it cannot be read", "holds no JSON object"]),
    ],
    ids=["method", "settings", "a switch", "lacks", "extra", "shape", "not finite", "weights cut", "no config"],
)  # fmt: skip
def test_what_differs_is_named(before: Path, break_it: Callable[[Path], Any], want: list[str]) -> None:
    break_it(before)
    with pytest.raises(TrainerError) as error:
        adopted(before)
    assert error.value.reason is Reason.ADAPTER_UNSUITABLE
    assert error.value.message.startswith("s3://adapters/before: ")
    assert all(part in error.value.message for part in [*want, "spec.method.initFrom"])


def test_dropout_and_names_of_targets_may_differ(before: Path) -> None:
    assert adopted(before, dropout=0.1, targetModules=["self_attn.q_proj"])


def test_labels_must_be_the_same(before: Path) -> None:
    (before / "labels.json").write_text('["b", "a"]')
    found = initial.read(before, "s3://adapters/before")
    initial.check_labels(found, ["b", "a"])
    initial.check_labels(found, None)
    with pytest.raises(TrainerError, match="its labels are b, a, this job's a, b"):
        initial.check_labels(found, ["a", "b"])


def fetch(folder: Path) -> Path:
    return fetch_adapter(f"file://{folder}", StorageSpec(), folder / "unused", "spec.method.initFrom")


def test_a_folder_without_an_adapter(before: Path, tmp_path: Path) -> None:
    assert fetch(before) == before
    (before / "adapter_model.safetensors").rename(before / "adapter_model.bin")
    for folder in (before, tmp_path / "nothing"):
        with pytest.raises(TrainerError, match="to the folder of an adapter") as error:
            fetch(folder)
        assert error.value.reason is Reason.ADAPTER_NOT_FOUND


def test_files_are_held_against_the_manifest(before: Path) -> None:
    entries = {name: {"sha256": "0" * 64} for name in ("adapter_config.json", "adapter_model.safetensors")}
    (before / "manifest.json").write_text(json.dumps({"files": entries}))
    with pytest.raises(TrainerError, match=r"adapter_config\.json: its sha256 is not the one of manifest\.json"):
        fetch(before)
