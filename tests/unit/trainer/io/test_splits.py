"""Several files, parts that are set aside, and rows that are left out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peftjob_api import PeftJobSpec, Reason
from peftjob_api.spec import StorageSpec
from peftjob_testkit.rows import classified, lines, marked, span, tagged
from peftjob_trainer.data import Splits, load_splits
from peftjob_trainer.data.parts import set_aside
from peftjob_trainer.exits import TrainerError

CLASSIFY: dict[str, Any] = {"type": "SequenceClassification"}
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
Load = Callable[..., Splits]


@pytest.fixture
def load(spec: Callable[..., PeftJobSpec], tokenizer: Any, tmp_path: Path) -> Load:
    """Return a function that writes files by their names, and loads `*` of them as training data."""

    def run(files: dict[str, bytes], train: str = "*.jsonl", **dataset: Any) -> Splits:
        for name, body in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(body)
        uris = " ".join(f"file://{tmp_path}/{pattern}" for pattern in train.split())
        return load_splits(spec(uris, **dataset), tokenizer, StorageSpec(), tmp_path / "work")

    return run


def texts(splits: Splits, tokenizer: Any, name: str = "train") -> list[str]:
    examples = getattr(splits, name).examples
    return [tokenizer.decode(example.input_ids, skip_special_tokens=True) for example in examples]


def numbered(first: int, last: int) -> bytes:
    return lines(*({"text": f"row {number}"} for number in range(first, last)))


def test_files_are_read_in_the_order_of_their_names_whatever_their_format(load: Load, tokenizer: Any) -> None:
    files = {"b.jsonl": numbered(2, 4), "c.csv": b"text\nrow 4\n", "a.jsonl": numbered(0, 2), "z.jsonl": b""}
    splits = load(files, "*.jsonl *.csv")
    assert texts(splits, tokenizer) == [f"row {number}" for number in range(5)]
    assert texts(load(files, "*.jsonl *.csv", maxSamples=3), tokenizer) == ["row 0", "row 1", "row 2"]


def test_the_line_of_a_later_file_is_named(load: Load) -> None:
    with pytest.raises(TrainerError, match=r"b\.jsonl line 2: no valid JSON"):
        load({"a.jsonl": numbered(0, 3), "b.jsonl": lines({"text": "x"}, "{")})
    with pytest.raises(TrainerError, match=r"b\.csv has no column 'text'"):
        load({"a.csv": b"text\nx\n", "b.csv": b"body\nx\n"}, "*.csv")


def test_labels_are_those_of_all_files_but_no_more_rows_than_are_read(load: Load) -> None:
    files = {"a.jsonl": lines(classified("b"), classified("c")), "b.jsonl": lines(classified("a"))}
    assert load(files, task=CLASSIFY).labels == ["a", "b", "c"]
    assert load(files, task=CLASSIFY, maxSamples=2).labels == ["b", "c"]


def test_parts_are_set_aside_by_the_seed_alone(load: Load, tokenizer: Any) -> None:
    files = {"a.jsonl": numbered(0, 30), "b.jsonl": numbered(30, 40)}
    split = {"validationFraction": 0.1, "testFraction": 0.25}
    found = load(files, **split)
    parts = [texts(found, tokenizer, name) for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [26, 4, 10]
    assert sorted((text for part in parts for text in part), key=lambda text: int(text[4:])) == [
        f"row {number}" for number in range(40)
    ]
    assert all(part == sorted(part, key=lambda text: int(text[4:])) for part in parts)
    again, other = load(files, **split), load(files, **split, splitSeed=1)
    assert texts(again, tokenizer, "test") == parts[2]
    assert texts(other, tokenizer, "test") != parts[2]


@pytest.mark.parametrize(
    ("count", "fractions", "want"),
    [
        (100, {"validation": 0.1}, (90, 10, 0)),
        (3, {"validation": 0.01, "test": 0.01}, (1, 1, 1)),
        (3, {"validation": 0.49, "test": 0.49}, (1, 1, 1)),
        (4, {"test": 0.4}, (2, 0, 2)),
        (1000, {"validation": 0.0006}, (999, 1, 0)),
    ],
    ids=["a tenth", "at least one", "at least one is left", "rounded", "rounded up to one"],
)
def test_sizes_of_parts(count: int, fractions: dict[str, float], want: tuple[int, ...]) -> None:
    parts = set_aside(count, fractions, 0)
    assert tuple(len(parts.get(name, ())) for name in ("train", "validation", "test")) == want
    assert sorted(np.concatenate(list(parts.values()))) == list(range(count))


def test_too_few_examples_to_set_any_aside(load: Load) -> None:
    with pytest.raises(TrainerError, match="2 examples are too few for 3 parts") as error:
        load({"a.jsonl": numbered(0, 2)}, validationFraction=0.1, testFraction=0.1)
    assert error.value.reason is Reason.DATASET_EMPTY
    assert "spec.dataset.validationFraction and spec.dataset.testFraction" in error.value.message


@dataclass(frozen=True)
class Case:
    """A bad row between good ones, and what is said about it."""

    id: str
    good: dict[str, Any]
    bad: object
    want: str
    task: dict[str, Any] = field(default_factory=lambda: {"type": "CausalLM"})
    template: str | None = None


NAMED = {"type": "TokenClassification"}
SAID = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
PAIR = {"source": "a", "target": "b"}
SKIPPED = [
    Case("no JSON", {"text": "a"}, '{"text": ', "no valid JSON"),
    Case("no object", {"text": "a"}, "[1]", "not an object"),
    Case("another encoding", {"text": "a"}, b'{"text": "\xe9"}', "not UTF-8"),
    Case("another column", {"text": "a"}, {"txet": "a"}, "no column 'text'"),
    Case("no text", {"text": "a"}, {"text": 7}, "write a string"),
    Case("no completion", {"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}, "'completion'"),
    Case("an unknown label", classified("a"), classified("c"), "unknown label 'c'",
         {**CLASSIFY, "sequenceClassification": {"labels": ["a", "b"]}}),
    Case("no text to classify", classified("a"), classified("a", ""), "is empty",
         {**CLASSIFY, "sequenceClassification": {"labels": ["a", "b"]}}),
    Case("no number", classified(0.5), classified("much"), "no finite number",
         {**CLASSIFY, "sequenceClassification": {"problem": "Regression"}}),
    Case("no list of labels", classified(["a", "b"]), classified(3), "no list",
         {**CLASSIFY, "sequenceClassification": {"problem": "MultiLabel"}}),
    Case("an empty target", PAIR, {**PAIR, "target": ""}, "is empty", {"type": "Seq2SeqLM"}),
    Case("another column of targets", PAIR, {"source": "a"}, "no column 'target'", {"type": "Seq2SeqLM"}),
    Case("fewer tags than words", tagged("B-PER", "O"), tagged("O"), "1 tags for 2 words", NAMED),
    Case("a span beyond the text", marked(span(0, 3)), marked(span(4, 9)), "from 4 to 9", NAMED),
    Case("a chat without an answer", SAID, {"messages": SAID["messages"][:1]}, "nothing to learn", template=CHAT),
    Case("a chat without roles", SAID, {"messages": [{"content": "a"}]}, "no string 'role'", template=CHAT),
]  # fmt: skip


@pytest.mark.parametrize("first", [False, True], ids=["in between", "at the beginning"])
@pytest.mark.parametrize("case", SKIPPED, ids=lambda case: case.id)
def test_a_bad_row_ends_the_job_or_is_left_out_and_told(
    case: Case, first: bool, load: Load, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", case.template)
    body = lines(*((case.bad, case.good, case.good) if first else (case.good, case.bad, case.good)))
    train = load({"a.jsonl": body}, task=case.task, onBadRow="Skip").train
    assert (len(train.examples), train.skipped.count) == (2, 1)
    (reason,) = train.skipped.reasons
    assert case.want in reason
    assert f"a.jsonl line {1 if first else 2}" in reason
    with pytest.raises(TrainerError):
        load({"a.jsonl": body}, task=case.task)


def test_bad_rows_of_csv_are_left_out(load: Load, tokenizer: Any) -> None:
    body = b'text,label\none,a\ntwo, really,b\n"three" x,a\nfour,b\n'
    train = load({"a.csv": body}, "*.csv", task=CLASSIFY, onBadRow="Skip")
    assert texts(train, tokenizer) == ["one", "four"]
    assert [reason.partition("a.csv ")[2][:6] for reason in train.train.skipped.reasons] == ["line 3", "line 4"]


def test_all_bad_rows_are_counted_but_only_the_first_told(load: Load) -> None:
    train = load({"a.jsonl": lines({"text": "a"}, *["{"] * 5)}, onBadRow="Skip").train
    assert train.skipped.count == 5
    assert [reason.partition(":")[0][-6:] for reason in train.skipped.reasons] != []
    assert len(train.skipped.reasons) == 3


@pytest.mark.parametrize(
    ("row", "task", "want"),
    [
        ("{", None, "2 are bad; the first: file://"),
        ({"text": 7}, None, "2 are bad; the first: file://"),
        ({"body": "a"}, None, "none of text, prompt with completion"),
        (classified(0.5), CLASSIFY, "2 are bad; the first: file://"),
    ],
    ids=["no JSON", "no text", "another column", "no label"],
)
def test_without_any_good_row_the_job_ends_all_the_same(load: Load, row: object, task: Any, want: str) -> None:
    with pytest.raises(TrainerError, match=want) as error:
        load({"a.jsonl": lines(row, row)}, task=task, onBadRow="Skip")
    assert error.value.reason in (Reason.DATASET_MALFORMED, Reason.DATASET_COLUMN_MISSING)


def test_what_is_wrong_with_the_file_itself_is_never_skipped(load: Load) -> None:
    with pytest.raises(TrainerError, match="no Parquet file"):
        load({"a.parquet": b"x"}, "*.parquet", onBadRow="Skip")
