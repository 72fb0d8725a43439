"""Which characters of a rendered chat the assistant said.

Used by `encode`. Chat templates are programs: they add headers, strip spaces, drop earlier thoughts. Instead of
asking that a template marks the assistant's turns (few do), each turn is found in the rendered text itself.
"""

from typing import Any

from jinja2 import TemplateError

_MARK = "\u241epeftjob\u241e"
"""Stands for a message's content; in no real text, and without anything that templates strip."""


def render_spans(tokenizer: Any, messages: list[dict[str, Any]]) -> tuple[str, list[tuple[int, int]]]:
    """Return a chat's text, and the assistant's turns in it as (begin, end) in characters, in order.

    A turn begins after what the template puts in front of an answer (the generation prompt) and includes what ends it.

    Raises:
        jinja2.TemplateError: The template refuses the messages.
        ValueError: A turn cannot be found, since the template does not show its content.
    """
    text = _render(tokenizer, messages)
    spans: list[tuple[int, int]] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            span = _by_prefix(tokenizer, messages, number, text) or _by_mark(tokenizer, messages, number, text)
            if span is None or (spans and span[0] < spans[-1][1]):
                raise ValueError(
                    f"message {number + 1} (assistant) cannot be found in what the tokenizer's chat template makes of "
                    f"the chat: use a model with another template, or columns prompt and completion"
                )
            spans.append(span)
    return text, spans


def _render(tokenizer: Any, messages: list[dict[str, Any]], *, prompt: bool = False) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))


def _by_prefix(tokenizer: Any, messages: list[dict[str, Any]], number: int, text: str) -> tuple[int, int] | None:
    """Find a turn as what is added to the chat before it, if the template renders a chat's beginning as it is alone."""
    if number == 0:
        return None  # many templates refuse an empty chat
    try:
        before = _render(tokenizer, messages[:number], prompt=True)
        after = _render(tokenizer, messages[: number + 1])
    except TemplateError:
        return None  # some refuse a part of a chat, such as one that the user has not spoken in yet
    if text.startswith(after) and after.startswith(before) and len(after) > len(before):
        return len(before), len(after)
    return None


def _by_mark(tokenizer: Any, messages: list[dict[str, Any]], number: int, text: str) -> tuple[int, int] | None:
    """Find a turn by what changes when its content does, and add what ends it."""
    marked = [*messages[:number], {**messages[number], "content": _MARK}, *messages[number + 1 :]]
    before, found, after = _render(tokenizer, marked).partition(_MARK)
    if not found or not text.startswith(before) or not text.endswith(after) or len(before) + len(after) > len(text):
        return None
    try:
        _, _, ending = _render(tokenizer, marked[: number + 1]).partition(_MARK)
    except TemplateError:
        ending = ""
    begin, end = len(before), len(text) - len(after)
    while ending and not after.startswith(ending):
        ending = ending[:-1]
    return begin, end + len(ending)
