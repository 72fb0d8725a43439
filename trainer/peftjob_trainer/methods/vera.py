"""VeRA, by peft: vectors that scale random matrices shared by all modules. Kopiczko et al. 2023, arXiv:2310.11454."""

from typing import Any

from peft import VeraConfig
from peftjob_api.low_rank_methods import ALL_LINEAR, VeRAMethod

from .common import Method, task_type
from .layers import linear_targets, names_of_all_linear


class VeRA(Method):
    """See there for the interface."""

    def config(self, model: Any) -> VeraConfig:
        """Return peft's config.

        Raises:
            TrainerError: `TARGET_MODULES_NOT_FOUND`.
        """
        vera = self.spec.method.settings
        assert isinstance(vera, VeRAMethod)
        targets = linear_targets(model, vera.target_modules, "spec.method.vera.targetModules")
        return VeraConfig(
            r=vera.rank,
            vera_dropout=vera.dropout,
            d_initial=vera.initial_scale,
            # peft's VeRA can exclude none, so the head's modules must not be among these.
            target_modules=names_of_all_linear(model, self.head) if targets == ALL_LINEAR else targets,
            projection_prng_key=self.spec.training.seed,
            save_projection=False,  # random numbers, of which the key is published: of the CPU's generator, anywhere
            modules_to_save=self.head or None,
            task_type=task_type(self.spec),
        )
