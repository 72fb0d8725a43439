"""LoRA, by peft. Hu et al. 2021, arXiv:2106.09685; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from peftjob_api import Reason
from peftjob_api.spec import ALL_LINEAR, MethodSpec

from ..exits import TrainerError

_BIAS = {"None": "none", "All": "all", "LoRAOnly": "lora_only"}
_TASKS = {"CausalLM": TaskType.CAUSAL_LM, "SequenceClassification": TaskType.SEQ_CLS}
_MAX_SHOWN = 20


def inject(model: Any, spec: MethodSpec, task: str, head: list[str], seed: int) -> Any:
    """Return the model with an adapter in fp32, initialised from the seed.

    Args:
        model: From transformers; its parameters may be partitioned already.
        spec: `spec.method`.
        task: `spec.task.type`.
        head: Names of modules that are trained whole.
        seed: `spec.training.seed`.

    Raises:
        TrainerError: `TARGET_MODULES_NOT_FOUND`.
    """
    lora = spec.lora
    every = ALL_LINEAR in lora.target_modules
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    missing = [] if every else [t for t in lora.target_modules if not any(_matches(name, t) for name in linear)]
    if missing:
        names = sorted({name.rpartition(".")[2] for name in linear})
        shown = ", ".join(names[:_MAX_SHOWN]) + (" ..." if len(names) > _MAX_SHOWN else "")
        raise TrainerError(
            Reason.TARGET_MODULES_NOT_FOUND,
            f"no linear module of the base model is named {', '.join(missing)}: set spec.method.lora.targetModules to "
            f"some of {shown}, or to {ALL_LINEAR}",
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=ALL_LINEAR if every else list(lora.target_modules),
        bias=_BIAS[lora.bias],
        use_rslora=lora.rs_lora,
        modules_to_save=list(head) or None,  # peft adds to it
        exclude_modules=list(head) or None,  # of several linear modules in a head peft takes only the last for one
        task_type=_TASKS[task],
    )
    torch.manual_seed(seed)
    # Adapters of a bf16 base become fp32.
    return get_peft_model(model, config, autocast_adapter_dtype=True)


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the trained parameters by name, in an order that all ranks share."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save(model: Any, folder: Path, base: str, revision: str | None) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`, which names the base and its revision."""
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = base, revision
    # Anything but False makes peft look for the base's config on the hub.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's own card; ours says more


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
