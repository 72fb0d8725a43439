"""What good data becomes: which tokens, which of them are learned, and what is cut."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from peftjob_api import PeftJobSpec
from peftjob_api.spec import StorageSpec
from peftjob_trainer.data import IGNORED, Example, Splits, load_splits
from peftjob_trainer.data.encode import cut

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FORGETFUL = (  # drops what the assistant thought in all turns but the last, and shows an empty thought there
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and loop.last %}[thought]{% endif %}{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHY = (
    "{% if not messages | selectattr('role', 'equalto', 'user') | list %}{{ raise_exception('no user') }}{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Loader = Callable[..., Splits]


@pytest.fixture
def load(spec: Callable[..., PeftJobSpec], tokenizer: Any, tmp_path: Path) -> Loader:
    """Return a function that loads rows of JSONL."""

    def run(*rows: object, **dataset: Any) -> Splits:
        path = tmp_path / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_splits(spec(f"file://{path}", **dataset), tokenizer, StorageSpec(), tmp_path / "work")

    return run


def shown(tokenizer: Any, example: Example) -> tuple[str, str]:
    """Return an example as text, and again with the tokens that are not learned as dots."""
    assert isinstance(example.labels, tuple)
    assert len(example.labels) == len(example.input_ids)
    assert all(label in (IGNORED, token) for label, token in zip(example.labels, example.input_ids, strict=True))
    whole = tokenizer.convert_ids_to_tokens(example.input_ids)
    learned = [t if label != IGNORED else "." for t, label in zip(whole, example.labels, strict=True)]
    return tuple("".join(part).replace("Ġ", " ").replace("Ċ", "\n") for part in (whole, learned))  # type: ignore[return-value]


@dataclass(frozen=True)
class Case:
    """A row and what is learned of it; a dot stands for a token that is not."""

    id: str
    row: dict[str, Any]
    want: str
    want_learned: str
    loss_on: str = "Completions"
    max_length: int = 512
    want_cut: bool = False
    template: str = CHATML


TURNS = [
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "a2"},
]
_BEFORE = "." * len("<|user|>q1<|end|>\n<|assistant|>")
CASES = [
    Case("plain text is learned whole, with its end", {"text": "abc"}, "<s>abc</s>", "<s>abc</s>"),
    Case(
        "long plain text loses its end",
        {"text": "abcdefgh"},
        "<s>abcd",
        "<s>abcd",
        max_length=5,
        want_cut=True,
    ),
    Case(
        "a completion is learned with its end, nothing is put before it",
        {"prompt": "Q:", "completion": " A"},
        "<s>Q: A</s>",
        "... A</s>",
    ),
    Case(
        "all tokens of a pair if asked for",
        {"prompt": "Q:", "completion": " A"},
        "<s>Q: A</s>",
        "<s>Q: A</s>",
        loss_on="AllTokens",
    ),
    Case("an empty completion teaches to stop", {"prompt": "Q", "completion": ""}, "<s>Q</s>", "..</s>"),
    Case(
        "a long prompt loses its beginning, the completion stays whole",
        {"prompt": "abcdefgh", "completion": "XY"},
        "<s>ghXY</s>",
        "...XY</s>",
        max_length=6,
        want_cut=True,
    ),
    Case(
        "a completion longer than all keeps one token before it",
        {"prompt": "ab", "completion": "STUVWXYZ"},
        "<s>bSTUV",
        "..STUV",
        max_length=6,
        want_cut=True,
    ),
    Case(
        "an example of exactly the length is not cut",
        {"prompt": "ab", "completion": "XY"},
        "<s>abXY</s>",
        "...XY</s>",
        max_length=6,
    ),
    Case(
        "of a chat, the assistant's turns are learned with what ends them",
        {"messages": TURNS},
        "<|user|>q1<|end|>\n<|assistant|>a1<|end|>\n<|user|>q2<|end|>\n<|assistant|>a2<|end|>\n",
        _BEFORE + "a1<|end|>\n" + _BEFORE + "a2<|end|>\n",
    ),
    Case(
        "a template that strips spaces does not shift what is learned",
        {"messages": [TURNS[0], {"role": "assistant", "content": "  a1 "}]},
        "<|user|>q1<|end|>\n<|assistant|>a1<|end|>\n",
        _BEFORE + "a1<|end|>\n",
    ),
    Case(
        "a template that renders earlier turns otherwise than the last one",
        {"messages": TURNS},
        "<|user|>q1<|end|>\n<|assistant|>a1<|end|>\n<|user|>q2<|end|>\n<|assistant|>[thought]a2<|end|>\n",
        _BEFORE + "a1<|end|>\n" + _BEFORE + "[thought]a2<|end|>\n",
        template=FORGETFUL,
    ),
    Case(
        "a chat that the assistant opens",
        {"messages": TURNS[1:3]},
        "<|assistant|>a1<|end|>\n<|user|>q2<|end|>\n",
        "." * len("<|assistant|>") + "a1<|end|>\n" + "." * len("<|user|>q2<|end|>\n"),
    ),
    Case(
        "a template that refuses a chat before the user has spoken",
        {"messages": TURNS[1:]},
        "<|assistant|>a1<|user|>q2<|assistant|>a2",
        "." * len("<|assistant|>") + "a1" + "." * len("<|user|>q2<|assistant|>") + "a2",
        template=SHY,
    ),
    Case(
        "a chat that is too long keeps the window with the most to learn",
        {"messages": [*TURNS[:3], {"role": "assistant", "content": "a longer answer"}]},
        ">a longer answer<|end|>\n",
        ".a longer answer<|end|>\n",
        max_length=24,
        want_cut=True,
    ),
    Case(
        "all tokens of a chat if asked for",
        {"messages": TURNS[:1]},
        "<|user|>q1<|end|>\n",
        "<|user|>q1<|end|>\n",
        loss_on="AllTokens",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_is_learned_of_a_row(case: Case, load: Loader, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", case.template)
    task = {"type": "CausalLM", "causalLM": {"lossOn": case.loss_on}}
    splits = load(case.row, task=task, maxLength=case.max_length)
    assert shown(tokenizer, splits.train.examples[0]) == (case.want, case.want_learned)
    assert splits.train.truncated == int(case.want_cut)
    assert len(splits.train.examples[0].input_ids) <= case.max_length
    assert (splits.labels, splits.train.labels, splits.chat) == (None, None, "messages" in case.row)


def test_the_cut_keeps_the_most_of_what_is_learned_and_is_never_longer_than_allowed() -> None:
    """Against trying every window."""
    import random

    rng = random.Random(0)
    for _ in range(500):
        ids = [rng.choice([0, *range(10, 20)]), *(rng.randrange(10, 20) for _ in range(rng.randint(1, 30)))]
        labels = [token if rng.random() < 0.4 else IGNORED for token in ids]
        longest = rng.randint(4, 20)
        example, was_cut = cut(ids, labels, longest, bos=0)
        assert was_cut == (len(ids) > longest)
        assert isinstance(example.labels, tuple)
        assert len(example.input_ids) == len(example.labels) == min(len(ids), longest)
        if was_cut:
            has_bos = ids[0] == 0
            best = max(
                sum(label != IGNORED for label in labels[start + 1 : start + longest - (has_bos and start > 0)])
                for start in range(len(ids) - longest + 1 + has_bos)
            )
            assert sum(label != IGNORED for label in example.labels[1:]) == best
            assert (example.input_ids[0] == 0) == has_bos or example.input_ids == tuple(ids[:longest])


@pytest.mark.parametrize(
    ("columns", "row", "want"),
    [
        ({}, {"text": "t", "messages": TURNS, "prompt": "p", "completion": "c"}, "messages"),
        ({}, {"text": "t", "prompt": "p", "completion": "c"}, "completion"),
        ({}, {"text": "t", "prompt": "p"}, "text"),
        ({"text": "text"}, {"text": "t", "messages": TURNS}, "text"),
        ({"prompt": "q", "completion": "a"}, {"q": "p", "a": "c", "text": "t"}, "completion"),
    ],
    ids=[
        "messages go before all",
        "pairs go before plain text",
        "half a pair is none",
        "a named column goes before default names",
        "pairs under names of their own",
    ],
)
def test_which_columns_are_learned(
    load: Loader, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, columns: dict[str, str], row: object, want: str
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", CHATML)
    text, learned = shown(tokenizer, load(row, columns=columns).train.examples[0])
    kinds = {"messages": "<|user|>", "completion": "<s>pc</s>", "text": "<s>t</s>"}
    assert text.startswith(kinds[want])
    assert (learned == text) == (want == "text")


def test_empty_rows_of_plain_text_are_left_out_and_counted(load: Loader) -> None:
    train = load({"text": "abc"}, {"text": ""}, {"text": "de"}).train
    assert (len(train.examples), train.dropped, train.truncated) == (2, 1, 0)


CLASSIFY = {"type": "SequenceClassification"}


@pytest.mark.parametrize(
    ("rows", "task", "want_labels", "want"),
    [
        (["b", "a", "b"], CLASSIFY, ["a", "b"], [1, 0, 1]),
        (["10", "9", "-1"], CLASSIFY, ["-1", "9", "10"], [2, 1, 0]),
        ([1, 0, 1], CLASSIFY, ["0", "1"], [1, 0, 1]),
        (["01", "1", "0"], CLASSIFY, ["0", "01", "1"], [1, 2, 0]),
        (["10", "9", "x"], CLASSIFY, ["10", "9", "x"], [0, 1, 2]),
        (["b", "b"], {**CLASSIFY, "sequenceClassification": {"labels": ["c", "b"]}}, ["c", "b"], [1, 1]),
        ([1, 0], {**CLASSIFY, "sequenceClassification": {"labels": ["1", "0"]}}, ["1", "0"], [0, 1]),
    ],
    ids=[
        "sorted by name",
        "numbers sorted as numbers",
        "integers in JSON",
        "two spellings of a number have one order",
        "not all numbers: sorted by name",
        "in the task's order, also unseen ones",
        "integers against the task's names",
    ],
)
def test_labels(load: Loader, rows: list[Any], task: Any, want_labels: list[str], want: list[int]) -> None:
    splits = load(*({"text": "x", "label": label} for label in rows), task=task)
    assert splits.labels == splits.train.labels == want_labels
    assert [example.labels for example in splits.train.examples] == want


def test_a_long_text_to_classify_keeps_its_special_tokens(load: Loader, tokenizer: Any) -> None:
    rows = ({"text": "abcdefgh", "label": 0}, {"text": "abc", "label": 1})
    train = load(*rows, task=CLASSIFY, maxLength=4).train
    assert train.truncated == 1
    assert [tokenizer.decode(example.input_ids) for example in train.examples] == ["<s>abc", "<s>abc"]


@pytest.mark.parametrize(
    ("labels", "want"),
    [([["b", "a"], ["a"], []], [(1, 1), (1, 0), (0, 0)]), (["b|a", "a", ""], [(1, 1), (1, 0), (0, 0)])],
    ids=["lists", "separated, as in CSV"],
)
def test_any_number_of_labels(load: Loader, labels: list[Any], want: list[Any]) -> None:
    task = {**CLASSIFY, "sequenceClassification": {"problem": "MultiLabel"}}
    splits = load(*({"text": "x", "label": each} for each in labels), task=task)
    assert splits.labels == ["a", "b"]
    assert [example.labels for example in splits.train.examples] == want


def test_a_number_for_a_text(load: Loader) -> None:
    task = {**CLASSIFY, "sequenceClassification": {"problem": "Regression"}}
    splits = load(*({"text": "x", "label": number} for number in (1, -0.5, "2e-1")), task=task)
    assert splits.labels is None
    assert [example.labels for example in splits.train.examples] == [1.0, -0.5, 0.2]


def test_a_source_and_its_target(load: Loader, tokenizer: Any) -> None:
    task = {"type": "Seq2SeqLM", "seq2seqLM": {"sourcePrefix": "up: "}}
    train = load({"source": "ab", "target": "AB"}, {"source": "abcdef", "target": "ABCDEF"}, task=task, maxLength=8)
    sources = [tokenizer.decode(sample.source_ids) for sample in train.train.examples]
    targets = [tokenizer.decode(sample.target_ids) for sample in train.train.examples]
    assert sources == ["<s>up: ab", "<s>up: abc"]
    assert targets == ["<s>AB</s>", "<s>ABCDEF</s>"]
    assert [sample.target for sample in train.train.examples] == ["AB", "ABCDEF"]
    assert [sample.length for sample in train.train.examples] == [7 + 4, 8 + 8]
    assert train.train.truncated == 1


TAG = {"type": "TokenClassification"}


def test_a_word_s_tag_is_learned_at_its_first_token(load: Loader) -> None:
    splits = load({"tokens": ["Ann", "é", "x"], "tags": ["B-PER", "I-PER", "O"]}, task=TAG)
    assert splits.labels == ["O", "B-PER", "I-PER"]
    #                           <s>      A  n        n        ' '      é (2 bytes) ' '      x
    want = (IGNORED, 1, IGNORED, IGNORED, IGNORED, 2, IGNORED, IGNORED, 0)
    assert splits.train.examples[0].labels == want


def test_each_token_of_a_span_is_learned_and_those_outside(load: Loader) -> None:
    spans = [{"start": 3, "end": 5, "label": "LOC"}, {"start": 0, "end": 2, "label": "PER"}]
    splits = load({"text": "ab cdx", "spans": spans}, task=TAG)
    assert splits.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert splits.train.examples[0].labels == (IGNORED, 3, 4, 0, 1, 2, 0)


def test_labels_of_words_are_in_the_task_s_order(load: Loader) -> None:
    given = {**TAG, "tokenClassification": {"labels": ["PER", "LOC"]}}
    assert load({"tokens": ["a"], "tags": ["B-LOC"]}, task=given).labels == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    plain = {**TAG, "tokenClassification": {"scheme": "Plain"}}
    splits = load({"tokens": ["a", "b"], "tags": [7, 12]}, task=plain)
    assert splits.labels == ["7", "12"]
    assert splits.train.examples[0].labels == (IGNORED, 0, IGNORED, 1)


def test_words_that_are_cut_are_not_learned(load: Loader) -> None:
    rows = ({"tokens": ["abcd", "e"], "tags": ["O", "B-X"]}, {"tokens": ["a", "b"], "tags": ["B-X", "O"]})
    train = load(*rows, task=TAG, maxLength=4).train
    assert train.truncated == 1
    assert [example.labels for example in train.examples] == [
        (IGNORED, 0, IGNORED, IGNORED),
        (IGNORED, 1, IGNORED, 0),
    ]


def test_every_format_says_the_same(spec: Callable[..., PeftJobSpec], tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"text": 'a "quoted", line\nand "one" more', "label": "x"}, {"text": "é ü", "label": "y"}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "d.csv").write_text(
        '\ufefftext,label\r\n"a ""quoted"", line\nand ""one"" more",x\r\né ü,y\r\n', encoding="utf-8", newline=""
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    (tmp_path / "renamed").write_bytes((tmp_path / "d.csv").read_bytes())

    def load_file(name: str, **dataset: Any) -> Splits:
        job = spec(f"file://{tmp_path / name}", task=CLASSIFY, **dataset)
        return load_splits(job, tokenizer, StorageSpec(), tmp_path / "work")

    want = load_file("d.jsonl")
    assert len(want.train.examples) == 2
    for found in (load_file("d.csv"), load_file("d.parquet"), load_file("renamed", format="CSV")):
        assert list(found.train.examples) == list(want.train.examples)
        assert found.train.digest == want.train.digest


def test_chats_in_parquet(
    spec: Callable[..., PeftJobSpec], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", CHATML)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": TURNS}]), tmp_path / "d.parquet")
    splits = load_splits(spec(f"file://{tmp_path}/d.parquet"), tokenizer, StorageSpec(), tmp_path / "work")
    assert shown(tokenizer, splits.train.examples[0])[1].endswith("a2<|end|>\n")


def test_a_tokenizer_without_offsets_learns_the_same_turns(spec: Callable[..., PeftJobSpec], tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    slow = ByT5Tokenizer(chat_template=CHATML)
    assert not slow.is_fast
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": TURNS}))
    splits = load_splits(spec(f"file://{tmp_path}/train.jsonl"), slow, StorageSpec(), tmp_path / "work")
    example = splits.train.examples[0]
    assert isinstance(example.labels, tuple)
    assert slow.decode([label for label in example.labels if label != IGNORED]) == "a1<|end|>\na2<|end|>\n"


def test_a_tokenizer_that_begins_texts_with_a_space_does_not_put_one_before_completions(
    spec: Callable[..., PeftJobSpec], tmp_path: Path
) -> None:
    """As SentencePiece models do: a completion by itself would begin with a token that never follows the prompt."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: n for n, token in enumerate(["</s>", "▁", "a", "b", "c", "▁b"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "b")]))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "bc"}\n{"prompt": "a ", "completion": "b"}\n')
    splits = load_splits(spec(f"file://{tmp_path}/train.jsonl"), tokenizer, StorageSpec(), tmp_path / "work")
    tokens = [tokenizer.convert_ids_to_tokens(example.input_ids) for example in splits.train.examples]
    assert tokens[0] == ["▁", "a", "b", "c", "</s>"]
    # The prompt's last space would melt into the completion: the prompt's own tokens stay as they are at inference.
    assert tokens[1][:3] == ["▁", "a", "▁"]
