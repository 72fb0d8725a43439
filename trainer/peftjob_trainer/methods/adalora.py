"""AdaLoRA, by peft: an update B E A whose ranks move to where they matter. Zhang et al. 2023, arXiv:2303.10512."""

from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig
from peftjob_api.low_rank_methods import AdaLoRAMethod

from .common import Method, task_type, trainable
from .layers import adapted, linear_targets

_ANY_TOTAL = 1000
"""Steps, while nobody has counted the data."""
_IMPORTANCE, _UNCERTAINTY, _RANKS = "importance.", "uncertainty.", "ranks."


class AdaLoRA(Method):
    """See there for the interface."""

    @property
    def settings(self) -> AdaLoRAMethod:
        """The method's settings."""
        adalora = self.spec.method.settings
        assert isinstance(adalora, AdaLoRAMethod)
        return adalora

    def config(self, model: Any) -> AdaLoraConfig:
        """Return peft's config.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`.
        """
        adalora = self.settings
        total = self.spec.training.max_steps or _ANY_TOTAL
        first, last = _phases(adalora, total)
        return AdaLoraConfig(
            target_r=adalora.rank,
            init_r=adalora.initial_rank,
            lora_alpha=adalora.alpha,
            lora_dropout=adalora.dropout,
            target_modules=linear_targets(model, adalora.target_modules, "spec.method.adalora.targetModules"),
            tinit=first,
            tfinal=last,
            deltaT=adalora.allocate_every_steps,
            orth_reg_weight=adalora.orthogonality,
            total_step=total,
            modules_to_save=self.head or None,
            exclude_modules=self.head or None,
            task_type=task_type(self.spec),
        )

    def inject(self, model: Any) -> Any:
        """Return the model with AdaLoRA in it; see there."""
        model = super().inject(model)
        for _, layer in adapted(model):
            layer.ranknum.requires_grad_(False)  # of which peft makes trained ones on the meta device
        return model

    def penalty(self, model: Any) -> torch.Tensor | None:
        """Return how far the A and B are from orthogonal, on average over all of them, by the weight in the spec."""
        distances = []
        for name, parameter in trainable(model).items():
            if ".lora_A." in name or ".lora_B." in name:
                square = parameter @ parameter.T if ".lora_A." in name else parameter.T @ parameter
                distances.append(torch.linalg.matrix_norm(square - torch.eye(len(square), device=square.device)))
        return self.settings.orthogonality * torch.stack(distances).mean()

    def after_step(self, model: Any, step: int, total_steps: int) -> None:
        """Weigh each singular value by its gradients, and zero those beyond the step's budget."""
        config = model.peft_config["default"]
        config.total_step = total_steps
        config.tinit, config.tfinal = _phases(self.settings, total_steps)
        # A run that went back over the last distribution has yet to make it.
        last = total_steps - config.tfinal
        model.base_model.update_and_allocate(last if step > last and not config.rank_pattern else step)

    def running_state(self, model: Any) -> dict[str, torch.Tensor]:
        """Return the importance of each parameter with its uncertainty, and which ranks the last distribution left."""
        allocator, pattern = model.base_model.rankallocator, model.peft_config["default"].rank_pattern or {}
        kept = {f"{_RANKS}{name}": torch.tensor(ranks) for name, ranks in pattern.items()}
        averages = [(_IMPORTANCE, allocator.exp_avg_ipt), (_UNCERTAINTY, allocator.exp_avg_unc)]
        return kept | {f"{kind}{name}": mean for kind, means in averages for name, mean in means.items()}

    def load_running_state(self, model: Any, tensors: dict[str, torch.Tensor]) -> None:
        """See `Method`."""
        allocator, device = model.base_model.rankallocator, next(iter(trainable(model).values())).device
        allocator.reset_ipt()
        for name, mean in _named(tensors, _IMPORTANCE).items():
            allocator.exp_avg_ipt[name] = mean.to(device)
            allocator.ipt[name] = torch.zeros_like(mean)  # that of the step: there it tells that the averages are known
        allocator.exp_avg_unc = {name: mean.to(device) for name, mean in _named(tensors, _UNCERTAINTY).items()}
        ranks = {name: kept.tolist() for name, kept in _named(tensors, _RANKS).items()}
        model.peft_config["default"].rank_pattern = ranks

    def save(self, model: Any, folder: Path, base: str, revision: str | None) -> None:
        """Write the adapter without the ranks that are zero.

        Which these are is asked of the parameters: they may be those of an earlier step than the last distribution.
        """
        kept = {name: (layer.lora_E["default"] != 0).flatten().tolist() for name, layer in adapted(model)}
        prefix = "base_model.model."
        model.peft_config["default"].rank_pattern = {
            f"{name.removeprefix(prefix)}.lora_E": ranks for name, ranks in kept.items()
        }
        super().save(model, folder, base, revision)


def _named(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}


def _phases(adalora: AdaLoRAMethod, total: int) -> tuple[int, int]:
    """Return the steps before ranks are distributed first, and after they are last; at least one is between."""
    first = min(int(adalora.warmup_ratio * total), total - 1)
    return first, min(int(adalora.final_ratio * total), total - 1 - first)
