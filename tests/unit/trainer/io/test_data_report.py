"""What is told of the data: numbers, labels, and samples as the model sees them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peftjob_api import DataInfo, JobIdentity, PeftJobSpec, PlanInfo, RunConfig
from peftjob_api.spec import StorageSpec
from peftjob_testkit.rows import classified, lines, marked, span, tagged
from peftjob_trainer.data import load_splits
from peftjob_trainer.data_report import SplitReport, describe, info_of, to_json
from peftjob_trainer.data_report import lines as log_lines
from peftjob_trainer.history import History
from peftjob_trainer.report import write_report
from peftjob_trainer.tasks import task_of
from peftjob_trainer.tasks.shown import MOST_CHARACTERS, shortened

PLAN = PlanInfo(shard_group="Full", ranks=2, base_parameters=1, base_bytes_per_rank=1, trainable_parameters=1)
CLASSIFY: dict[str, Any] = {"type": "SequenceClassification"}
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
Look = Callable[..., list[SplitReport]]


@pytest.fixture
def look(spec: Callable[..., PeftJobSpec], tokenizer: Any, tmp_path: Path) -> Look:
    """Return a function that describes rows of training data, and of test data."""

    def run(*rows: object, test: bytes = b"", **dataset: Any) -> list[SplitReport]:
        (tmp_path / "train.jsonl").write_bytes(lines(*rows))
        if test:
            (tmp_path / "test.jsonl").write_bytes(test)
            dataset["test"] = f"file://{tmp_path}/test.jsonl"
        job = spec(f"file://{tmp_path}/train.jsonl", **dataset)
        splits = load_splits(job, tokenizer, StorageSpec(), tmp_path / "work")
        return describe(task_of(job, tokenizer.pad_token_id, splits.labels, tokenizer), splits)

    return run


@dataclass(frozen=True)
class Case:
    """Rows of a task, and how the first is shown: what is learned in «»."""

    id: str
    row: dict[str, Any]
    want: str
    want_answer: str = ""
    want_labels: tuple[tuple[str, int], ...] = ()
    task: str = "CausalLM"
    settings: tuple[tuple[str, Any], ...] = ()


CASES = [
    Case("plain text", {"text": "ab"}, "<s>«ab</s>»"),
    Case("a completion", {"prompt": "q", "completion": "a"}, "<s>q«a</s>»"),
    Case(
        "a chat",
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        "<user>q<assistant>«a»",
    ),
    Case(
        "two answers",
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        "<s>q«a</s>»",
        "rather than b</s>",
        task="PreferenceOptimisation",
    ),
    Case(
        "an item that fits",
        {"query": "ab", "item": "c", "negatives": ["d"]},
        "<s>ab",
        "fits <s>c, rather than <s>d",
        task="Ranking",
    ),
    Case("a source and its target", {"source": "é", "target": "e"}, "<s>é«<s>e</s>»", task="Seq2SeqLM"),
    Case("a label", classified("b", "ab"), "<s>ab", "b", (("a", 1), ("b", 2)), "SequenceClassification"),
    Case(
        "any labels",
        classified(["a", "b"], "ab"),
        "<s>ab",
        "a, b",
        (("a", 2), ("b", 2)),
        "SequenceClassification",
        (("problem", "MultiLabel"),),
    ),
    Case(
        "a number", classified(-0.5, "ab"), "<s>ab", "-0.5", (), "SequenceClassification", (("problem", "Regression"),)
    ),
    Case(
        "tags",
        tagged("B-X", "O", tokens=["a", "bc"]),
        "<s>«a» «b»c",
        "B-X O",
        (("O", 2), ("B-X", 2), ("I-X", 0)),
        "TokenClassification",
    ),
    Case(
        "spans",
        marked(span(0, 1, "X"), text="ab"),
        "<s>«ab»",
        "B-X O",
        (("O", 2), ("B-X", 2), ("I-X", 0)),
        "TokenClassification",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_sample_is_shown_as_the_model_sees_it(
    case: Case, look: Look, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", CHAT)
    task = {"type": case.task, **({"sequenceClassification": dict(case.settings)} if case.settings else {})}
    others = [classified("a" if not case.settings else case.row["label"])] if "label" in case.row else []
    (train,) = look(case.row, case.row, *others, task=task)
    shown = train.samples[0]
    assert "".join(f"«{text}»" if learned else text for text, learned in shown.parts) == case.want
    assert shown.answer == case.want_answer
    want = dict(case.want_labels)
    if case.settings == (("problem", "MultiLabel"),):
        want = dict.fromkeys(want, 3)
    assert train.labels == want


def test_numbers_of_each_split(look: Look) -> None:
    rows = [{"text": "x" * length} for length in (1, 2, 3, 4, 50, 0)]
    reports = look(*rows, "{", test=lines({"text": "abcdefgh"}), maxLength=12, onBadRow="Skip")
    train, test = reports
    assert (train.examples, train.shortest, train.longest, train.quantiles[50]) == (5, 3, 12, 5)
    assert (train.truncated, train.left_out, train.skipped, train.truncated_share) == (1, 1, 1, 0.2)
    assert (sum(train.bars), len(train.edges)) == (5, len(train.bars) + 1)
    assert [len("".join(text for text, _ in sample.parts)) for sample in train.samples] == [8, 10, 14]
    assert (test.examples, test.samples) == (1, [])
    info = info_of(reports)
    assert info == DataInfo(
        train_examples=5, test_examples=1, truncated_examples=1, skipped_rows=1, skipped_reasons=train.reasons
    )
    assert "train.jsonl line 7" in train.reasons[0]
    said = "\n".join(log_lines(reports))
    for part in ("5 examples of 3 to 12 tokens", "1 (20.0%) cut", "1 rows without", "1 bad rows", "line 7", "«x</s>»"):
        assert part in said, part


def test_a_long_sample_keeps_its_beginning_and_its_end() -> None:
    assert shortened([("a" * MOST_CHARACTERS, False)]) == (("a" * MOST_CHARACTERS, False),)
    long = shortened([("a" * 3000, False), ("b" * 10, True), ("c" * 9000, False), ("d" * 100, True)])
    half = MOST_CHARACTERS // 2
    assert long == (("a" * half + " … ", False), ("c" * (half - 100), False), ("d" * 100, True))


def test_report_and_metrics_hold_it(
    look: Look, spec: Callable[..., PeftJobSpec], job: JobIdentity, tmp_path: Path
) -> None:
    rows = [classified("a", "<b>&"), classified("b", "x")]
    reports = look(*rows, classified(None), task=CLASSIFY, onBadRow="Skip")
    write_report(tmp_path, RunConfig.of(job, spec(task=CLASSIFY)), PLAN, History(), reports)
    assert json.loads((tmp_path / "metrics.json").read_text())["data"] == to_json(reports)
    page = (tmp_path / "report.html").read_text()
    for part in ("&lt;s&gt;&lt;b&gt;&amp;", "<mark>a</mark>", "Lengths of the training data", "train.jsonl line 3"):
        assert part in page, part
    assert "<b>" not in page
