"""Recomputes a block's activations in the backward pass instead of keeping them. Used by `session` and `planning`."""

from typing import Any


def checkpoint_blocks(model: Any) -> None:
    """Turn it on for all blocks of a model from transformers, or of one with a method in it.

    Re-entrant: a block that is computed again is computed to its end, so that ZeRO's hooks are told of it.
    """
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
