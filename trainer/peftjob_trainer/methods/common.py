"""What a method of adaptation is: the interface of all, and how those of peft are put into a model and saved.

A method that peft has takes a module with one class, of which `config` is all that it must say.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import TaskType, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peftjob_api import PeftJobSpec, Reason
from peftjob_api.method_spec import ALL_LINEAR

from ..exits import TrainerError
from ..sharding import Values

_MAX_SHOWN = 20


class Method(ABC):
    """How a frozen model is adapted. Made by `method_of`."""

    def __init__(self, spec: PeftJobSpec, head: Sequence[str], tokenizer: Any = None) -> None:
        """Keep what the method is about.

        Args:
            spec: Of the job.
            head: Names of modules of the task that are trained whole.
            tokenizer: Of the base model; None where nothing is computed, as on paper.
        """
        self.spec = spec
        self.head = list(head)
        self.tokenizer = tokenizer

    @abstractmethod
    def config(self, model: Any) -> Any:
        """Return peft's config.

        Raises:
            TrainerError: The method does not go with this model.
        """

    def inject(self, model: Any) -> Any:
        """Return the model with new trainable parameters in fp32, from the seed, the same on all ranks.

        Args:
            model: From transformers; its own parameters have no data yet, or are partitioned already.
        """
        config = self.config(model)
        torch.manual_seed(self.spec.training.seed)
        # Adapters of a bf16 base become fp32.
        return get_peft_model(model, config, autocast_adapter_dtype=True)

    def initialise(self, model: Any, values: Values) -> None:  # noqa: B027 (most have nothing to do)
        """Set new parameters that depend on the base's numbers, which are read here; collective. Most have none.

        Args:
            model: From `inject`, prepared, before it is filled.
            values: Of the base.
        """

    def learning_rates(self, model: Any) -> dict[str, float]:
        """Return by what the learning rate of a parameter is multiplied, by its name, where that is not 1."""
        return {}

    def after_step(self, model: Any, step: int, total_steps: int) -> None:  # noqa: B027 (most have nothing to do)
        """Do what the method does between two steps (from 1), the same on all ranks; gradients are still there."""

    def state(self, model: Any) -> dict[str, torch.Tensor]:
        """Return what `save` writes, by name in the file."""
        found: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
        return found

    def load(self, model: Any, tensors: dict[str, torch.Tensor]) -> None:
        """Set the trained parameters to values that `save` wrote, by name in the file; all that `state` names."""
        set_peft_model_state_dict(model, tensors)

    def save(self, model: Any, folder: Path, base: str, revision: str | None) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json`, which names the base and its revision."""
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.revision = base, revision
        # Anything but False makes peft look for the base's config on the hub.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's own card; ours says more


_TASKS = {"CausalLM": TaskType.CAUSAL_LM, "SequenceClassification": TaskType.SEQ_CLS}


def task_type(spec: PeftJobSpec) -> TaskType:
    """Return peft's name of the job's task."""
    return _TASKS[spec.task.type]


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the trained parameters by name, in an order that all ranks share."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def linear_targets(model: Any, wanted: Sequence[str], field: str) -> str | list[str]:
    """Return peft's `target_modules` for linear modules, after a look whether they are there.

    Args:
        model: From transformers.
        wanted: Names, last parts of dotted names, or `all-linear` alone.
        field: Of the spec, for messages.

    Raises:
        TrainerError: `TARGET_MODULES_NOT_FOUND`.
    """
    if ALL_LINEAR in wanted:
        return ALL_LINEAR
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    missing = [target for target in wanted if not any(_matches(name, target) for name in linear)]
    if missing:
        names = sorted({name.rpartition(".")[2] for name in linear})
        shown = ", ".join(names[:_MAX_SHOWN]) + (" ..." if len(names) > _MAX_SHOWN else "")
        raise TrainerError(
            Reason.TARGET_MODULES_NOT_FOUND,
            f"no linear module of the base model is named {', '.join(missing)}: set {field} to some of {shown}, or to "
            f"{ALL_LINEAR}",
        )
    return list(wanted)


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
