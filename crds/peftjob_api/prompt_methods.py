"""Settings of the methods that put trained vectors before the input: `spec.method`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from .base import ApiModel, Rule

VirtualTokens = Annotated[int, Field(ge=1, le=4096)]
Width = Annotated[int, Field(ge=1, le=65536)]

PROMPT_METHODS: tuple[str, ...] = ("PromptTuning", "PTuning", "PrefixTuning")
"""Types of these methods."""


class PromptTuningMethod(ApiModel):
    """Prompt tuning (Lester et al. 2021, arXiv:2104.08691): trained embeddings stand before those of the input."""

    virtual_tokens: VirtualTokens = 20
    """virtualTokens is the number of trained embeddings before each example; they count beside dataset.maxLength."""
    init: Literal["Vocabulary", "Text", "Random"] = "Vocabulary"
    """init says what the embeddings begin as: those of tokens drawn from the vocabulary by training.seed
    (`Vocabulary`), those of initText (`Text`), or normally distributed numbers (`Random`)."""
    init_text: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    """initText is repeated, or cut, to virtualTokens tokens. A description of the task does well."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(self.init == 'Text') == has(self.initText)",
            lambda m: (m.init == "Text") == (m.init_text is not None),
            "init Text and initText belong together: set both or none",
            ".initText",
        ),
    )


class PTuningMethod(ApiModel):
    """P-tuning (Liu et al. 2021, arXiv:2103.10385): embeddings before the input, made by a small network."""

    virtual_tokens: VirtualTokens = 20
    """virtualTokens is the number of embeddings before each example; they count beside dataset.maxLength."""
    hidden_size: Width | None = None
    """hiddenSize is the width of the network (three linear layers). Default: the base model's."""


class PrefixTuningMethod(ApiModel):
    """Prefix tuning (Li and Liang 2021, arXiv:2101.00190): trained keys and values in the attention of each layer."""

    virtual_tokens: VirtualTokens = 20
    """virtualTokens is the number of trained keys and values in each layer."""
    projection: bool = False
    """projection makes keys and values by a network of two layers, which is left out of the adapter."""
    projection_size: Width | None = None
    """projectionSize is the width of that network. Default: the base model's."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.projectionSize) || self.projection",
            lambda m: m.projection_size is None or m.projection,
            "projectionSize has no meaning without projection: set projection to true or remove it",
            ".projectionSize",
        ),
    )
