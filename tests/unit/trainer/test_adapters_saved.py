"""What is saved computes what was trained: for plain peft, and where an adapter is not saved as it was trained."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from peftjob_api import PeftJobSpec
from peftjob_trainer.methods import Method, method_of, trainable
from peftjob_trainer.methods.layers import adapted
from peftjob_trainer.sharding import Values
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = torch.tensor([[3, 14, 15, 9, 2, 6]])
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning:transformers",
    "ignore::UserWarning:peft",
    "ignore:The following rank_pattern keys did not match:RuntimeWarning",  # peft warns of those of its own AdaLoRA
)


def base() -> Any:
    torch.manual_seed(7)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, initializer_range=0.2)).eval()


def method(settings: dict[str, Any]) -> Method:
    spec = {
        "baseModel": {"uri": "file:///model"},
        "method": settings,
        "dataset": {"train": "file:///train.jsonl"},
        "output": {"uri": "file:///out"},
    }
    return method_of(PeftJobSpec.model_validate(spec), [])


def named(model: Any) -> Any:
    """Return a model whose parameters know their names, as `load` leaves it."""
    for name, parameter in model.named_parameters():
        parameter.peftjob_name = name
    return model


class OfModel:
    """Values of a model that is in memory."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def each(self, shapes: Any, compute: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        found = {name: compute(name, self._model.get_parameter(name).detach().to(dtype)) for name in shapes}
        return {name: tensor.view(*shapes[name]) for name, tensor in found.items()}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


@torch.no_grad()
def disturb(model: Any) -> None:
    """Do as if it had been trained."""
    torch.manual_seed(1)
    for parameter in trainable(model).values():
        parameter.add_(0.1 * torch.randn_like(parameter))


def begun(settings: dict[str, Any]) -> tuple[Method, Any]:
    """Return a method, and the model with it as training begins."""
    chosen = method(settings)
    model = chosen.inject(named(base()))
    chosen.initialise(model, cast(Values, OfModel(base())))
    return chosen, model.eval()


PRINCIPAL = {
    "PiSSA": {"initialisation": "PiSSA"},
    "OLoRA": {"initialisation": "OLoRA"},
    "PiSSA, rsLoRA and patterns": {
        "initialisation": "PiSSA", "rsLoRA": True, "rankPattern": {"q_proj": 2}, "alphaPattern": {"q_proj": 3.0}
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", PRINCIPAL.values(), ids=PRINCIPAL.keys())
def test_a_part_of_the_weight_is_published_as_a_difference(settings: dict[str, Any], tmp_path: Path) -> None:
    chosen, model = begun({"type": "LoRA", "lora": {"rank": 4, "alpha": 8, **settings}})
    untouched = logits(base())
    torch.testing.assert_close(logits(model), untouched, rtol=0, atol=1e-4)
    disturb(model)
    trained = logits(model)
    assert float((trained - untouched).abs().max()) > 0.1
    with model.disable_adapter():
        assert torch.equal(logits(model), untouched), "without the adapter it is the base, to the last digit"
    chosen.save(model, tmp_path, "base", None)
    loaded = PeftModel.from_pretrained(base(), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), trained, rtol=0, atol=1e-4)


def test_dora_begins_as_the_base() -> None:
    _, model = begun({"type": "LoRA", "lora": {"dora": True}})
    torch.testing.assert_close(logits(model), logits(base()), rtol=0, atol=1e-5)


def test_adalora_saves_the_ranks_that_its_parameters_have(tmp_path: Path) -> None:
    chosen, model = begun({"type": "AdaLoRA", "adalora": {"rank": 2, "initialRank": 4}})
    disturb(model)
    layers = dict(adapted(model))
    with torch.no_grad():
        for number, layer in enumerate(layers.values()):
            layer.lora_E["default"][: number % 5] = 0  # of the fifth module all
    # As of another distribution, later than the step whose parameters are published.
    model.peft_config["default"].rank_pattern = {"nonsense": [True]}
    chosen.save(model, tmp_path, "base", None)
    loaded = PeftModel.from_pretrained(base(), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-5)
    ranks = [layer.lora_A["default"].shape[0] for _, layer in adapted(loaded)]
    assert ranks == [4 - number % 5 for number in range(len(layers))]


def test_adaloras_penalty_is_the_mean_distance_from_orthogonal() -> None:
    chosen, model = begun({"type": "AdaLoRA", "adalora": {"rank": 2, "initialRank": 4, "orthogonality": 3.0}})
    with torch.no_grad():
        for _, layer in adapted(model):
            layer.lora_A["default"].zero_().fill_diagonal_(1)  # orthogonal: no distance
            layer.lora_B["default"].zero_()  # as far as the identity of four is from zero: 2
    penalty = chosen.penalty(model)
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(3.0 * (0 + 2) / 2)


def test_vera_publishes_no_random_matrices(tmp_path: Path) -> None:
    chosen, model = begun({"type": "VeRA", "vera": {"rank": 8}})
    disturb(model)
    chosen.save(model, tmp_path, "base", None)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 4 * sum(
        parameter.numel() for parameter in trainable(model).values()
    ) + 3000
    loaded = PeftModel.from_pretrained(base(), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=1e-6)
