"""How the frozen model is adapted: `spec.method`, and the settings of each method."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .base import ApiModel, Rule
from .forms import ModuleName, Uri, uri_rules, variant_rules

ALL_LINEAR = "all-linear"
UNMERGEABLE: tuple[str, ...] = ("PromptTuning", "PTuning", "PrefixTuning", "Bottleneck")
"""Methods that add what no weight of the base can hold: tokens, keys and values, layers."""


class LoRAMethod(ApiModel):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): y = Wx + scale * B(Ax)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """rank of the update."""
    alpha: Annotated[float, Field(gt=0, le=65536)] = 32.0
    """alpha scales the update by alpha / rank, or by alpha / sqrt(rank) with rsLoRA."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout on the update's input, while training."""
    target_modules: Annotated[list[ModuleName], Field(min_length=1, max_length=256)] = [ALL_LINEAR]  # noqa: RUF012
    """targetModules are the names (or the last parts of dotted names) of the linear modules to adapt, or
    `all-linear` alone for every linear module but the output head."""
    bias: Literal["None", "All", "LoRAOnly"] = "None"
    """bias says which bias vectors are trained too: `None`, `All`, or `LoRAOnly`, those of adapted modules."""
    rs_lora: Annotated[bool, Field(alias="rsLoRA")] = False
    """rsLoRA scales by alpha / sqrt(rank), which keeps high ranks stable (Kalajdzievski 2023, arXiv:2312.03732)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!('{ALL_LINEAR}' in self.targetModules) || size(self.targetModules) == 1",
            lambda m: ALL_LINEAR not in m.target_modules or len(m.target_modules) == 1,
            "targetModules has all-linear beside other names: use all-linear alone, or names only",
            ".targetModules",
        ),
    )


_VARIANTS: dict[str, tuple[str, type[ApiModel]]] = {"LoRA": ("lora", LoRAMethod)}
"""Type of a method -> JSON name of the field with its settings, and what these are."""


class MethodSpec(ApiModel):
    """How the frozen model is adapted."""

    type: Literal["LoRA"] = "LoRA"
    """type of the method."""
    init_from: Uri | None = None
    """initFrom is the folder of an adapter to continue from, instead of new parameters: `s3://BUCKET/PREFIX`,
    `pvc://CLAIM/PATH` or `file:///PATH`, as a PeftJob or peft itself wrote it. Its method, settings and shapes must be
    those of this job."""
    lora: LoRAMethod | None = None
    """lora holds the settings of the method `LoRA`. Default: rank 16 on all linear modules."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *variant_rules("method", {field: kind for kind, (field, _) in _VARIANTS.items()}),
        *uri_rules("adapter", "init_from"),
    )

    @property
    def settings(self) -> ApiModel:
        """The settings of the method that `type` names; its defaults where nothing is set."""
        field, settings = _VARIANTS[self.type]
        name = next(name for name, info in type(self).model_fields.items() if info.alias == field)
        found: ApiModel | None = getattr(self, name)
        return settings() if found is None else found
