"""How the frozen model is adapted: `spec.method`. The settings of the methods are in modules of their own."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .adapter_methods import BitFitMethod, BottleneckMethod, LayerNormTuningMethod, TrainableTokensMethod
from .base import ApiModel, Rule
from .forms import ModuleName, Uri, uri_rules, variant_rules
from .low_rank_methods import AdaLoRAMethod, LoRAMethod, VeRAMethod
from .prompt_methods import PrefixTuningMethod, PromptTuningMethod, PTuningMethod
from .weight_methods import IA3Method, LoHaMethod, LoKrMethod, OFTMethod

VARIANTS: dict[str, tuple[str, type[ApiModel]]] = {
    "LoRA": ("lora", LoRAMethod),
    "AdaLoRA": ("adalora", AdaLoRAMethod),
    "VeRA": ("vera", VeRAMethod),
    "LoHa": ("loha", LoHaMethod),
    "LoKr": ("lokr", LoKrMethod),
    "OFT": ("oft", OFTMethod),
    "IA3": ("ia3", IA3Method),
    "PromptTuning": ("promptTuning", PromptTuningMethod),
    "PTuning": ("pTuning", PTuningMethod),
    "PrefixTuning": ("prefixTuning", PrefixTuningMethod),
    "Bottleneck": ("bottleneck", BottleneckMethod),
    "LayerNormTuning": ("layerNormTuning", LayerNormTuningMethod),
    "BitFit": ("bitFit", BitFitMethod),
    "TrainableTokens": ("trainableTokens", TrainableTokensMethod),
}
"""Type of a method -> JSON name of the field with its settings, and what these are."""

PLAIN_LORA = "self.type == 'LoRA' && (!has(self.lora) || self.lora.initialisation == 'Default')"
"""`MethodSpec.is_plain_lora` in CEL."""


class MethodSpec(ApiModel):
    """How the frozen model is adapted."""

    type: Literal[
        "LoRA",
        "AdaLoRA",
        "VeRA",
        "LoHa",
        "LoKr",
        "OFT",
        "IA3",
        "PromptTuning",
        "PTuning",
        "PrefixTuning",
        "Bottleneck",
        "LayerNormTuning",
        "BitFit",
        "TrainableTokens",
    ] = "LoRA"
    """type of the method; docs/methods.md says which goes with which task."""
    init_from: Uri | None = None
    """initFrom is the folder of an adapter to continue from, instead of new parameters: `s3://BUCKET/PREFIX`,
    `pvc://CLAIM/PATH` or `file:///PATH`, as a PeftJob or peft itself wrote it. Its method, settings and shapes must be
    those of this job. For LoRA with its default initialisation."""
    lora: LoRAMethod | None = None
    """lora holds the settings of the method `LoRA`. Default: rank 16 on all linear modules; a
    smaller one for up to 200 examples (docs/choosing.md)."""
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

    prompt_tuning: PromptTuningMethod | None = None
    """promptTuning holds the settings of the method `PromptTuning`."""
    p_tuning: PTuningMethod | None = None
    """pTuning holds the settings of the method `PTuning`."""
    prefix_tuning: PrefixTuningMethod | None = None
    """prefixTuning holds the settings of the method `PrefixTuning`."""
    bottleneck: BottleneckMethod | None = None
    """bottleneck holds the settings of the method `Bottleneck`."""
    layer_norm_tuning: LayerNormTuningMethod | None = None
    """layerNormTuning holds the settings of the method `LayerNormTuning`."""
    bit_fit: BitFitMethod | None = None
    """bitFit holds the settings of the method `BitFit`."""
    trainable_tokens: TrainableTokensMethod | None = None
    """trainableTokens holds the settings of the method `TrainableTokens`; it needs them."""
    modules_to_save: Annotated[list[ModuleName], Field(min_length=1, max_length=64)] | None = None
    """modulesToSave are the names (or the last parts of dotted names) of modules of the base model that are trained
    whole, beside what the method trains, and published with it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *variant_rules("method", {field: kind for kind, (field, _) in VARIANTS.items()}),
        *uri_rules("adapter", "init_from"),
        Rule(
            f"!has(self.initFrom) || ({PLAIN_LORA})",
            lambda m: m.init_from is None or m.is_plain_lora,
            "initFrom is for LoRA with its default initialisation: remove it, or change the method",
            ".initFrom",
        ),
        Rule(
            "self.type != 'TrainableTokens' || has(self.trainableTokens)",
            lambda m: m.type != "TrainableTokens" or m.trainable_tokens is not None,
            "type TrainableTokens trains the tokens that it is told: set trainableTokens.tokens",
            ".trainableTokens",
        ),
        Rule(
            "self.type != 'TrainableTokens' || !has(self.modulesToSave)",
            lambda m: m.type != "TrainableTokens" or m.modules_to_save is None,
            "modulesToSave cannot be published with TrainableTokens: remove it, or use another method",
            ".modulesToSave",
        ),
    )

    @property
    def is_plain_lora(self) -> bool:
        """Whether what is trained is what is published: LoRA whose matrices begin as new."""
        return self.type == "LoRA" and (self.lora is None or self.lora.initialisation == "Default")

    @property
    def settings(self) -> ApiModel:
        """The settings of the method that `type` names; its defaults where nothing is set."""
        field, settings = VARIANTS[self.type]
        name = next(name for name, info in type(self).model_fields.items() if info.alias == field)
        found: ApiModel | None = getattr(self, name)
        return settings() if found is None else found
