"""Of what tensors a merged model is made, what is refused, and how the files begin."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peftjob_api.spec import OutputSpec, WorkersSpec
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.merging.content import Unit, dealt, units
from peftjob_trainer.merging.write import header, index, shards, writers
from peftjob_trainer.sharding.segments import find_segments
from peftjob_trainer.storage.weights import verify_weights
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

SIZES = {"vocab_size": 30, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "num_hidden_layers": 1}
# peft 0.21 asks transformers 5.23 by a name that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def made_of(folder: Path, model: Any, **config: Any) -> list[Unit]:
    """Return the units of a model with LoRA in it, whose files are written into a folder."""
    model.save_pretrained(folder)
    weights = verify_weights(folder, "file:///base")
    with torch.device("meta"):
        bare = type(model)(model.config)
    segments = find_segments(bare, weights.files)
    adapted = peft.get_peft_model(bare, peft.LoraConfig(task_type="CAUSAL_LM", **config))
    return units(adapted, segments, weights, bare.base_model_prefix)


def llama(**settings: Any) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SIZES, **settings))


def test_every_tensor_is_in_one_unit_with_its_key(tmp_path: Path) -> None:
    found = made_of(tmp_path, llama(), target_modules=["q_proj"], modules_to_save=["lm_head"])
    keys = [tensor.key for unit in found for tensor in unit.tensors]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert sorted(keys) == sorted(file.keys())
    changed = {t.key: (u.layer is not None, u.trained is not None) for u in found for t in u.tensors if not t.file}
    assert changed == {
        "model.layers.0.self_attn.q_proj.weight": (True, False),
        "lm_head.weight": (False, True),
    }


@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore::RuntimeWarning:peft")  # of such targets
@pytest.mark.parametrize(
    ("model", "config", "want"),
    [
        (
            lambda: llama(tie_word_embeddings=True),
            {"target_modules": ["q_proj", "lm_head"]},
            "changes lm_head.weight, which is tied to another parameter",
        ),
        (
            lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2)),
            {"target_modules": "all-linear"},
            "experts.gate_up_proj, which is made of several tensors, or a part of one",
        ),
    ],
    ids=["tied", "stacked experts"],
)
def test_what_cannot_be_merged_is_refused(tmp_path: Path, model: Any, config: Any, want: str) -> None:
    with pytest.raises(TrainerError) as error:
        made_of(tmp_path, model(), **config)
    assert want in error.value.message
    assert "or set merge to false" in error.value.message


def test_headers_are_those_of_the_library(tmp_path: Path) -> None:
    (hand,) = dealt(made_of(tmp_path, llama(), target_modules=["q_proj"]), 1)
    (file,) = shards([hand])
    path = tmp_path / file.name
    path.write_bytes(file.header + bytes(sum(unit.nbytes for unit in hand)))
    assert path.stat().st_size == file.size
    assert len(header(file.tensors)) % 8 == 0
    with safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
        assert {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()} == {  # noqa: SIM118
            tensor.key: tensor.shape for tensor in file.tensors
        }
    found = json.loads(index([file]))
    assert found["weight_map"] == {tensor.key: file.name for tensor in file.tensors}
    assert found["metadata"]["total_size"] == file.size - len(file.header)


def test_a_folder_that_only_one_node_sees_is_written_by_its_ranks() -> None:
    workers = WorkersSpec(nodes=2, processes_per_node=3)
    assert writers(OutputSpec(uri="s3://adapters/a"), workers) == 6
    assert writers(OutputSpec(uri="file:///adapters/a"), workers) == 3
