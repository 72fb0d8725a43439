"""Settings of the methods that change linear modules by other means than a plain product of small matrices."""

from typing import Annotated, ClassVar

from pydantic import Field

from .base import ApiModel, Rule
from .low_rank_methods import ALL_LINEAR, TARGETS_RULE, Alpha, Rank, Share, TargetModules


class LoHaMethod(ApiModel):
    """An elementwise product of two low-rank updates, of up to the square of their rank (Hyeon-Woo et al. 2021,
    arXiv:2108.06098)."""

    rank: Rank = 8
    """rank of each of the two updates."""
    alpha: Alpha = 16.0
    """alpha scales the product by alpha / rank."""
    module_dropout: Share = 0.0
    """moduleDropout is the chance that a module goes without its update in a micro step."""
    target_modules: TargetModules = [ALL_LINEAR]  # noqa: RUF012
    """targetModules are the names (or the last parts of dotted names) of the linear modules to adapt, or
    `all-linear` alone for every linear module but the output head."""

    rules: ClassVar[tuple[Rule, ...]] = (TARGETS_RULE,)


class LoKrMethod(ApiModel):
    """A Kronecker product of a small and a low-rank matrix (Yeh et al. 2023, arXiv:2309.14859)."""

    rank: Rank = 8
    """rank of the larger factor, and of the smaller one with decomposeBoth."""
    alpha: Alpha = 16.0
    """alpha scales the product by alpha / rank."""
    module_dropout: Share = 0.0
    """moduleDropout is the chance that a module goes without its update in a micro step."""
    target_modules: TargetModules = [ALL_LINEAR]  # noqa: RUF012
    """targetModules are the names (or the last parts of dotted names) of the linear modules to adapt, or
    `all-linear` alone for every linear module but the output head."""
    factor: Annotated[int, Field(ge=2, le=1024)] | None = None
    """factor bounds the sides of the smaller matrix. Default: as near to the square root of the weight's as divides
    it."""
    decompose_both: bool = False
    """decomposeBoth makes the smaller matrix a low-rank product too, where that is less."""

    rules: ClassVar[tuple[Rule, ...]] = (TARGETS_RULE,)


class OFTMethod(ApiModel):
    """Rotations of the inputs of linear modules, in blocks (Qiu et al. 2023, arXiv:2306.07280; the form that rotates
    inputs instead of weights: arXiv:2506.19847)."""

    block_size: Annotated[int, Field(ge=2, le=1024)] = 32
    """blockSize is the number of inputs that are rotated together; a module whose inputs it does not divide takes the
    nearest size that does."""
    module_dropout: Share = 0.0
    """moduleDropout is the chance that a block is not rotated in a micro step."""
    target_modules: TargetModules = [ALL_LINEAR]  # noqa: RUF012
    """targetModules are the names (or the last parts of dotted names) of the linear modules to adapt, or
    `all-linear` alone for every linear module but the output head."""

    rules: ClassVar[tuple[Rule, ...]] = (TARGETS_RULE,)


class IA3Method(ApiModel):
    """A factor for each key, value and inner activation of the MLP (Liu et al. 2022, arXiv:2205.05638)."""

    target_modules: TargetModules | None = None
    """targetModules are the names (or the last parts of dotted names) of the linear modules to scale. Default: those
    of the architecture, where they are known."""
    feedforward_modules: TargetModules | None = None
    """feedforwardModules are those of targetModules whose input is scaled instead of their output. Default: those of
    the architecture, or with targetModules none."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.feedforwardModules) || (has(self.targetModules) && "
            "self.feedforwardModules.all(m, m in self.targetModules))",
            lambda m: (
                m.feedforward_modules is None
                or (m.target_modules is not None and set(m.feedforward_modules) <= set(m.target_modules))
            ),
            "feedforwardModules has names that are not in targetModules: add them there",
            ".feedforwardModules",
        ),
    )
