"""Cross entropy of the supervised tokens without the logits of all others. Used by the tasks
of language models.

The model's own forward runs, but meanwhile its output head is given the hidden states of supervised positions only.
There are three ways, and a model gets the first that holds for it:

- `Chunked`, for a frozen head: loss and gradient of one chunk of positions after the other, inside the one call of the
  head, where ZeRO has its weight; no more than a chunk's logits exist, and the backward pass needs the head no more.
- `Chosen`, for a head that is trained, or is followed by something unknown: logits of all supervised positions.
- `whole`, for a model without a head that we find: logits of all positions.

What a model does to logits after its head (scaling, soft-capping) is read from its config, and checked in the first
batch against what it returns for a ramp of logits; all ranks find the same.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import cross_entropy, pad

from ..data.types import IGNORED
from .common import prepended

CHUNK_BYTES: Final = {"cpu": 2**25, "cuda": 2**28}
"""Logits in fp32 that exist at once. On a CPU they stay where they are reused; a GPU needs enough rows to be busy."""

Way = Literal["chunked", "chosen", "whole"]
Logits = Callable[[torch.Tensor], torch.Tensor]
_chunks_of: ContextVar[str | None] = ContextVar("chunks_of", default=None)
_ways: WeakKeyDictionary[torch.nn.Module, dict[bool, Way]] = WeakKeyDictionary()
"""What was found to hold for a model whose head is frozen, or is not: with its adapter off, one that is trained is."""


@contextmanager
def chunks_of(device_type: str) -> Iterator[None]:
    """Let chunks be as large as on a kind of device, `cpu` or `cuda`, wherever the tensors are: for planning."""
    token = _chunks_of.set(device_type)
    try:
        yield
    finally:
        _chunks_of.reset(token)


class UnlikeError(Exception):
    """A model that does not do what a way needs."""


def loss_sum(model: Any, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Return the sum of the losses of the supervised tokens, fp32 scalar.

    Args:
        model: From transformers or peft, with logits.
        inputs: What it is called with, first dimensions (rows, length).
        labels: int64 (rows, length), not shifted, `IGNORED` where nothing is learned.
    """
    return token_losses(model, inputs, labels)[0].sum()


def token_losses(
    model: Any, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses of the supervised tokens, fp32 (tokens), and the rows that these are in, int64 (tokens).

    Without any, a loss of zero in the first row. For the arguments see `loss_sum`.
    """
    labels = behind(labels, prepended(model))
    positions, targets = supervised(labels)
    head = model.get_output_embeddings()
    is_frozen = head is None or not any(p.requires_grad for p in head.parameters())
    way = _ways.setdefault(model, {}).get(is_frozen)
    compute = _WAYS[way] if way is not None else _find
    return compute(model, head, inputs, labels, positions, targets), positions // labels.shape[1]


def behind(labels: torch.Tensor, virtual: int) -> torch.Tensor:
    """Return labels (rows, virtual + length) for a model with virtual tokens before its input; they have none.

    Nothing is learned of the input's first token, as without virtual tokens.
    """
    return pad(labels[:, 1:], (virtual + 1, 0), value=IGNORED) if virtual else labels


def supervised(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the flat positions whose next token is supervised, and those tokens, int64 both.

    Without any, position 0 with `IGNORED`: a loss of zero that all of the model is part of.
    """
    following = torch.full_like(labels, IGNORED)
    following[:, :-1] = labels[:, 1:]
    following = following.flatten()
    positions = (following != IGNORED).nonzero().squeeze(1)
    if not len(positions):
        positions = torch.zeros(1, dtype=torch.int64, device=labels.device)
    return positions, following[positions]


def after_head(config: Any) -> Logits:
    """Return what follows the head, by the names that transformers has for it."""
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is not None:
        return lambda logits: torch.tanh(logits / cap) * cap
    divisor, factor = getattr(config, "logits_scaling", None), getattr(config, "logit_scale", None)
    if divisor is not None:
        return lambda logits: logits / divisor
    return (lambda logits: logits * factor) if factor is not None else (lambda logits: logits)


def _with_bias(model: Any, after: Logits) -> Logits:
    """Return what follows the head of BART and its like as well: a bias that is a buffer, all zeros in most."""
    bias = getattr(model, "final_logits_bias", None)
    return after if bias is None else lambda logits: after(logits) + bias


def _find(model: Any, head: Any, *batch: Any) -> torch.Tensor:
    """Compute by the first way that holds, and keep it."""
    is_frozen = head is None or not any(p.requires_grad for p in head.parameters())
    if head is not None:
        for way in ("chunked", "chosen") if is_frozen else ("chosen",):
            try:
                losses = _WAYS[way](model, head, *batch)
            except UnlikeError:
                continue
            _ways[model][is_frozen] = way
            return losses
    _ways[model][is_frozen] = "whole"
    return _whole(model, head, *batch)


def _whole(model: Any, head: Any, inputs: Any, labels: Any, positions: Any, targets: Any) -> torch.Tensor:
    logits = model(**inputs).logits.float()
    return cross_entropy(logits.flatten(0, 1)[positions], targets, ignore_index=IGNORED, reduction="none")


def _chosen(model: Any, head: Any, inputs: Any, labels: Any, positions: Any, targets: Any) -> torch.Tensor:
    def call(original: Logits, hidden: torch.Tensor) -> torch.Tensor:
        is_known = hidden.shape[:2] == labels.shape
        return original(hidden.flatten(0, 1)[positions][None] if is_known else hidden)

    with replaced(head, call):
        logits = model(**inputs).logits
    if logits.shape[:2] != (1, len(positions)):
        raise UnlikeError
    return cross_entropy(logits[0].float(), targets, ignore_index=IGNORED, reduction="none")


def _chunked(model: Any, head: Any, inputs: Any, labels: Any, positions: Any, targets: Any) -> torch.Tensor:
    config = model.config.get_text_config()
    after = _with_bias(model, after_head(config))
    states: list[torch.Tensor] = []
    losses: list[torch.Tensor] = []
    # What the model is given to go on with, and, on the first batch, to show what it does with logits.
    ramp = torch.linspace(-100, 100, config.vocab_size, device=labels.device)[None, None]

    def take(_: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        states.append(inputs[0])
        return (inputs[0].detach(),)

    def call(original: Logits, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[:2] == labels.shape:
            rows = max(1, CHUNK_BYTES[_chunks_of.get() or hidden.device.type] // (4 * config.vocab_size))
            chosen = states[-1].flatten(0, 1)[positions]
            losses.append(ChunkedLoss.apply(chosen, targets, lambda part: after(original(part)), rows))
        return ramp

    # Before ZeRO's hooks: they would wait for a backward pass of the head, which is over when its forward is.
    hook = head.register_forward_pre_hook(take, prepend=True)
    try:
        with replaced(head, call):
            logits = model(**inputs).logits
    finally:
        hook.remove()
    if len(losses) != 1:
        raise UnlikeError
    if "chunked" not in _ways[model].values() and not _are_close(logits, after(ramp)):
        raise UnlikeError
    return losses[0]


def _are_close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-2)


_WAYS: Final = {"chunked": _chunked, "chosen": _chosen, "whole": _whole}


class ChunkedLoss(torch.autograd.Function):
    """Cross entropies, chunk by chunk; the gradient is made with it, so that no logits need be kept."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, logits_of: Logits, rows: int) -> torch.Tensor:
        """Return the losses, fp32 (positions), of hidden states (positions, width) with `rows` of them at once."""
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wants_gradient else None
        losses = torch.empty(len(hidden), device=hidden.device)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            with torch.set_grad_enabled(wants_gradient):
                states = hidden[part].detach().requires_grad_(wants_gradient)
                logits = logits_of(states)
            learned = targets[part, None] != IGNORED
            target = targets[part, None].where(learned, 0)
            scores = torch.log_softmax(logits.detach().float(), -1)
            losses[part] = -scores.gather(1, target).mul(learned)[:, 0]
            if gradient is not None:
                # Of cross entropy: the probabilities, less 1 at the target. In place, since this is most of the memory.
                slope = scores.exp_().scatter_add_(1, target, -learned.float()).mul_(learned)
                (gradient[part],) = torch.autograd.grad(logits, states, slope.to(logits.dtype))
        ctx.gradient = gradient
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Any, None, None, None]:
        """Scale the gradient that there is, in fp32: a rounded factor would bias all of it."""
        gradient, ctx.gradient = ctx.gradient, None
        return gradient.float().mul_(outputs[0][:, None]).to(gradient.dtype), None, None, None


@contextmanager
def replaced(head: Any, call: Callable[[Logits, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Let calls of a module run this instead, which gets what would have run; hooks stay."""
    original = head.forward
    head.forward = lambda hidden: call(original, hidden)
    try:
        yield
    finally:
        del head.forward
