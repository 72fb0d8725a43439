"""Training the embeddings of some tokens, in the layout of peft, whose layer computes what the base's tables give."""

from pathlib import Path
from typing import Any, Final

import torch
from peft import TrainableTokensConfig
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peftjob_api import PeftJobSpec, Reason
from peftjob_api.adapter_methods import TrainableTokensMethod
from torch.nn.functional import linear
from transformers import AutoConfig

from ..exits import TrainerError
from ..sharding import Values, base_name
from .common import Method, task_type

_PIECES: Final = "peftjob_pieces"
"""Attribute of a tokenizer: token that was added -> ids of the tokens that its text was made of before."""


class TokenRows(TrainableTokensLayer):
    """Looks up, or multiplies by, the base's table, and puts the trained rows' results in their places.

    peft's own forward pass makes a copy of the whole table with the rows in it, and its gradient; and it reads the
    base's weight from outside of the module that ZeRO gathers it for.
    """

    def forward_adapters(self, x: torch.Tensor, active_adapters: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return embeddings of int64 ids (..., width), or logits of hidden states (..., vocabulary)."""
        found: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or not active_adapters:
            return found
        (adapter,) = active_adapters
        rows = self.trainable_tokens_delta[adapter]
        tokens = torch.tensor(self.token_indices[adapter], device=x.device)
        if not isinstance(self.base_layer, torch.nn.Embedding):
            return found.index_copy(-1, tokens, linear(x, rows).to(found.dtype))
        places = torch.full((self.base_layer.num_embeddings,), -1, device=x.device)
        places[tokens] = torch.arange(len(tokens), device=x.device)
        place = places[x]
        own = rows[place.clamp(min=0)] * getattr(self.base_layer, "scalar_embed_scale", 1.0)
        return torch.where((place >= 0)[..., None], own.to(found.dtype), found)


class TrainableTokens(Method):
    """See there for the interface."""

    def config(self, model: Any) -> TrainableTokensConfig:
        """Return peft's config; on paper, where there is no tokenizer, as many tokens as there will be."""
        tokens = _tokens(self.spec)
        ids = [self.tokenizer(t, add_special_tokens=False).input_ids[0] for t in tokens] if self.tokenizer else None
        return TrainableTokensConfig(
            token_indices=ids or list(range(len(tokens))),
            task_type=task_type(self.spec),
        )

    def inject(self, model: Any) -> Any:
        """See `Method`."""
        adapted = super().inject(model)
        for layer in _layers(adapted):
            layer.__class__ = TokenRows
        return adapted

    def initialise(self, model: Any, values: Values) -> None:
        """Set the rows to what the base has there, and those of added tokens to the mean of their text's tokens."""
        layer = _layers(model)[0]
        name = base_name(layer.base_layer.weight)
        ids, added = layer.token_indices["default"], getattr(self.tokenizer, _PIECES, {})
        rows = values.rows(name, ids, torch.float32)
        for token, pieces in added.items():
            at = ids.index(self.tokenizer.convert_tokens_to_ids(token))
            rows[at] = values.rows(name, pieces, torch.float32).mean(0)
        own = layer.trainable_tokens_delta["default"]
        own.data = rows.to(own.device)
        layer.trainable_tokens_original["default"] = rows.to(own.device)


def add_tokens(spec: PeftJobSpec, tokenizer: Any, folder: Path) -> None:
    """Add the tokens to the tokenizer that its vocabulary lacks; for another method do nothing.

    Args:
        spec: Of the job.
        tokenizer: Of the base model; the same tokens are added on all ranks, in the same order.
        folder: Of the base model.

    Raises:
        TrainerError: `INVALID_CONFIG`: a token twice, or no row is left for one.
    """
    if spec.method.type != "TrainableTokens":
        return
    rows = AutoConfig.from_pretrained(folder).get_text_config().vocab_size
    field, pieces = "spec.method.trainableTokens.tokens", {}
    for token in _tokens(spec):
        ids = tokenizer(token, add_special_tokens=False).input_ids
        if len(ids) != 1:
            pieces[token] = ids
    if len(tokenizer) + len(pieces) > rows:
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"{field}: {', '.join(map(repr, list(pieces)[:10]))} are no single tokens, and the base's embedding of "
            f"{rows} rows has room for {max(0, rows - len(tokenizer))} more tokens: name tokens of its vocabulary, or "
            f"use a base model with a larger embedding",
        )
    tokenizer.add_tokens(list(pieces))
    setattr(tokenizer, _PIECES, pieces)
    ids = [tokenizer(token, add_special_tokens=False).input_ids[0] for token in _tokens(spec)]
    twice = [token for token, at in zip(_tokens(spec), ids, strict=True) if ids.count(at) > 1]
    if twice:
        raise TrainerError(
            Reason.INVALID_CONFIG, f"{field} names one token more than once: remove one of {', '.join(twice)}"
        )


def _tokens(spec: PeftJobSpec) -> list[str]:
    settings = spec.method.settings
    assert isinstance(settings, TrainableTokensMethod)
    return settings.tokens


def _layers(model: Any) -> list[Any]:
    """Return the input embedding's layer, and after it that of an output head that is tied to it."""
    found = [module for module in model.modules() if isinstance(module, TrainableTokensLayer)]
    return sorted(found, key=lambda layer: layer.tied_adapter is not None)
