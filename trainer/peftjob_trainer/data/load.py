"""Loads the splits of a job: fetch, read, check, encode.

Every wrong row is an error that names file and line: see docs/failure-modes.md for what each reason means.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peftjob_api import PeftJobSpec, Reason
from peftjob_api.spec import StorageSpec

from ..exits import TrainerError
from ..storage import fetch_file
from .encode import Encoded, encode_chat, encode_classified, encode_completion, encode_text
from .rows import Row, Source, empty, kind_of, malformed
from .types import IGNORED, Example, Split, Splits

log = logging.getLogger(__name__)

Kind = Literal["text", "completion", "messages", "classified"]
_MAX_SHOWN = 10


@dataclass(frozen=True)
class Layout:
    """What the rows are, and the column of each part: part (a field of `dataset.columns`) -> column."""

    kind: Kind
    columns: dict[str, str]


def load_splits(spec: PeftJobSpec, tokenizer: Any, storage: StorageSpec, work_dir: Path) -> Splits:
    """Return the examples of `spec.dataset`.

    Args:
        spec: Of the job.
        tokenizer: The base model's, from transformers.
        storage: `spec.storage`.
        work_dir: Where remote files are copied to.

    Raises:
        TrainerError: `DATASET_NOT_FOUND`, `DATASET_COLUMN_MISSING`, `DATASET_MALFORMED`, `DATASET_EMPTY`,
            `UNKNOWN_LABEL`, `INVALID_CONFIG` (no chat template), or what the storage service says.
    """
    sources = {}
    for name in ("train", "validation", "test"):
        uri = getattr(spec.dataset, name)
        if uri is not None:
            sources[name] = Source.of(fetch_file(uri, storage, work_dir / name), uri, spec.dataset)
    layout = choose_layout(spec, sources["train"].columns(), sources["train"].uri)
    if layout.kind == "messages" and not getattr(tokenizer, "chat_template", None):
        raise TrainerError(
            Reason.INVALID_CONFIG,
            f"{sources['train'].uri} holds chats (column {layout.columns['messages']!r}), but the tokenizer of "
            f"{spec.base_model.uri} has no chat template: use a model with one (often named -Instruct or -Chat), add "
            f"chat_template.jinja to the model's folder, or use columns prompt and completion",
        )
    labels = _labels(spec, sources["train"], layout) if layout.kind == "classified" else None
    splits = {name: _load(name, source, spec, layout, tokenizer, labels) for name, source in sources.items()}
    return Splits(splits["train"], splits.get("validation"), splits.get("test"), labels, layout.kind == "messages")


def choose_layout(spec: PeftJobSpec, present: list[str], uri: str) -> Layout:
    """Decide what the rows are: by `dataset.columns` where it says so, else by the default names that are there.

    For CausalLM the defaults are tried in the order `messages`, `prompt` with `completion`, `text`.

    Args:
        spec: Of the job.
        present: Names of the columns of the training data.
        uri: Of the training data, for messages.

    Raises:
        TrainerError: `DATASET_COLUMN_MISSING`.
    """
    named = spec.dataset.columns
    if spec.task.type == "SequenceClassification":
        columns = {"text": named.text or "text", "label": named.label or "label"}
        _need(columns, present, uri)
        return Layout("classified", columns)
    kinds: dict[Kind, tuple[str, ...]] = {
        "messages": ("messages",),
        "completion": ("prompt", "completion"),
        "text": ("text",),
    }
    for kind, parts in kinds.items():
        if any(getattr(named, part) for part in parts):
            columns = {part: getattr(named, part) for part in parts}
            _need(columns, present, uri)
            return Layout(kind, columns)
    for kind, parts in kinds.items():
        if set(parts) <= set(present):
            return Layout(kind, {part: part for part in parts})
    raise TrainerError(
        Reason.DATASET_COLUMN_MISSING,
        f"{uri} has the columns {_list(present)}, but none of text, prompt with completion, or messages: name the "
        f"column to learn in spec.dataset.columns.text (or .prompt and .completion, or .messages)",
    )


def _need(columns: dict[str, str], present: list[str], where: str) -> None:
    """Raise unless every column is there."""
    for part, column in columns.items():
        if column not in present:
            raise TrainerError(
                Reason.DATASET_COLUMN_MISSING,
                f"{where} has no column {column!r}, only {_list(present)}: set spec.dataset.columns.{part} to the "
                f"column that holds the {part}",
            )


def _list(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_MAX_SHOWN])
    return (shown or "none") + (f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else "")


def _load(
    name: str, source: Source, spec: PeftJobSpec, layout: Layout, tokenizer: Any, labels: list[str] | None
) -> Split:
    """Return one split."""
    encode = _encoder(spec, layout, tokenizer, labels)
    examples: list[Example] = []
    truncated = dropped = 0
    for row in _checked_rows(source, layout):
        example, cut = encode(row)
        if isinstance(example.labels, tuple) and all(label == IGNORED for label in example.labels[1:]):
            dropped += 1
            continue
        examples.append(example)
        truncated += cut
    if not examples:
        raise empty(source.uri, f"none of its {dropped} rows has a token to learn" if dropped else "it has no rows")
    log.info("%s: %d examples, %d cut to %d tokens, %d without anything to learn left out",
             source.uri, len(examples), truncated, spec.dataset.max_length, dropped)  # fmt: skip
    return Split(name, examples, labels, truncated, dropped)


def _checked_rows(source: Source, layout: Layout) -> Iterator[Row]:
    """Yield rows that have every column that is needed."""
    if source.format != "JSONL":
        _need(layout.columns, source.columns(), source.uri)
    for row in source.rows(list(layout.columns.values())):
        if source.format == "JSONL":
            _need(layout.columns, list(row.values), row.where)
        yield row


def _encoder(spec: PeftJobSpec, layout: Layout, tokenizer: Any, labels: list[str] | None) -> Callable[[Row], Encoded]:
    """Return what makes an example of a row."""
    columns, longest = layout.columns, spec.dataset.max_length
    all_tokens = spec.task.causal_lm is not None and spec.task.causal_lm.loss_on == "AllTokens"
    if layout.kind == "classified":
        assert labels is not None
        indices = {label: index for index, label in enumerate(labels)}
        given = spec.task.sequence_classification is not None and spec.task.sequence_classification.labels is not None

        def classified(row: Row) -> Encoded:
            label = _label(row, columns["label"])
            if label not in indices:
                raise _unknown(row.where, label, labels, given=given)
            return encode_classified(tokenizer, _text(row, columns["text"]), indices[label], longest)

        return classified
    if layout.kind == "messages":
        return lambda row: encode_chat(
            tokenizer,
            _messages(row, columns["messages"], learned=not all_tokens),
            row.where,
            longest,
            all_tokens=all_tokens,
        )
    if layout.kind == "completion":
        return lambda row: encode_completion(
            tokenizer,
            _text(row, columns["prompt"]),
            _text(row, columns["completion"]),
            longest,
            all_tokens=all_tokens,
        )
    return lambda row: encode_text(tokenizer, _text(row, columns["text"]), longest)


def _labels(spec: PeftJobSpec, source: Source, layout: Layout) -> list[str]:
    """Return the class names: the task's, or the sorted distinct labels of the training data (numbers as numbers)."""
    given = spec.task.sequence_classification.labels if spec.task.sequence_classification else None
    if given is not None:
        return list(given)
    found = {_label(row, layout.columns["label"]) for row in _checked_rows(source, layout)}
    if not found:
        raise empty(source.uri)
    if len(found) == 1:
        raise malformed(
            source.uri,
            f"every row has the label {found.pop()!r}: a classifier needs two; add rows of the others, or correct "
            f"spec.dataset.columns.label",
        )
    if all(re.fullmatch("-?[0-9]+", label) for label in found):
        # By name as well: all ranks need one order, also of labels such as 1 and 01.
        return sorted(found, key=lambda label: (int(label), label))
    return sorted(found)


def _unknown(where: str, label: str, labels: list[str], *, given: bool) -> TrainerError:
    known = _list(labels)
    if given:
        fix = f"the labels are {known}: correct the row, or add it to spec.task.sequenceClassification.labels"
    else:
        fix = (
            f"the training data has only {known}: correct the row, or list all labels in "
            f"spec.task.sequenceClassification.labels"
        )
    return TrainerError(Reason.UNKNOWN_LABEL, f"{where}: unknown label {label!r}; {fix}")


def _text(row: Row, column: str) -> str:
    value = row.values[column]
    if not isinstance(value, str):
        raise malformed(row.where, f"column {column!r} holds a JSON {kind_of(value)}, not a string: write a string")
    return value


def _label(row: Row, column: str) -> str:
    """Return a label as a string; numbers 0 and 1 are the labels `0` and `1`."""
    value = row.values[column]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise malformed(
            row.where, f"column {column!r} holds a JSON {kind_of(value)}, no label: write a string or an integer"
        )
    if value == "":
        raise malformed(row.where, f"column {column!r} is empty: write a label")
    return str(value)


def _messages(row: Row, column: str, *, learned: bool) -> list[dict[str, Any]]:
    """Return the messages of a chat, checked."""
    value = row.values[column]
    shape = "write a list of {role, content} objects"
    if not isinstance(value, list) or not value:
        raise malformed(row.where, f"column {column!r} holds a JSON {kind_of(value)}, no list of messages: {shape}")
    for number, message in enumerate(value, start=1):
        for part in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(part), str):
                raise malformed(row.where, f"message {number} of column {column!r} has no string {part!r}: {shape}")
    if learned and not any(message["role"] == "assistant" for message in value):
        raise malformed(
            row.where,
            f"no message of column {column!r} has the role assistant, so there is nothing to learn: add one, or set "
            f"spec.task.causalLM.lossOn to AllTokens",
        )
    return value
