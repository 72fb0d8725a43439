"""BitFit: the base's bias vectors, trained where they are. Ben Zaken et al. 2021, arXiv:2106.10199."""

from typing import Any

from peftjob_api import Reason
from peftjob_api.adapter_methods import BitFitMethod
from peftjob_bottleneck import BITFIT

from ..exits import TrainerError
from .layer_norm_tuning import norms_of
from .names import check_names, is_named
from .own import OwnMethod


class BitFit(OwnMethod):
    """See there for the interface."""

    kind = BITFIT

    def config(self, model: Any) -> None:
        """Return nothing: what is published says it all."""

    def put_into(self, model: Any) -> None:
        """Let biases be trained.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`: the model has none, or not in modules of these names.
        """
        settings = self.spec.method.settings
        assert isinstance(settings, BitFitMethod)
        biased = {name: m for name, m in model.named_modules() if getattr(m, "bias", None) is not None}
        base = {name: m for name, m in biased.items() if not any(is_named(name, head) for head in self.head)}
        if not base:
            raise TrainerError(
                Reason.TARGET_MODULES_NOT_FOUND,
                f"{type(model).__name__} has no bias vectors: set spec.method.type to LayerNormTuning, LoRA or "
                f"Bottleneck",
            )
        wanted = settings.target_modules
        if wanted is not None:
            check_names(wanted, base, "spec.method.bitFit.targetModules", "module with a bias")
        norms = set(norms_of(model))
        for name, module in base.items():
            if wanted is None or any(is_named(name, each) for each in wanted):
                module.bias.requires_grad_(True)
                if name in norms:  # PyTorch's norms take weight and bias of one dtype only
                    module.weight.data = module.weight.data.float()
