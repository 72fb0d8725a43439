"""Rows of PreferenceOptimisation: a prompt with two answers, of which one is preferred. Chosen by `readers`.

Texts are prompt, chosen and rejected. Chats are lists of messages: whole ones in chosen and rejected, which share their
beginning, or answers only, to a prompt that is a text or messages itself.
"""

from collections.abc import Callable
from typing import Any

from peftjob_api import PeftJobSpec, Reason

from ..exits import TrainerError
from .cells import Layout, columns_for, filled_text_of, messages_of
from .encode import encode_chat, encode_completion
from .rows import Row, Source, malformed
from .text import need_template
from .types import IGNORED, Encoded, Example, Preference

_Messages = list[dict[str, Any]]


def choose_layout(spec: PeftJobSpec, present: list[str], uri: str) -> Layout:
    """Return the columns of both answers, and of the prompt if there is one.

    Raises:
        TrainerError: `DATASET_COLUMN_MISSING`.
    """
    return Layout("preferences", columns_for(spec, present, uri, ("chosen", "rejected"), "prompt"))


def labels_of(spec: PeftJobSpec, source: Source, layout: Layout) -> list[str] | None:
    """Return None: there are no classes."""
    return None


def encoder(
    spec: PeftJobSpec, layout: Layout, tokenizer: Any, labels: list[str] | None, uri: str
) -> Callable[[Row], Encoded]:
    """Return what makes a sample of a row, or None of one whose answers are cut to the same, or to nothing.

    Raises:
        TrainerError: `INVALID_CONFIG`: chats, and a tokenizer without a template.
    """
    columns, longest = layout.columns, spec.dataset.max_length

    def of_chats(row: Row) -> list[tuple[Example, bool]]:
        need_template(spec, tokenizer, columns["chosen"], uri)
        chats = [_chat(row, columns, part) for part in ("chosen", "rejected")]
        shared = _shared(*chats)
        known = sum(message["role"] == "assistant" for message in chats[0][:shared])
        for part, chat in zip(("chosen", "rejected"), chats, strict=True):
            if not any(message["role"] == "assistant" for message in chat[shared:]):
                raise malformed(
                    row.where,
                    f"column {columns[part]!r} has no message of the role assistant after what both chats share: "
                    f"end it with the assistant's answer, or remove the row",
                )
        return [encode_chat(tokenizer, c, row.where, longest, all_tokens=False, known=known) for c in chats]

    def of_texts(row: Row) -> list[tuple[Example, bool]]:
        if "prompt" not in columns:
            raise TrainerError(
                Reason.DATASET_COLUMN_MISSING,
                f"{row.where}: column {columns['chosen']!r} holds a text, and there is no column 'prompt' for what it "
                f"answers: set spec.dataset.columns.prompt, or write whole chats",
            )
        prompt, *answers = (filled_text_of(row, columns[part]) for part in ("prompt", "chosen", "rejected"))
        return [encode_completion(tokenizer, prompt, answer, longest, all_tokens=False) for answer in answers]

    def preferred(row: Row) -> Encoded:
        is_chat = isinstance(row.values[columns["chosen"]], list)
        if row.values[columns["chosen"]] == row.values[columns["rejected"]]:
            raise malformed(
                row.where,
                f"columns {columns['chosen']!r} and {columns['rejected']!r} hold the same: write two answers, or "
                f"remove the row",
            )
        (chosen, *cuts), (rejected, *more) = of_chats(row) if is_chat else of_texts(row)
        if chosen == rejected or not (_is_learned(chosen) and _is_learned(rejected)):
            return None, False
        return Preference(chosen, rejected, is_chat), any((*cuts, *more))

    return preferred


def _chat(row: Row, columns: dict[str, str], part: str) -> _Messages:
    """Return a whole chat: as it is in the row, or, if the assistant begins it, behind the prompt."""
    messages = messages_of(row, columns[part], learned=False)
    if messages[0]["role"] != "assistant" or "prompt" not in columns:
        return messages
    if isinstance(row.values[columns["prompt"]], list):
        return [*messages_of(row, columns["prompt"], learned=False), *messages]
    return [{"role": "user", "content": filled_text_of(row, columns["prompt"])}, *messages]


def _shared(chosen: _Messages, rejected: _Messages) -> int:
    """Return how many first messages two chats share."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))


def _is_learned(example: Example) -> bool:
    """Tell whether a token is learned; the first one has nothing before it to be predicted from."""
    assert isinstance(example.labels, tuple)
    return any(label != IGNORED for label in example.labels[1:])
