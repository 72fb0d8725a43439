"""The examples and where they come from: `spec.dataset`."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from .base import INT32_MAX, ApiModel, Rule
from .forms import ColumnName, Files, files_rules

COLUMNS_OF: Final = {
    "text": ("CausalLM", "SequenceClassification", "TokenClassification"),
    "label": ("SequenceClassification", "ImageClassification"),
    "image": ("ImageClassification",),
    "tokens": ("TokenClassification",),
    "tags": ("TokenClassification",),
    "spans": ("TokenClassification",),
    "source": ("Seq2SeqLM",),
    "target": ("Seq2SeqLM",),
    "prompt": ("CausalLM", "PreferenceOptimisation"),
    "completion": ("CausalLM",),
    "messages": ("CausalLM",),
    "chosen": ("PreferenceOptimisation",),
    "rejected": ("PreferenceOptimisation",),
    "query": ("Ranking",),
    "item": ("Ranking",),
    "negatives": ("Ranking",),
}
"""Part of a row -> the tasks that read it."""


class ColumnsSpec(ApiModel):
    """Which column of the data plays which part. Unset ones are found by their default name."""

    text: ColumnName | None = None
    """text is the column of plain text. Default name: `text`."""
    label: ColumnName | None = None
    """label is the column of the label, for SequenceClassification and ImageClassification. Default name: `label`."""
    image: ColumnName | None = None
    """image is the column of images: paths relative to the file, or in Parquet the bytes of image files, alone or as
    `{bytes, path}`. Default name: `image`."""
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
    """prompt is the column of what comes before the completion, or before chosen and rejected. Default name:
    `prompt`."""
    completion: ColumnName | None = None
    """completion is the column of what is to be learned. Default name: `completion`."""
    messages: ColumnName | None = None
    """messages is the column of a chat: a list of `{role, content}`. Default name: `messages`."""
    chosen: ColumnName | None = None
    """chosen is the column of the preferred answer to the prompt, for PreferenceOptimisation: a text, or messages, of
    the answer or of a whole chat. Default name: `chosen`."""
    rejected: ColumnName | None = None
    """rejected is the column of the other answer, of the same kind. Default name: `rejected`."""
    query: ColumnName | None = None
    """query is the column of what an item is looked for, for Ranking: a text, or a history as a list of texts or
    numbers, the latest last, which become a text with commas between. Default name: `query`."""
    item: ColumnName | None = None
    """item is the column of the item that fits: a text or a number. Default name: `item`."""
    negatives: ColumnName | None = None
    """negatives is the column of a list of items that do not fit, beside those of other rows. Default name:
    `negatives`, if there is one."""

    rules: ClassVar[tuple[Rule, ...]] = (
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


def _fraction_rule(split: str) -> Rule:
    """Return the rule that a split has one origin."""
    return Rule(
        f"!(has(self.{split}) && has(self.{split}Fraction))",
        lambda d: getattr(d, split) is None or getattr(d, f"{split}_fraction") is None,
        f"{split}Fraction takes {split} data from train, and {split} names data of its own: remove one",
        f".{split}Fraction",
    )


class DatasetSpec(ApiModel):
    """The examples."""

    train: Files
    """train says where the training examples are: a file (`s3://BUCKET/KEY`,
    `hf://datasets/OWNER/NAME[@REVISION]/FILE`, `pvc://CLAIM/PATH` or `file:///PATH`), a pattern of files in which `*`
    stands for any part of a name and `**` for any folders, or several of both, separated by spaces or line breaks. The
    files of a pattern are read in the order of their names."""
    validation: Files | None = None
    """validation, as train, is evaluated during training, by which the best step and an early stop are chosen."""
    test: Files | None = None
    """test, as train, is evaluated once, at the end, with the adapter that is published."""
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """validationFraction is the share of the examples of train that is set aside and used as validation data: drawn by
    splitSeed from their number alone, so the same ones on any nodes."""
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """testFraction is the share of the examples of train that is set aside and used as test data."""
    split_seed: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None
    """splitSeed draws what the fractions set aside. Default: 0."""
    max_samples: Annotated[int, Field(ge=1, le=INT32_MAX)] | None = None
    """maxSamples is the number of rows, the first ones, that are read of each of train, validation and test. For a
    trial run; default: all."""
    format: Literal["Auto", "JSONL", "CSV", "Parquet", "ImageFolder"] = "Auto"
    """format of the files. `Auto` goes by the ending: .jsonl, .csv or .parquet. `ImageFolder` means that train,
    validation and test name folders, with a sub-folder of images for each label, for ImageClassification."""
    on_bad_row: Literal["Fail", "Skip"] = "Fail"
    """onBadRow says what is done with a row that cannot be read or used: `Fail` ends the job and names the row, `Skip`
    leaves it out, counted in status.data. Data without any good row fails all the same."""
    columns: ColumnsSpec = ColumnsSpec()
    """columns maps the data's columns to their parts."""
    max_length: Annotated[int, Field(ge=4, le=1048576)] = 1024
    """maxLength is the number of tokens after which an example is cut; never more than the model takes."""
    packing: bool = False
    """packing puts several examples into one row of maxLength tokens, each with positions and attention of its own,
    so that nothing is computed for padding. For CausalLM; the loss is that of the unpacked examples."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *files_rules("train", required=True),
        *files_rules("validation"),
        *files_rules("test"),
        _fraction_rule("validation"),
        _fraction_rule("test"),
        Rule(
            "!has(self.splitSeed) || has(self.validationFraction) || has(self.testFraction)",
            lambda d: d.split_seed is None or d.validation_fraction is not None or d.test_fraction is not None,
            "splitSeed draws what the fractions set aside: set validationFraction or testFraction, or remove it",
            ".splitSeed",
        ),
        Rule(
            "self.format != 'ImageFolder' || !(has(self.columns.image) || has(self.columns.label))",
            lambda d: d.format != "ImageFolder" or (d.columns.image is None and d.columns.label is None),
            "columns have no meaning with format ImageFolder, whose labels are the names of folders: remove them",
            ".columns",
        ),
    )

    def files(self, split: str) -> list[str]:
        """Return the uris and patterns of the files of `train`, `validation` or `test`, in order."""
        uris: list[str] = (getattr(self, split) or "").split()
        return [f"{uri.rstrip('/')}/**" for uri in uris] if self.format == "ImageFolder" else uris

    @property
    def has_validation(self) -> bool:
        """Whether there is validation data."""
        return self.validation is not None or self.validation_fraction is not None

    @property
    def has_test(self) -> bool:
        """Whether there is test data."""
        return self.test is not None or self.test_fraction is not None
