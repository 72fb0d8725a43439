"""The bottleneck layer. Put into models by `inject`."""

from collections.abc import Callable
from typing import Final

import torch
from torch import nn
from torch.nn import functional

NONLINEARITIES: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "ReLU": functional.relu,
    "GELU": functional.gelu,
    "SiLU": functional.silu,
    "Tanh": torch.tanh,
}


class Bottleneck(nn.Module):
    """What an adapter adds: scale * up(f(down(x))).

    Houlsby et al. 2019 (arXiv:1902.00751, section 2.1) and He et al. 2022 (arXiv:2110.04366, equation 4). `up` begins
    as zeros, so that the model begins as its base does, which Houlsby et al. ask for up to small numbers.
    """

    def __init__(self, width: int, inner: int, nonlinearity: str, scale: float, dropout: float) -> None:
        """Make an adapter in fp32.

        Args:
            width: Of what goes in and comes out.
            inner: Width of the bottleneck.
            nonlinearity: A key of `NONLINEARITIES`.
            scale: Of what comes out.
            dropout: On what goes in, while training.
        """
        super().__init__()
        self.down = nn.Linear(width, inner, dtype=torch.float32)
        self.up = nn.Linear(inner, width, dtype=torch.float32)
        self.dropout = nn.Dropout(dropout)
        self.nonlinearity = nonlinearity
        self.scale = scale
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what is added, of the shape (..., width) and dtype of what goes in."""
        inner = NONLINEARITIES[self.nonlinearity](self.down(self.dropout(hidden)))
        return (self.scale * self.up(inner)).to(hidden.dtype)
