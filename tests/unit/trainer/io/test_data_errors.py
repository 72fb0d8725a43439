"""Each way in which data can be wrong: the reason, the file and line, and what to do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from peftjob_api import PeftJobSpec, Reason
from peftjob_api.spec import StorageSpec
from peftjob_testkit.rows import classified, lines, marked, parquet, span, tagged
from peftjob_trainer.data import load_splits
from peftjob_trainer.exits import TrainerError

CLASSIFY: dict[str, Any] = {"type": "SequenceClassification"}
SEVERAL: dict[str, Any] = {**CLASSIFY, "sequenceClassification": {"problem": "MultiLabel"}}
NUMBER: dict[str, Any] = {**CLASSIFY, "sequenceClassification": {"problem": "Regression"}}
TAG: dict[str, Any] = {"type": "TokenClassification"}
TRANSLATE: dict[str, Any] = {"type": "Seq2SeqLM"}
PLAIN: dict[str, Any] = {**TAG, "tokenClassification": {"scheme": "Plain"}}
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@dataclass(frozen=True)
class Case:
    """Files of a data set, and what is said about them."""

    id: str
    files: dict[str, bytes]
    want: Reason
    want_in_message: tuple[str, ...]
    task: dict[str, Any] = field(default_factory=lambda: {"type": "CausalLM"})
    columns: dict[str, str] = field(default_factory=dict)
    template: str | None = None
    training: dict[str, Any] = field(default_factory=dict)


GOOD = (classified("a"), classified("b"))
CASES = [
    # Malformed files.
    Case(
        "JSON that ends too early",
        {"train.jsonl": lines({"text": "a"}, {"text": "b"}, '{"text": "c", ')},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 3", "column 14", "one JSON object on each line"),
    ),
    Case(
        "a JSON array over the whole file",
        {"train.jsonl": b'[{"text": "a"}]\n'},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "JSON array", "one JSON object on each line"),
    ),
    Case(
        "blank lines are counted",
        {"train.jsonl": lines({"text": "a"}, "", "", "nonsense")},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 4",),
    ),
    Case(
        "JSONL in another encoding",
        {"train.jsonl": lines({"text": "a"}, '{"text": "é"}'.encode("latin-1"))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 2", "UTF-8"),
    ),
    Case(
        "a CSV row with a field too many, after a field of two lines",
        {"train.csv": b'text,label\n"one\ntwo",a\nfine, really,b\n'},
        Reason.DATASET_MALFORMED,
        ("train.csv line 4", "3 fields", "header has 2 (text, label)", "quote"),
        CLASSIFY,
    ),
    Case(
        "a CSV quote that never ends",
        {"train.csv": b'text,label\nfine,a\n"bad,b\n'},
        Reason.DATASET_MALFORMED,
        ("train.csv line 3", "quote"),
        CLASSIFY,
    ),
    Case(
        "a CSV header that repeats a name",
        {"train.csv": b"text,text\na,b\n"},
        Reason.DATASET_MALFORMED,
        ("train.csv line 1", "'text' twice"),
    ),
    Case(
        "CSV in another encoding",
        {"train.csv": "text,label\né,a\n".encode("latin-1")},
        Reason.DATASET_MALFORMED,
        ("train.csv line 1", "UTF-8"),
        CLASSIFY,
    ),
    Case(
        "a Parquet file that is none",
        {"train.parquet": b"text,label\n"},
        Reason.DATASET_MALFORMED,
        ("train.parquet", "no Parquet file", "spec.dataset.format"),
    ),
    # Columns.
    Case(
        "no column of a default name",
        {"train.jsonl": lines({"question": "a", "answer": "b"})},
        Reason.DATASET_COLUMN_MISSING,
        ("train.jsonl", "'question', 'answer'", "spec.dataset.columns.text", ".prompt", ".messages"),
    ),
    Case(
        "a prompt without a completion",
        {"train.jsonl": lines({"prompt": "a"})},
        Reason.DATASET_COLUMN_MISSING,
        ("prompt with completion",),
    ),
    Case(
        "a named column that is not there",
        {"train.csv": b"body,label\nfine,a\n"},
        Reason.DATASET_COLUMN_MISSING,
        ("train.csv", "'review'", "'body', 'label'", "spec.dataset.columns.text"),
        CLASSIFY,
        {"text": "review"},
    ),
    Case(
        "a label column that is not there, in Parquet",
        {"train.parquet": b"parquet:text"},
        Reason.DATASET_COLUMN_MISSING,
        ("train.parquet", "'label'", "'text'", "spec.dataset.columns.label"),
        CLASSIFY,
    ),
    Case(
        "one JSON object that lacks the column",
        {"train.jsonl": lines(*GOOD, {"text": "x"})},
        Reason.DATASET_COLUMN_MISSING,
        ("train.jsonl line 3", "'label'"),
        CLASSIFY,
    ),
    Case(
        "a test file with other columns than the training data",
        {"train.csv": b"text,label\nx,a\ny,b\n", "test.csv": b"words,label\nx,a\n"},
        Reason.DATASET_COLUMN_MISSING,
        ("test.csv", "'text'", "'words', 'label'"),
        CLASSIFY,
    ),
    # Nothing to learn from.
    Case("an empty JSONL file", {"train.jsonl": b""}, Reason.DATASET_EMPTY, ("train.jsonl", "no rows")),
    Case("a JSONL file of blank lines", {"train.jsonl": b"\n\n"}, Reason.DATASET_EMPTY, ("train.jsonl",)),
    Case("an empty CSV file", {"train.csv": b""}, Reason.DATASET_EMPTY, ("train.csv", "header")),
    Case("a CSV file of a header", {"train.csv": b"text\n"}, Reason.DATASET_EMPTY, ("train.csv", "no rows")),
    Case("an empty Parquet file", {"train.parquet": b""}, Reason.DATASET_EMPTY, ("train.parquet",)),
    Case(
        "texts that are all empty",
        {"train.jsonl": lines({"text": ""}, {"text": ""})},
        Reason.DATASET_EMPTY,
        ("train.jsonl", "none of its 2 rows"),
    ),
    Case(
        "an empty validation file",
        {"train.csv": b"text,label\nx,a\ny,b\n", "validation.csv": b"text,label\n"},
        Reason.DATASET_EMPTY,
        ("validation.csv",),
        CLASSIFY,
    ),
    # Labels.
    Case(
        "a label that the task does not list",
        {"train.jsonl": lines(classified("positive"), classified("neutral"))},
        Reason.UNKNOWN_LABEL,
        ("train.jsonl line 2", "'neutral'", "'negative', 'positive'", "spec.task.sequenceClassification.labels"),
        {**CLASSIFY, "sequenceClassification": {"labels": ["negative", "positive"]}},
    ),
    Case(
        "a label in the test data that the training data lacks",
        {"train.jsonl": lines(*GOOD), "test.jsonl": lines(classified("a"), classified("c"))},
        Reason.UNKNOWN_LABEL,
        ("test.jsonl line 2", "'c'", "training data", "spec.task.sequenceClassification.labels"),
        CLASSIFY,
    ),
    Case(
        "a label that is a fraction",
        {"train.jsonl": lines(*GOOD, classified(0.5))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 3", "'label'", "string or an integer"),
        CLASSIFY,
    ),
    Case(
        "a label that is null",
        {"train.jsonl": lines(*GOOD, classified(None))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 3", "null"),
        CLASSIFY,
    ),
    Case(
        "a label that is empty",
        {"train.csv": b"text,label\nfine,a\nbad,\n"},
        Reason.DATASET_MALFORMED,
        ("train.csv line 3", "'label' is empty"),
        CLASSIFY,
    ),
    Case(
        "the same label everywhere",
        {"train.jsonl": lines(classified("a"), classified("a"))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl", "'a'", "two"),
        CLASSIFY,
    ),
    Case(
        "a list that holds a label which the task does not list",
        {"train.jsonl": lines(classified(["a"]), classified(["a", "c"]))},
        Reason.UNKNOWN_LABEL,
        ("train.jsonl line 2", "'c'", "'a', 'b'", "spec.task.sequenceClassification.labels"),
        {**CLASSIFY, "sequenceClassification": {"problem": "MultiLabel", "labels": ["a", "b"]}},
    ),
    Case(
        "a list of labels that is a number",
        {"train.jsonl": lines(classified(["a", "b"]), classified(3))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 2", "'label'", "no list", "write a list of labels"),
        SEVERAL,
    ),
    Case(
        "a null in a list of labels",
        {"train.jsonl": lines(classified(["a", None]))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "item 2 of column 'label'", "null"),
        SEVERAL,
    ),
    Case(
        "lists without any label",
        {"train.jsonl": lines(classified([]), classified([]))},
        Reason.DATASET_EMPTY,
        ("train.jsonl", "none of its rows has a label"),
        SEVERAL,
    ),
    Case(
        "a number that is a word",
        {"train.csv": b"text,label\nfine,0.5\nbad,much\n"},
        Reason.DATASET_MALFORMED,
        ("train.csv line 3", "'label'", "'much'", "write a number such as 0.5"),
        NUMBER,
    ),
    Case(
        "a number that is not finite",
        {"train.csv": b"text,label\nfine,nan\n"},
        Reason.DATASET_MALFORMED,
        ("train.csv line 2", "no finite number"),
        NUMBER,
    ),
    Case(
        "a number that is true",
        {"train.jsonl": lines(classified(True))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "boolean", "no finite number"),
        NUMBER,
    ),
    Case(
        "a text to classify that is empty",
        {"train.jsonl": lines(*GOOD, classified("a", "  "))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 3", "column 'text' is empty", "remove the row"),
        CLASSIFY,
    ),
    # Words with tags, texts with spans.
    Case(
        "neither tokens with tags nor text with spans",
        {"train.jsonl": lines({"words": ["a"], "tags": ["O"]})},
        Reason.DATASET_COLUMN_MISSING,
        ("train.jsonl", "'words', 'tags'", "spec.dataset.columns.tokens"),
        TAG,
    ),
    Case(
        "tags in a column that is not there",
        {"train.jsonl": lines(tagged("B-PER", "O"))},
        Reason.DATASET_COLUMN_MISSING,
        ("'ner_tags'", "spec.dataset.columns.tags"),
        TAG,
        {"tags": "ner_tags"},
    ),
    Case(
        "a tag less than there are words",
        {"train.jsonl": lines(tagged("B-PER", "O"), tagged("B-PER"))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 2", "1 tags for 2 words", "one tag for each word"),
        TAG,
    ),
    Case(
        "tags that are one string",
        {"train.jsonl": lines({"tokens": ["a"], "tags": "O"})},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "'tags'", "string, no list"),
        TAG,
    ),
    Case(
        "a row without words",
        {"train.jsonl": lines(tagged("B-PER", "O"), tagged(tokens=[]))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 2", "'tags' is empty"),
        TAG,
    ),
    Case(
        "a word that is empty",
        {"train.jsonl": lines(tagged("B-PER", "O", tokens=["Ann", ""]))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "item 2 of column 'tokens' is an empty string"),
        TAG,
    ),
    Case(
        "a tag without B- or I-",
        {"train.jsonl": lines(tagged("B-PER", "O"), tagged("PER", "O"))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 2", "'PER'", "B-LABEL", "scheme to Plain"),
        TAG,
    ),
    Case(
        "a name of a kind that the task does not list",
        {"train.jsonl": lines(tagged("B-ORG", "O"))},
        Reason.UNKNOWN_LABEL,
        ("train.jsonl line 1", "'ORG'", "'PER', 'LOC'", "spec.task.tokenClassification.labels"),
        {**TAG, "tokenClassification": {"labels": ["PER", "LOC"]}},
    ),
    Case(
        "a kind of word that the training data lacks",
        {"train.jsonl": lines(tagged("NOUN", "VERB")), "test.jsonl": lines(tagged("NOUN", "ADV"))},
        Reason.UNKNOWN_LABEL,
        ("test.jsonl line 1", "'ADV'", "'NOUN', 'VERB'"),
        PLAIN,
    ),
    Case(
        "tags that find nothing",
        {"train.jsonl": lines(tagged("O", "O"))},
        Reason.DATASET_EMPTY,
        ("train.jsonl", "none of its rows has a label"),
        TAG,
    ),
    Case(
        "a span beyond the text",
        {"train.jsonl": lines(marked(span(0, 3)), marked(span(4, 9)))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 2", "span 1", "from 4 to 9", "8 characters"),
        TAG,
    ),
    Case(
        "a span without its label",
        {"train.jsonl": lines(marked({"start": 0, "end": 3}))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "span 1", "{start, end, label}"),
        TAG,
    ),
    Case(
        "spans one in the other",
        {"train.jsonl": lines(marked(span(0, 8), span(4, 8, "VERB")))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "'VERB' from 4", "overlaps"),
        TAG,
    ),
    Case(
        "a text with spans that is empty",
        {"train.jsonl": lines(marked(span(0, 3)), marked(text=""))},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 2", "'text' is empty"),
        TAG,
    ),
    Case(
        "spans where each word has a label of its own",
        {"train.jsonl": lines(marked(span(0, 3)))},
        Reason.INVALID_CONFIG,
        ("train.jsonl", "spec.task.tokenClassification.scheme to BIO"),
        PLAIN,
    ),
    # Values.
    Case(
        "a text that is a number",
        {"train.jsonl": lines({"text": "a"}, {"text": 7})},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 2", "'text'", "number", "write a string"),
    ),
    Case(
        "a null in Parquet",
        {"train.parquet": b"parquet:null"},
        Reason.DATASET_MALFORMED,
        ("train.parquet row 2", "null"),
    ),
    Case(
        "a completion that is null",
        {"train.jsonl": lines({"prompt": "a", "completion": None})},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "'completion'"),
    ),
    # Sources and targets.
    Case(
        "a source without a column of that name",
        {"train.jsonl": lines({"english": "a", "target": "b"})},
        Reason.DATASET_COLUMN_MISSING,
        ("train.jsonl", "'source'", "'english', 'target'", "spec.dataset.columns.source"),
        TRANSLATE,
    ),
    Case(
        "a target that is empty",
        {"train.csv": b"source,target\na,b\nc,\n"},
        Reason.DATASET_MALFORMED,
        ("train.csv line 3", "column 'target' is empty", "remove the row"),
        TRANSLATE,
    ),
    Case(
        "a source that is white space",
        {"train.jsonl": lines({"source": " \n", "target": "b"})},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "column 'source' is empty"),
        TRANSLATE,
    ),
    Case(
        "a target that is a list",
        {"train.jsonl": lines({"source": "a", "target": ["b"]})},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "'target'", "array", "write a string"),
        TRANSLATE,
    ),
    Case(
        "plain text, where the model is to write answers",
        {"train.jsonl": lines({"text": "a"}), "validation.jsonl": lines({"text": "a"})},
        Reason.INVALID_CONFIG,
        ("spec.training.evaluation.generate", "train.jsonl", "prompt and completion"),
        training={"evaluation": {"generate": {}}},
    ),
    # Chats.
    Case(
        "a chat for a tokenizer without a template",
        {"train.jsonl": lines({"messages": [{"role": "assistant", "content": "x"}]})},
        Reason.INVALID_CONFIG,
        ("no chat template", "chat_template.jinja", "prompt and completion"),
    ),
    Case(
        "a chat that is a string",
        {"train.jsonl": lines({"messages": "hello"})},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "string", "{role, content}"),
        template=CHAT,
    ),
    Case(
        "a message without content",
        {"train.jsonl": lines({"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]})},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "message 2", "'content'"),
        template=CHAT,
    ),
    Case(
        "a chat in which the assistant says nothing",
        {"train.jsonl": lines({"messages": [{"role": "user", "content": "a"}]})},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "assistant", "lossOn"),
        template=CHAT,
    ),
    Case(
        "a chat that the template refuses",
        {"train.jsonl": lines({"messages": [{"role": "assistant", "content": "a"}]})},
        Reason.DATASET_MALFORMED,
        ("train.jsonl line 1", "roles must alternate"),
        template="{{ raise_exception('roles must alternate') }}",
    ),
    Case(
        "a template that hides what the assistant says",
        {"train.jsonl": lines({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})},
        Reason.INVALID_CONFIG,
        ("train.jsonl line 1", "message 2", "template"),
        template="{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
    ),
    # Places.
    Case(
        "a file that is not there",
        {},
        Reason.DATASET_NOT_FOUND,
        ("train.jsonl", "spec.dataset.train"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_bad_data_is_named_with_its_place_and_the_fix(
    case: Case, spec: Callable[..., PeftJobSpec], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = {"train": f"file://{tmp_path}/train.jsonl"}
    for name, body in case.files.items():
        if body == b"parquet:text":
            body = parquet(tmp_path / "made", text=["a", "b"])
        elif body == b"parquet:null":
            body = parquet(tmp_path / "made", text=["a", None])
        (tmp_path / name).write_bytes(body)
        uris[name.partition(".")[0]] = f"file://{tmp_path / name}"
    monkeypatch.setattr(tokenizer, "chat_template", case.template)
    job = spec(**uris, columns=case.columns, task=case.task, training=case.training)
    with pytest.raises(TrainerError) as error:
        load_splits(job, tokenizer, StorageSpec(), tmp_path / "work")
    assert error.value.reason is case.want, error.value.message
    assert [part for part in case.want_in_message if part not in error.value.message] == [], error.value.message
