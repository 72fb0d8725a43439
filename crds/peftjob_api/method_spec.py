"""How the frozen model is adapted: `spec.method`. The settings of the methods are in modules of their own."""

from typing import ClassVar, Literal

from .base import ApiModel, Rule
from .forms import variant_rules
from .low_rank_methods import AdaLoRAMethod, LoRAMethod, VeRAMethod
from .weight_methods import IA3Method, LoHaMethod, LoKrMethod, OFTMethod

VARIANTS: dict[str, tuple[str, type[ApiModel]]] = {
    "LoRA": ("lora", LoRAMethod),
    "AdaLoRA": ("adalora", AdaLoRAMethod),
    "VeRA": ("vera", VeRAMethod),
    "LoHa": ("loha", LoHaMethod),
    "LoKr": ("lokr", LoKrMethod),
    "OFT": ("oft", OFTMethod),
    "IA3": ("ia3", IA3Method),
}
"""Type of a method -> JSON name of the field with its settings, and what these are."""


class MethodSpec(ApiModel):
    """How the frozen model is adapted."""

    type: Literal["LoRA", "AdaLoRA", "VeRA", "LoHa", "LoKr", "OFT", "IA3"] = "LoRA"
    """type of the method; docs/methods.md says which goes with which task."""
    lora: LoRAMethod | None = None
    """lora holds the settings of the method `LoRA`. Default: rank 16 on all linear modules."""
    adalora: AdaLoRAMethod | None = None
    """adalora holds the settings of the method `AdaLoRA`."""
    vera: VeRAMethod | None = None
    """vera holds the settings of the method `VeRA`."""
    loha: LoHaMethod | None = None
    """loha holds the settings of the method `LoHa`."""
    lokr: LoKrMethod | None = None
    """lokr holds the settings of the method `LoKr`."""
    oft: OFTMethod | None = None
    """oft holds the settings of the method `OFT`."""
    ia3: IA3Method | None = None
    """ia3 holds the settings of the method `IA3`."""

    rules: ClassVar[tuple[Rule, ...]] = variant_rules("method", {field: kind for kind, (field, _) in VARIANTS.items()})

    @property
    def settings(self) -> ApiModel:
        """The settings of the method that `type` names; its defaults where nothing is set."""
        field, settings = VARIANTS[self.type]
        name = next(name for name, info in type(self).model_fields.items() if info.alias == field)
        found: ApiModel | None = getattr(self, name)
        return settings() if found is None else found
