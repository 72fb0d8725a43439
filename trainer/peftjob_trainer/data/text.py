"""Rows of CausalLM: plain text, prompts with completions, or chats. Chosen by `readers`."""

from collections.abc import Callable
from typing import Any

from peftjob_api import PeftJobSpec, Reason

from ..exits import TrainerError
from .cells import Layout, listed, messages_of, need, text_of
from .encode import encode_chat, encode_completion, encode_text
from .rows import Row, Source
from .types import IGNORED, Encoded, Example

_KINDS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "text": ("text",),
}


def choose_layout(spec: PeftJobSpec, present: list[str], uri: str) -> Layout:
    """Decide what the rows are: by `dataset.columns` where it says so, else by the default names that are there.

    The defaults are tried in the order `messages`, `prompt` with `completion`, `text`.

    Args:
        spec: Of the job.
        present: Names of the columns of the training data.
        uri: Of the training data, for messages.

    Raises:
        TrainerError: `DATASET_COLUMN_MISSING`, or `INVALID_CONFIG`: plain text, and the model is to write answers.
    """
    named = spec.dataset.columns
    for kind, parts in _KINDS.items():
        if any(getattr(named, part) for part in parts):
            columns = {part: getattr(named, part) for part in parts}
            need(columns, present, uri)
            return _checked(spec, Layout(kind, columns), uri)
    for kind, parts in _KINDS.items():
        if set(parts) <= set(present):
            return _checked(spec, Layout(kind, {part: part for part in parts}), uri)
    raise TrainerError(
        Reason.DATASET_COLUMN_MISSING,
        f"{uri} has the columns {listed(present)}, but none of text, prompt with completion, or messages: name the "
        f"column to learn in spec.dataset.columns.text (or .prompt and .completion, or .messages)",
    )


def _checked(spec: PeftJobSpec, layout: Layout, uri: str) -> Layout:
    evaluation = spec.training.evaluation
    if layout.kind == "text" and evaluation is not None and evaluation.generate is not None:
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"spec.training.evaluation.generate needs prompts to write answers to, and {uri} holds plain text: use "
            f"columns prompt and completion, or messages, or remove generate",
        )
    return layout


def labels_of(spec: PeftJobSpec, source: Source, layout: Layout) -> list[str] | None:
    """Return None: there are no classes."""
    return None


def encoder(
    spec: PeftJobSpec, layout: Layout, tokenizer: Any, labels: list[str] | None, uri: str
) -> Callable[[Row], Encoded]:
    """Return what makes an example of a row, or None of one in which no token is learned.

    Raises:
        TrainerError: `INVALID_CONFIG`: chats, and a tokenizer without a template.
    """
    columns, longest = layout.columns, spec.dataset.max_length
    all_tokens = spec.task.causal_lm is not None and spec.task.causal_lm.loss_on == "AllTokens"
    if layout.kind == "messages":
        need_template(spec, tokenizer, columns["messages"], uri)

    def encode(row: Row) -> tuple[Example, bool]:
        if layout.kind == "messages":
            messages = messages_of(row, columns["messages"], learned=not all_tokens)
            return encode_chat(tokenizer, messages, row.where, longest, all_tokens=all_tokens)
        if layout.kind == "completion":
            prompt, completion = text_of(row, columns["prompt"]), text_of(row, columns["completion"])
            return encode_completion(tokenizer, prompt, completion, longest, all_tokens=all_tokens)
        return encode_text(tokenizer, text_of(row, columns["text"]), longest)

    def learned(row: Row) -> Encoded:
        example, cut = encode(row)
        assert isinstance(example.labels, tuple)
        return (None, False) if all(label == IGNORED for label in example.labels[1:]) else (example, cut)

    return learned


def need_template(spec: PeftJobSpec, tokenizer: Any, column: str, uri: str) -> None:
    """Raise unless the tokenizer can render chats.

    Raises:
        TrainerError: `INVALID_CONFIG`.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"{uri} holds chats (column {column!r}), but the tokenizer of {spec.base_model.uri} has no chat template: "
            f"use a model with one (often named -Instruct or -Chat), add chat_template.jinja to the model's folder, or "
            f"use columns of texts, such as prompt and completion",
        )
