"""LoRA beside a head that is trained whole."""

import pytest
import torch
from peftjob_api import PeftJobSpec
from peftjob_trainer.methods import method_of, trainable
from transformers import AutoModelForSequenceClassification, BertConfig, DistilBertConfig

SPEC = PeftJobSpec.model_validate(
    {
        "baseModel": {"uri": "file:///model"},
        "task": {"type": "SequenceClassification"},
        "dataset": {"train": "file:///train.jsonl"},
        "output": {"uri": "file:///out"},
    }
)
SMALL = {"vocab_size": 50, "num_labels": 2}
MODELS = {
    "one module": (
        BertConfig(**SMALL, hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=16),
        ["classifier"],
    ),
    "two modules": (
        DistilBertConfig(**SMALL, dim=16, n_heads=2, n_layers=1, hidden_dim=16),
        ["pre_classifier", "classifier"],
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # of what peft asks it for
@pytest.mark.parametrize(("config", "head"), MODELS.values(), ids=MODELS.keys())
def test_all_linear_modules_but_those_of_the_head_get_an_adapter(config: object, head: list[str]) -> None:
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n not in head]
    adapted = method_of(SPEC, head).inject(model)
    names = list(trainable(adapted))
    whole = {name.split(".")[-4] for name in names if "modules_to_save" in name}
    assert whole == set(head)
    assert not [name for name in names if "lora_" in name and any(f".{module}." in name for module in head)]
    assert len([name for name in names if "lora_A" in name]) == len(linear)
