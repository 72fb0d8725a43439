"""What methods have in common that peft lacks: they train parameters of the model as it is, by names that it has.

What they train of the base is read by `Base.fill` whole and in fp32; `peftjob_bottleneck` loads what they publish.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from peftjob_bottleneck import Settings, save

from .common import Method, trainable
from .names import check_names, is_named


class OwnMethod(Method):
    """A method without peft."""

    kind: str
    """Of the adapter, for our loader."""

    def inject(self, model: Any) -> Any:
        """See `Method`."""
        if self.spec.method.modules_to_save is not None:
            names = [name for name, _ in model.named_modules()]
            check_names(self.spec.method.modules_to_save, names, "spec.method.modulesToSave", "module")
        model.requires_grad_(False)
        torch.manual_seed(self.spec.training.seed)
        self.put_into(model)
        for name, module in model.named_modules():
            if any(is_named(name, whole) for whole in self.whole):
                module.requires_grad_(True)
        return model

    @abstractmethod
    def put_into(self, model: Any) -> None:
        """Make the parameters that are trained, or let those of the base be, which are all frozen.

        Raises:
            TrainerError: The method does not go with this model.
        """

    def save(self, model: Any, folder: Path, base: str, revision: str | None) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json`, for our loader."""
        settings = self.config(model)
        assert settings is None or isinstance(settings, Settings)
        save(folder, self.kind, trainable(model), settings, base, revision)
