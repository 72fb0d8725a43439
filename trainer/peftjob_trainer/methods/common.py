"""What a method of adaptation is: the interface of all, and how those of peft are put into a model and saved.

A method that peft has takes a module with one class, of which `config` is all that it must say.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import TaskType, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peftjob_api import PeftJobSpec, Reason

from ..exits import TrainerError
from ..sharding import Values
from .names import check_names


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
        """Return peft's config, as a user of peft would write it, or that of our own loader.

        Raises:
            TrainerError: The method does not go with this model.
        """

    def inject(self, model: Any) -> Any:
        """Return the model with new trainable parameters in fp32, from the seed, the same on all ranks.

        Args:
            model: From transformers; its own parameters have no data yet, or are partitioned already.

        Raises:
            TrainerError: The method does not go with this model.
        """
        return self.put_in(model, self.config(model))

    def put_in(self, model: Any, config: Any) -> Any:
        """Return the model with what a config of peft's says in it; see `inject`."""
        config = self.saving_whole(config, model)
        torch.manual_seed(self.spec.training.seed)
        try:
            # Adapters of a bf16 base become fp32.
            return get_peft_model(model, config, autocast_adapter_dtype=True)
        except (ValueError, TypeError) as error:  # of peft: what its method cannot take
            raise TrainerError(
                Reason.INVALID_CONFIG, f"spec.method {self.spec.method.type} does not go with this model: {error}"
            ) from error

    def saving_whole(self, config: Any, model: Any) -> Any:
        """Return peft's config with `modulesToSave`, in which the method leaves everything as it is.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`.
        """
        also = self.spec.method.modules_to_save
        if also is not None:
            check_names(also, [name for name, _ in model.named_modules()], "spec.method.modulesToSave", "module")
            config.modules_to_save = list(dict.fromkeys([*(config.modules_to_save or ()), *also]))
            if hasattr(config, "exclude_modules"):
                names = "|".join(map(re.escape, config.modules_to_save))
                config.exclude_modules = rf"(.*\.)?({names})(\..*)?"
        return config

    def initialise(self, model: Any, values: Values) -> None:  # noqa: B027 (most have nothing to do)
        """Set new parameters that depend on the base's numbers, which are read here; collective. Most have none.

        Args:
            model: From `inject`, prepared, before it is filled.
            values: Of the base.
        """

    def penalty(self, model: Any) -> torch.Tensor | None:
        """Return what the loss of a step is raised by, whatever the data (fp32 scalar); of trained parameters only."""
        return None

    def learning_rates(self, model: Any) -> dict[str, float]:
        """Return by what the learning rate of a parameter is multiplied, by its name, where that is not 1."""
        return {}

    def after_step(self, model: Any, step: int, total_steps: int) -> None:  # noqa: B027 (most have nothing to do)
        """Do what the method does between two steps (from 1), the same on all ranks; gradients are still there."""

    def running_state(self, model: Any) -> dict[str, torch.Tensor]:
        """Return what the method keeps from step to step beside its parameters, the same on all ranks."""
        return {}

    def load_running_state(self, model: Any, tensors: dict[str, torch.Tensor]) -> None:
        """Set what `running_state` returned."""
        assert not tensors, f"{self.spec.method.type} keeps nothing"

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


_TASKS = {
    "CausalLM": TaskType.CAUSAL_LM,
    "Seq2SeqLM": TaskType.SEQ_2_SEQ_LM,
    "SequenceClassification": TaskType.SEQ_CLS,
    "TokenClassification": TaskType.TOKEN_CLS,
    "ImageClassification": None,
    "PreferenceOptimisation": TaskType.CAUSAL_LM,
    "Ranking": TaskType.FEATURE_EXTRACTION,
}
"""Task -> peft's name of it; None: peft has none, and needs none."""


def task_type(spec: PeftJobSpec) -> TaskType | None:
    """Return peft's name of the job's task."""
    return _TASKS[spec.task.type]


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the trained parameters by name, in an order that all ranks share."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
