"""Settings of the methods that put layers into the base, or train a small part of it: `spec.method`."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from .base import ApiModel
from .forms import ModuleName

Token = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Modules = Annotated[list[ModuleName], Field(min_length=1, max_length=256)]


class BottleneckMethod(ApiModel):
    """Bottleneck adapters: y = x + scale * up(f(down(x))) after, or beside, the sublayers of each block."""

    style: Literal["Houlsby", "Pfeiffer", "Parallel"] = "Pfeiffer"
    """style says where: after attention and after the feed-forward network (`Houlsby` et al. 2019, arXiv:1902.00751),
    after the latter only (`Pfeiffer` et al. 2020, arXiv:2005.00247), or beside it (`Parallel`, He et al. 2022,
    arXiv:2110.04366)."""
    reduction_factor: Annotated[int, Field(ge=1, le=4096)] = 16
    """reductionFactor is by how much an adapter is narrower than the base model."""
    nonlinearity: Literal["ReLU", "GELU", "SiLU", "Tanh"] = "ReLU"
    """nonlinearity is the function f."""
    scale: Annotated[float, Field(gt=0, le=1024)] = 1.0
    """scale of what is added. He et al. take 4 for `Parallel`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout on the adapter's input, while training."""


class LayerNormTuningMethod(ApiModel):
    """Tuning of layer norms (Zhao et al. 2023, arXiv:2312.11420): their weights, and biases if they have any."""

    target_modules: Modules | None = None
    """targetModules are the names (or the last parts of dotted names) of norms. Default: all."""


class BitFitMethod(ApiModel):
    """BitFit (Ben Zaken et al. 2021, arXiv:2106.10199): the base model's bias vectors. Many decoders have none."""

    target_modules: Modules | None = None
    """targetModules are the names (or the last parts of dotted names) of modules whose bias is trained. Default: all
    that have one."""


class TrainableTokensMethod(ApiModel):
    """Training of the embeddings of some tokens only."""

    tokens: Annotated[list[Token], Field(min_length=1, max_length=4096)]
    """tokens are the texts of single tokens. Those that the vocabulary lacks are added to it, in rows of the embedding
    that no token uses, and begin as the mean of the tokens that their text was made of."""
