"""What methods say of models that they cannot take, and how AdaLoRA and IA3 find what the spec leaves open."""

from typing import Any

import pytest
import torch
from peftjob_api import PeftJobSpec, Reason
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.methods import Method, method_of, trainable
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

TINY = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 24}
LLAMA = LlamaConfig(**TINY)
GPT2 = GPT2Config(vocab_size=50, n_embd=16, n_head=2, n_layer=1)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore:fan_in_fan_out:UserWarning")


def method(settings: dict[str, Any], **training: Any) -> Method:
    spec = {
        "baseModel": {"uri": "file:///model"},
        "method": settings,
        "dataset": {"train": "file:///train.jsonl"},
        "training": training,
        "output": {"uri": "file:///out"},
    }
    return method_of(PeftJobSpec.model_validate(spec), [])


def model(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


REFUSED = {
    "a rank for a module that is not there": (
        {"type": "LoRA", "lora": {"rankPattern": {"query": 4}}}, LLAMA, "spec.method.lora.rankPattern"
    ),
    "an alpha for a module that is not there": (
        {"type": "LoRA", "lora": {"alphaPattern": {"layers.7.q_proj": 4}}}, LLAMA, "spec.method.lora.alphaPattern"
    ),
    "a target of VeRA that is not there": (
        {"type": "VeRA", "vera": {"targetModules": ["query"]}}, LLAMA, "spec.method.vera.targetModules"
    ),
    "a target of IA3 that is not there": (
        {"type": "IA3", "ia3": {"targetModules": ["query"]}}, LLAMA, "spec.method.ia3.targetModules"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "config", "field"), REFUSED.values(), ids=REFUSED.keys())
def test_a_module_that_is_not_there_is_named_with_its_field(settings: Any, config: Any, field: str) -> None:
    with pytest.raises(TrainerError, match=f"set {field} to some of down_proj, gate_proj, k_proj") as caught:
        method(settings).inject(model(config))
    assert caught.value.reason == Reason.TARGET_MODULES_NOT_FOUND


def test_ia3_without_modules_needs_an_architecture_that_peft_knows() -> None:
    config = GPTNeoXConfig(**TINY)
    config.model_type = "unheard_of"
    with pytest.raises(
        TrainerError, match=r"of type unheard_of: set spec\.method\.ia3\.targetModules .* query_key_val"
    ):
        method({"type": "IA3"}).config(model(config))


def test_ia3_scales_inputs_of_the_mlps_last_layer() -> None:
    adapted = method({"type": "IA3"}).inject(model(LLAMA))
    shapes = {name.split(".")[-3]: tuple(p.shape) for name, p in trainable(adapted).items()}
    assert shapes == {"k_proj": (16, 1), "v_proj": (16, 1), "down_proj": (1, 24)}


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "OFT"])
def test_what_peft_cannot_do_with_a_model_is_told_as_a_fault_of_the_job(kind: str) -> None:
    with pytest.raises(TrainerError, match=f"spec.method {kind} does not go with this model") as caught:
        method({"type": kind}).inject(model(GPT2))  # whose layers are not Linear
    assert caught.value.reason == Reason.INVALID_CONFIG


@pytest.mark.parametrize(("steps", "phases"), [(100, (10, 30)), (1, (0, 0)), (2, (0, 0)), (4, (0, 1))])
def test_adalora_leaves_a_step_to_distribute_ranks_in(steps: int, phases: tuple[int, int]) -> None:
    config = method({"type": "AdaLoRA"}, maxSteps=steps).config(model(LLAMA))
    assert (config.tinit, config.tfinal) == phases
    assert config.total_step == steps


def test_lora_plus_is_for_b_alone() -> None:
    plus = method({"type": "LoRA", "lora": {"learningRateRatio": 16}})
    adapted = plus.inject(model(LLAMA))
    assert plus.learning_rates(adapted) == {name: 16.0 for name in trainable(adapted) if "lora_B" in name}


def test_patterns_are_names_and_not_expressions() -> None:
    found = method({"type": "LoRA", "lora": {"rank": 8, "rankPattern": {"self_attn.q_proj": 2, "up_proj": 4}}})
    ranks = {
        name.split(".")[-4]: p.shape[0] for name, p in trainable(found.inject(model(LLAMA))).items() if "lora_A" in name
    }
    assert ranks == {"q_proj": 2, "up_proj": 4} | dict.fromkeys(
        ("k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"), 8
    )
