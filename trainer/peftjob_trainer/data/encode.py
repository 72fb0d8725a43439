"""From one row to one example: tokenise, say which tokens are learned, cut to the maximal length.

Used by `load`; pure but for the tokenizer. Two rules hold for every kind of example:

* The tokens of a prompt are those that the tokenizer gives for the prompt alone, as at inference; nothing is put
  between prompt and completion.
* What is cut is chosen so that learning loses least: the window of `maxLength` tokens with the most learned ones in
  it, the first of equals. So plain text loses its end, and a long prompt its beginning while the completion stays whole
  as long as it fits; a beginning-of-sequence token is kept in front. No example is dropped for its length.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from jinja2 import TemplateError
from peftjob_api import Reason

from ..exits import TrainerError
from .chat import render_spans
from .rows import malformed
from .types import IGNORED, Example, SourceTarget

Cut = tuple[Example, bool]
"""An example, and whether it was cut."""


def encode_classified(tokenizer: Any, text: str, label: int | float | tuple[int, ...], max_length: int) -> Cut:
    """Return the example of a text and its class, classes or number.

    Special tokens stay where the tokenizer puts them when it cuts.
    """
    ids = tokenizer(text, verbose=False)["input_ids"]
    cut = len(ids) > max_length
    if cut:
        ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    return Example(tuple(ids), label), cut


class Mark(NamedTuple):
    """A part of a text, and what its tokens are labelled with."""

    begin: int
    """In characters."""
    end: int
    first: int
    """Of its first token."""
    rest: int
    """Of the others."""


def encode_marked(tokenizer: Any, text: str, marks: Sequence[Mark], outside: int, max_length: int) -> Cut:
    """Return the example of a text with labelled parts.

    Args:
        tokenizer: A fast one.
        text: Whose end is lost when it is cut.
        marks: In order, none overlaps another. A token in two of them is the first one's.
        outside: Label of tokens in no part; special ones are never learned.
        max_length: In tokens.
    """
    encoded = tokenizer(text, truncation=True, max_length=max_length, return_offsets_mapping=True)
    labels = []
    at, is_first = 0, True
    for begin, end in encoded["offset_mapping"]:
        while at < len(marks) and marks[at].end <= begin:
            at, is_first = at + 1, True
        if begin == end:
            labels.append(IGNORED)
        elif at < len(marks) and end > marks[at].begin:
            labels.append(marks[at].first if is_first else marks[at].rest)
            is_first = False
        else:
            labels.append(outside)
    ids = encoded["input_ids"]
    is_cut = len(ids) == max_length and len(tokenizer(text, verbose=False)["input_ids"]) > max_length
    return Example(tuple(ids), tuple(labels)), is_cut


def encode_source_target(tokenizer: Any, source: str, target: str, max_length: int) -> tuple[SourceTarget, bool]:
    """Return a source and its target, each of at most `max_length` tokens, and whether either was cut.

    Special tokens stay where the tokenizer puts them; a target that it does not end gets the end-of-sequence token,
    unless it is cut.
    """
    sources, targets = tokenizer(source, verbose=False), tokenizer(text_target=target, verbose=False)
    cut = [len(each["input_ids"]) > max_length for each in (sources, targets)]
    if cut[0]:
        sources = tokenizer(source, truncation=True, max_length=max_length)
    if cut[1]:
        targets = tokenizer(text_target=target, truncation=True, max_length=max_length)
    ids, eos = list(targets["input_ids"]), tokenizer.eos_token_id
    if eos is not None and eos not in ids and len(ids) < max_length:
        ids.append(eos)
    return SourceTarget(tuple(sources["input_ids"]), tuple(ids), target), any(cut)


def encode_text(tokenizer: Any, text: str, max_length: int) -> Cut:
    """Return the example of a plain text, learned whole, with the end-of-sequence token (unless it is cut)."""
    ids = tokenizer(text, verbose=False)["input_ids"] if text else []
    eos = tokenizer.eos_token_id
    if ids and eos is not None and ids[-1] != eos:
        ids = [*ids, eos]
    return cut(ids, list(ids), max_length, tokenizer.bos_token_id)


def encode_completion(tokenizer: Any, prompt: str, completion: str, max_length: int, *, all_tokens: bool) -> Cut:
    """Return the example of a prompt and its completion with the end-of-sequence token."""
    eos = tokenizer.eos_token_id
    head = list(tokenizer(prompt, verbose=False)["input_ids"])
    if head and eos is not None and head[-1] == eos and tokenizer.bos_token_id != eos:
        head.pop()  # some tokenizers end every text
    # Of the text as a whole, where it starts with the prompt's own tokens: some tokenizers would begin a completion by
    # itself with a space that is not there. Else, where a token would span the border, each by itself.
    whole = list(tokenizer(prompt + completion, verbose=False)["input_ids"])
    if whole and eos is not None and whole[-1] == eos and len(whole) > len(head):
        whole.pop()
    if whole[: len(head)] == head:
        tail = whole[len(head) :]
    else:
        tail = list(tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"])
    if eos is not None:
        tail.append(eos)
    ids = head + tail
    labels = list(ids) if all_tokens else [IGNORED] * len(head) + tail
    return cut(ids, labels, max_length, tokenizer.bos_token_id)


def encode_chat(
    tokenizer: Any, messages: list[dict[str, Any]], where: str, max_length: int, *, all_tokens: bool, known: int = 0
) -> Cut:
    """Return the example of a chat as the tokenizer's template renders it, learned in the assistant's turns.

    Of these, so many first ones are known already, and not learned.
    """
    try:
        text, spans = render_spans(tokenizer, messages)
    except TemplateError as error:
        raise malformed(where, f"the tokenizer's chat template refuses these messages: {error.message}") from error
    except ValueError as error:
        raise TrainerError(Reason.INVALID_CONFIG, f"{where}: {error}") from error
    spans = spans[known:]
    ids: list[int] = []
    labels: list[int] = []
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids = list(encoded["input_ids"])
        learned = _in_spans(encoded["offset_mapping"], spans)
        labels = [i if yes else IGNORED for i, yes in zip(ids, learned, strict=True)]
    else:
        # No offsets: each piece by itself.
        borders = [0, *(b for span in spans for b in span), len(text)]
        for number, (begin, end) in enumerate(pairwise(borders)):
            piece = tokenizer(text[begin:end], add_special_tokens=False, verbose=False)["input_ids"]
            ids += piece
            labels += piece if number % 2 else [IGNORED] * len(piece)
    if all_tokens:
        labels = list(ids)
    return cut(ids, labels, max_length, tokenizer.bos_token_id)


def _in_spans(offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[bool]:
    """Tell of each token whether it has a character in a span; both are in order."""
    learned = []
    at = 0
    for begin, end in offsets:
        while at < len(spans) and spans[at][1] <= begin:
            at += 1
        learned.append(at < len(spans) and begin < end and end > spans[at][0])
    return learned


def cut(ids: list[int], labels: list[int], max_length: int, bos: int | None) -> Cut:
    """Return the window of at most `max_length` tokens that keeps the most learned ones, the first of equals.

    The first token of a window has nothing before it, so it is not counted: what is learned is told from what precedes.
    """
    if len(ids) <= max_length:
        return Example(tuple(ids), tuple(labels)), False
    counts = [0, *accumulate(int(label != IGNORED) for label in labels)]

    def gain(start: int) -> int:
        return counts[min(start + max_length - kept(start), len(ids))] - counts[start + 1]

    def kept(start: int) -> int:
        return int(start > 0 and bos is not None and ids[0] == bos)

    start = _first_best(gain, len(ids) - max_length + 1 + kept(len(ids)))
    front = ids[:1] if kept(start) else []
    end = start + max_length - len(front)
    # After a cut, the first token follows on something else than it did.
    window = [IGNORED, *labels[start + 1 : end]] if start else labels[:end]
    return Example(tuple(front + ids[start:end]), tuple([IGNORED] * len(front) + window)), True


def _first_best(gain: Callable[[int], int], candidates: int) -> int:
    """Return the first of 0 .. candidates - 1 with the highest gain."""
    return max(range(candidates), key=lambda start: (gain(start), -start))
