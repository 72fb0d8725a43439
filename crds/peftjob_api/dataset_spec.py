"""The examples and where they come from: `spec.dataset`."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from .base import ApiModel, Rule
from .forms import ColumnName, Uri, uri_rules

COLUMNS_OF: Final = {
    "text": ("CausalLM", "SequenceClassification", "TokenClassification"),
    "label": ("SequenceClassification",),
    "tokens": ("TokenClassification",),
    "tags": ("TokenClassification",),
    "spans": ("TokenClassification",),
    "source": ("Seq2SeqLM",),
    "target": ("Seq2SeqLM",),
    "prompt": ("CausalLM",),
    "completion": ("CausalLM",),
    "messages": ("CausalLM",),
}
"""Part of a row -> the tasks that read it."""


class ColumnsSpec(ApiModel):
    """Which column of the data plays which part. Unset ones are found by their default name."""

    text: ColumnName | None = None
    """text is the column of plain text. Default name: `text`."""
    label: ColumnName | None = None
    """label is the column of the label, for SequenceClassification. Default name: `label`."""
    tokens: ColumnName | None = None
    """tokens is the column of a text's words, a list, for TokenClassification. Default name: `tokens`."""
    tags: ColumnName | None = None
    """tags is the column of a list of tags, one for each of the tokens. Default name: `tags`."""
    spans: ColumnName | None = None
    """spans is the column of a list of `{start, end, label}`, in characters of the text, for TokenClassification.
    Default name: `spans`."""
    source: ColumnName | None = None
    """source is the column of the text that goes in, for Seq2SeqLM. Default name: `source`."""
    target: ColumnName | None = None
    """target is the column of the text that is to come out, for Seq2SeqLM. Default name: `target`."""
    prompt: ColumnName | None = None
    """prompt is the column of what comes before the completion. Default name: `prompt`."""
    completion: ColumnName | None = None
    """completion is the column of what is to be learned. Default name: `completion`."""
    messages: ColumnName | None = None
    """messages is the column of a chat: a list of `{role, content}`. Default name: `messages`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.prompt) == has(self.completion)",
            lambda c: (c.prompt is None) == (c.completion is None),
            "prompt and completion belong together: set both or none",
            ".prompt",
        ),
        Rule(
            "[has(self.text), has(self.prompt), has(self.messages)].filter(x, x).size() <= 1",
            lambda c: sum(x is not None for x in (c.text, c.prompt, c.messages)) <= 1,
            "columns name more than one kind of example: use one of text, prompt with completion, or messages",
        ),
        Rule(
            "!(has(self.tokens) || has(self.tags)) || !(has(self.text) || has(self.spans))",
            lambda c: (c.tokens is None and c.tags is None) or (c.text is None and c.spans is None),
            "columns name more than one kind of example: use tokens with tags, or text with spans",
        ),
    )


def _format_rule(field: str, *, optional: bool = False) -> Rule:
    """Return the rule that a file's format is known, by its ending or by the field `format`."""

    def holds(dataset: Any) -> bool:
        uri = getattr(dataset, field)
        return dataset.format != "Auto" or uri is None or uri.endswith((".jsonl", ".csv", ".parquet"))

    cel = f"self.format != 'Auto' || self.{field}.matches('[.](jsonl|csv|parquet)$')"
    return Rule(
        f"!has(self.{field}) || {cel}" if optional else cel,
        holds,
        f"{field} does not end in .jsonl, .csv or .parquet: set dataset.format to JSONL, CSV or Parquet",
        f".{field}",
    )


class DatasetSpec(ApiModel):
    """The examples."""

    train: Uri
    """train is the file of training examples: `s3://BUCKET/KEY`, `hf://datasets/OWNER/NAME[@REVISION]/FILE`,
    `pvc://CLAIM/PATH` or `file:///PATH`."""
    validation: Uri | None = None
    """validation is the file evaluated during training, by which the best step and an early stop are chosen."""
    test: Uri | None = None
    """test is the file evaluated once, at the end, with the adapter that is published."""
    format: Literal["Auto", "JSONL", "CSV", "Parquet"] = "Auto"
    """format of the files. `Auto` goes by the ending: .jsonl, .csv or .parquet."""
    columns: ColumnsSpec = ColumnsSpec()
    """columns maps the data's columns to their parts."""
    max_length: Annotated[int, Field(ge=4, le=1048576)] = 1024
    """maxLength is the number of tokens after which an example is cut; never more than the model takes."""
    packing: bool = False
    """packing puts several examples into one row of maxLength tokens, each with positions and attention of its own,
    so that nothing is computed for padding. For CausalLM; the loss is that of the unpacked examples."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *uri_rules("file", "train", required=True),
        *uri_rules("file", "validation"),
        *uri_rules("file", "test"),
        _format_rule("train"),
        _format_rule("validation", optional=True),
        _format_rule("test", optional=True),
    )
