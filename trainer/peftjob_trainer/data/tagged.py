"""Rows of TokenClassification: words with a tag each, or a text with spans. Chosen by `readers`."""

from collections.abc import Callable, Iterable
from typing import Any

from peftjob_api import PeftJobSpec, Reason

from ..exits import TrainerError
from .cells import Layout, filled_text_of, listed, need, read_rows, spans_of, strings_in
from .classified import in_order, unknown_label
from .encode import Mark, encode_marked
from .rows import Row, Source, empty, malformed
from .types import IGNORED, Encoded

_KINDS: dict[str, tuple[str, ...]] = {"tagged": ("tokens", "tags"), "spans": ("text", "spans")}


def choose_layout(spec: PeftJobSpec, present: list[str], uri: str) -> Layout:
    """Decide what the rows are: by `dataset.columns` where it says so, else by the default names that are there.

    Raises:
        TrainerError: `DATASET_COLUMN_MISSING`, or `INVALID_CONFIG`: spans in another scheme than BIO.
    """
    named = spec.dataset.columns
    chosen = next((kind for kind, parts in _KINDS.items() if any(getattr(named, part) for part in parts)), None)
    chosen = chosen or next((kind for kind, parts in _KINDS.items() if set(parts) <= set(present)), None)
    if chosen is None:
        raise TrainerError(
            Reason.DATASET_COLUMN_MISSING,
            f"{uri} has the columns {listed(present)}, but neither tokens with tags nor text with spans: name them in "
            f"spec.dataset.columns.tokens and .tags, or .text and .spans",
        )
    columns = {part: getattr(named, part) or part for part in _KINDS[chosen]}
    need(columns, present, uri)
    if chosen == "spans" and not _is_bio(spec):
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"{uri} holds texts with spans, of which Plain tags cannot be made: set "
            f"spec.task.tokenClassification.scheme to BIO",
        )
    return Layout(chosen, columns)


def labels_of(spec: PeftJobSpec, source: Source, layout: Layout) -> list[str] | None:
    """Return the tags, in the order of the outputs, of the task's labels or those of the training data.

    Of BIO they are `O`, and `B-` and `I-` of each label.

    Raises:
        TrainerError: `DATASET_EMPTY`, or `DATASET_MALFORMED`: there is nothing to tell apart.
    """
    labels = spec.task.labels
    if labels is None:
        found: set[str] = set()
        for shown in read_rows(source, layout, lambda row: _labels(spec, row, layout)):
            found.update(shown)
        if len(found) < (1 if _is_bio(spec) else 2):
            raise empty(source.uri, "none of its rows has a label" if _is_bio(spec) else "it has less than two tags")
        labels = in_order(found)
    return ["O", *(tag for label in labels for tag in (f"B-{label}", f"I-{label}"))] if _is_bio(spec) else list(labels)


def encoder(
    spec: PeftJobSpec, layout: Layout, tokenizer: Any, labels: list[str] | None, uri: str
) -> Callable[[Row], Encoded]:
    """Return what makes an example of a row, or None of one of which no token is left with a tag.

    A word's tag is learned at its first token; in a span each token is learned, and outside of spans that it is `O`.

    Raises:
        TrainerError: `INVALID_CONFIG`: a tokenizer that does not tell where its tokens are in the text.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"the tokenizer of {spec.base_model.uri} does not tell where in a text its tokens are, which "
            f"TokenClassification needs: use a base model with a tokenizer.json",
        )
    indices = {tag: index for index, tag in enumerate(labels or [])}
    known = [tag[2:] for tag in indices if tag.startswith("B-")] if _is_bio(spec) else list(indices)

    def index_of(row: Row, tag: str) -> int:
        if tag not in indices:
            raise unknown_label(spec, row.where, tag[2:] if _is_bio(spec) else tag, known)
        return indices[tag]

    def read(row: Row) -> tuple[str, list[Mark]]:
        if layout.kind == "spans":
            text = filled_text_of(row, layout.columns["text"])
            return text, [
                Mark(begin, end, index_of(row, f"B-{label}"), index_of(row, f"I-{label}"))
                for begin, end, label in spans_of(row, layout.columns["spans"], text)
            ]
        words, marks, begin = strings_in(row, layout.columns["tokens"], "words"), [], 0
        for word, tag in zip(words, _tags(spec, row, layout, len(words)), strict=True):
            marks.append(Mark(begin, begin + len(word), index_of(row, tag), IGNORED))
            begin += len(word) + 1
        return " ".join(words), marks

    outside = 0 if layout.kind == "spans" else IGNORED

    def tagged(row: Row) -> Encoded:
        text, marks = read(row)
        example, cut = encode_marked(tokenizer, text, marks, outside, spec.dataset.max_length)
        assert isinstance(example.labels, tuple)
        return (None, False) if all(label == IGNORED for label in example.labels) else (example, cut)

    return tagged


def _labels(spec: PeftJobSpec, row: Row, layout: Layout) -> Iterable[str]:
    """Return the labels that a row shows."""
    if layout.kind == "spans":
        text = filled_text_of(row, layout.columns["text"])
        return [label for _, _, label in spans_of(row, layout.columns["spans"], text)]
    tags = _tags(spec, row, layout, None)
    return (tag[2:] for tag in tags if tag != "O") if _is_bio(spec) else tags


def _tags(spec: PeftJobSpec, row: Row, layout: Layout, words: int | None) -> list[str]:
    """Return the tags of a row, as many as it has words if their number is given."""
    column = layout.columns["tags"]
    tags = strings_in(row, column, "tags")
    if words is not None and len(tags) != words:
        raise malformed(
            row.where,
            f"column {column!r} has {len(tags)} tags for {words} words of column {layout.columns['tokens']!r}: write "
            f"one tag for each word",
        )
    if not tags:
        raise malformed(row.where, f"column {column!r} is empty: write a tag for each word, or remove the row")
    wrong = next((tag for tag in tags if tag != "O" and not (tag[:2] in ("B-", "I-") and tag[2:])), None)
    if wrong is not None and _is_bio(spec):
        raise malformed(
            row.where,
            f"column {column!r} has the tag {wrong!r}, none of O, B-LABEL and I-LABEL: correct it, or set "
            f"spec.task.tokenClassification.scheme to Plain if each word has a label of its own",
        )
    return tags


def _is_bio(spec: PeftJobSpec) -> bool:
    return spec.task.token_classification is None or spec.task.token_classification.scheme == "BIO"
