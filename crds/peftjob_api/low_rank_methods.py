"""Settings of the methods that add a product of small matrices to linear modules: LoRA and what came of it."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from .base import ApiModel, Rule
from .forms import ModuleName

ALL_LINEAR: Final = "all-linear"
TargetModules = Annotated[list[ModuleName], Field(min_length=1, max_length=256)]
Rank = Annotated[int, Field(ge=1, le=1024)]
Alpha = Annotated[float, Field(gt=0, le=65536)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _names_or_all(method: Any) -> bool:
    return ALL_LINEAR not in method.target_modules or len(method.target_modules) == 1


TARGETS_RULE: Final = Rule(
    f"!('{ALL_LINEAR}' in self.targetModules) || size(self.targetModules) == 1",
    _names_or_all,
    "targetModules has all-linear beside other names: use all-linear alone, or names only",
    ".targetModules",
)
"""Of every method with a field `target_modules` that is always set."""


class LoRAMethod(ApiModel):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): y = Wx + scale * B(Ax)."""

    rank: Rank = 16
    """rank of the update."""
    alpha: Alpha = 32.0
    """alpha scales the update by alpha / rank, or by alpha / sqrt(rank) with rsLoRA."""
    dropout: Share = 0.0
    """dropout on the update's input, while training."""
    target_modules: TargetModules = [ALL_LINEAR]  # noqa: RUF012
    """targetModules are the names (or the last parts of dotted names) of the linear modules to adapt, or
    `all-linear` alone for every linear module but the output head."""
    bias: Literal["None", "All", "LoRAOnly"] = "None"
    """bias says which bias vectors are trained too: `None`, `All`, or `LoRAOnly`, those of adapted modules."""
    rs_lora: Annotated[bool, Field(alias="rsLoRA")] = False
    """rsLoRA scales by alpha / sqrt(rank), which keeps high ranks stable (Kalajdzievski 2023, arXiv:2312.03732)."""
    initialisation: Literal["Default", "PiSSA", "OLoRA"] = "Default"
    """initialisation of the update: `Default` (A random, B zero), `PiSSA` (the weight's largest singular values and
    vectors, Meng et al. 2024, arXiv:2404.02948) or `OLoRA` (its QR decomposition, Buyukakyuz 2024, arXiv:2406.01775).
    The latter two begin as parts of the weight that train in its stead, and are published as LoRA of twice the rank
    on the weight as it was."""
    dora: bool = False
    """dora trains the length of each row of the weight apart from its direction, which the update turns (Liu et al.
    2024, arXiv:2402.09353): better at low ranks, slower."""
    learning_rate_ratio: Annotated[float, Field(ge=1, le=1000)] = 1.0
    """learningRateRatio multiplies the learning rate of B: LoRA+, which learns faster on wide models, advises 16
    (Hayou et al. 2024, arXiv:2402.12354)."""
    rank_pattern: Annotated[dict[ModuleName, Rank], Field(min_length=1, max_length=256)] | None = None
    """rankPattern gives some of the target modules another rank: names, or last parts of dotted names, to ranks."""
    alpha_pattern: Annotated[dict[ModuleName, Alpha], Field(min_length=1, max_length=256)] | None = None
    """alphaPattern gives some of the target modules another alpha: names, or last parts of dotted names, to alphas."""

    rules: ClassVar[tuple[Rule, ...]] = (
        TARGETS_RULE,
        Rule(
            "!self.dora || self.initialisation == 'Default'",
            lambda m: not m.dora or m.initialisation == "Default",
            "dora needs an update that begins at zero: set initialisation to Default, or dora to false",
            ".dora",
        ),
    )


class AdaLoRAMethod(ApiModel):
    """LoRA whose rank is moved to where it matters while training (Zhang et al. 2023, arXiv:2303.10512)."""

    rank: Rank = 8
    """rank at the end, on average over the target modules."""
    initial_rank: Rank = 12
    """initialRank of every target module, larger than rank."""
    alpha: Alpha = 32.0
    """alpha scales the update by alpha / initialRank."""
    dropout: Share = 0.0
    """dropout on the update's input, while training."""
    target_modules: TargetModules = [ALL_LINEAR]  # noqa: RUF012
    """targetModules are the names (or the last parts of dotted names) of the linear modules to adapt, or
    `all-linear` alone for every linear module but the output head."""
    warmup_ratio: Share = 0.1
    """warmupRatio is the share of the steps, at the beginning, with the initial rank."""
    final_ratio: Share = 0.3
    """finalRatio is the share of the steps, at the end, with the final distribution of ranks."""
    allocate_every_steps: Annotated[int, Field(ge=1, le=10000)] = 10
    """allocateEverySteps is the number of steps between two distributions of the ranks."""
    orthogonality: Annotated[float, Field(ge=0, le=100)] = 0.5
    """orthogonality is the weight, in the loss, of how far A and B are from orthogonal."""

    rules: ClassVar[tuple[Rule, ...]] = (
        TARGETS_RULE,
        Rule(
            "self.initialRank > self.rank",
            lambda m: m.initial_rank > m.rank,
            "initialRank is not above rank, so there is nothing to distribute: raise it, or use LoRA",
            ".initialRank",
        ),
        Rule(
            "self.warmupRatio + self.finalRatio < 1.0",
            lambda m: m.warmup_ratio + m.final_ratio < 1.0,
            "warmupRatio and finalRatio leave no steps to distribute ranks in: lower one",
            ".finalRatio",
        ),
    )


class VeRAMethod(ApiModel):
    """Two vectors per module that scale random matrices shared by all (Kopiczko et al. 2023, arXiv:2310.11454)."""

    rank: Rank = 256
    """rank of the random matrices. They are made from training.seed wherever the adapter is loaded, and not
    published."""
    dropout: Share = 0.0
    """dropout on the update's input, while training."""
    target_modules: TargetModules = [ALL_LINEAR]  # noqa: RUF012
    """targetModules are the names (or the last parts of dotted names) of the linear modules to adapt, or
    `all-linear` alone for every linear module but the output head."""
    initial_scale: Annotated[float, Field(gt=0, le=10)] = 0.1
    """initialScale is what the vector between the random matrices begins with."""

    rules: ClassVar[tuple[Rule, ...]] = (TARGETS_RULE,)
