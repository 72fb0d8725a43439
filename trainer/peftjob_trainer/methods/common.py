"""What a method of adaptation is: the interface of all, and how those of peft are put into a model and saved.

A method that peft has takes a module with one class, of which `config` is all that it must say.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import TaskType, get_peft_model
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

    @property
    def whole(self) -> list[str]:
        """Names of modules that are trained whole beside what the method trains: the head's, and `modulesToSave`."""
        return [*self.head, *(self.spec.method.modules_to_save or ())]

    @abstractmethod
    def config(self, model: Any) -> Any:
        """Return peft's config, or that of our own loader.

        Raises:
            TrainerError: The method does not go with this model.
        """

    def inject(self, model: Any) -> Any:
        """Return the model with new trainable parameters in fp32, from the seed, the same on all ranks.

        Args:
            model: From transformers; its own parameters have no data yet, or are partitioned already.

        Raises:
            TrainerError: The method does not go with this model, or modules that are named are not in it.
        """
        config = self.config(model)
        self._also_save(config, model)
        torch.manual_seed(self.spec.training.seed)
        # Adapters of a bf16 base become fp32.
        return get_peft_model(model, config, autocast_adapter_dtype=True)

    def _also_save(self, config: Any, model: Any) -> None:
        """Have peft train and save `modulesToSave`, and the method leave what is in them alone."""
        also = self.spec.method.modules_to_save
        if also is None:
            return
        check_modules(model, also, "spec.method.modulesToSave", torch.nn.Module)
        config.modules_to_save = list(dict.fromkeys([*(config.modules_to_save or ()), *also]))
        if hasattr(config, "exclude_modules"):
            names = "|".join(map(re.escape, config.modules_to_save))
            config.exclude_modules = rf"(.*\.)?({names})(\..*)?"

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
    check_modules(model, wanted, field, torch.nn.Linear, "linear module", f", or to {ALL_LINEAR}")
    return list(wanted)


def check_modules(
    model: Any,
    wanted: Sequence[str],
    field: str,
    kind: type | Collection[str],
    called: str = "module",
    also: str = "",
) -> None:
    """Raise unless there is a module for each name.

    Args:
        model: From transformers.
        wanted: Names, or last parts of dotted names.
        field: Of the spec, for messages.
        kind: Class of the modules that are meant, or their names.
        called: What they are called in messages.
        also: Ends the message, with what else the field may be.

    Raises:
        TrainerError: `TARGET_MODULES_NOT_FOUND`.
    """
    there = {n for n, m in model.named_modules() if isinstance(m, kind)} if isinstance(kind, type) else set(kind)
    missing = [target for target in wanted if not any(is_named(name, target) for name in there)]
    if missing:
        names = sorted({name.rpartition(".")[2] for name in there} - {""})
        shown = ", ".join(names[:_MAX_SHOWN]) + (" ..." if len(names) > _MAX_SHOWN else "")
        raise TrainerError(
            Reason.TARGET_MODULES_NOT_FOUND,
            f"no {called} of the base model is named {', '.join(missing)}: set {field} to some of {shown}{also}",
        )


def is_named(name: str, target: str) -> bool:
    """Tell whether a module's dotted name is, or ends in, a name that a user wrote."""
    return name == target or name.endswith(f".{target}")
