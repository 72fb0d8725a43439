"""What rows of two answers become, and each way in which they can be wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peftjob_api import PeftJobSpec, Reason
from peftjob_api.spec import StorageSpec
from peftjob_testkit.rows import answered, lines, turn
from peftjob_trainer.data import IGNORED, Example, Preference, Splits, load_splits
from peftjob_trainer.exits import TrainerError

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Loader = Callable[..., Splits]
ASKED, B, C = turn("user", "q"), turn("assistant", "b"), turn("assistant", "c")
BEFORE = [turn("user", "q1"), turn("assistant", "a1"), turn("user", "q2")]


@pytest.fixture
def load(spec: Callable[..., PeftJobSpec], tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Return a function that loads a file."""

    def run(body: bytes, name: str = "train.jsonl", template: str | None = CHATML, **dataset: Any) -> Splits:
        monkeypatch.setattr(tokenizer, "chat_template", template)
        path = tmp_path / name
        path.write_bytes(body)
        job = spec(f"file://{path}", task={"type": "PreferenceOptimisation"}, **dataset)
        return load_splits(job, tokenizer, StorageSpec(), tmp_path / "work")

    return run


def learned(tokenizer: Any, example: Example) -> str:
    """Return an example as text, with the tokens that are not learned before a bar."""
    assert isinstance(example.labels, tuple)
    start = next(place for place, label in enumerate(example.labels) if label != IGNORED)
    assert example.labels[start:] == example.input_ids[start:]
    parts = example.input_ids[:start], example.input_ids[start:]
    texts = ("".join(tokenizer.convert_ids_to_tokens(ids)).replace("Ġ", " ").replace("Ċ", "\n") for ids in parts)
    return "|".join(texts)


ONE_TURN = ("<|user|>q<|end|>\n<|assistant|>|b<|end|>\n", "<|user|>q<|end|>\n<|assistant|>|c<|end|>\n")
EARLIER = "<|user|>q1<|end|>\n<|assistant|>a1<|end|>\n<|user|>q2<|end|>\n<|assistant|>|"


@pytest.mark.parametrize(
    ("row", "want"),
    [
        (answered(" b", " cd"), ("<s>a| b</s>", "<s>a| cd</s>")),
        (
            {"chosen": [*BEFORE, B], "rejected": [*BEFORE, C]},
            (f"{EARLIER}b<|end|>\n", f"{EARLIER}c<|end|>\n"),
        ),
        (answered([B], [C], prompt="q"), ONE_TURN),
        (answered([B], [C], prompt=[ASKED]), ONE_TURN),
        (answered([ASKED, B], [ASKED, C], prompt="q"), ONE_TURN),
    ],
    ids=["texts", "whole chats", "answers to a text", "answers to messages", "whole chats with their prompt beside"],
)
def test_two_answers(load: Loader, tokenizer: Any, row: Any, want: tuple[str, str]) -> None:
    splits = load(lines(row))
    (pair,) = splits.train.examples
    assert isinstance(pair, Preference)
    assert (learned(tokenizer, pair.chosen), learned(tokenizer, pair.rejected)) == want
    assert pair.length == pair.chosen.length + pair.rejected.length
    assert splits.chat == pair.is_chat == ("user" in want[0])


def test_answers_that_are_cut_to_the_same_are_left_out(load: Loader) -> None:
    splits = load(lines(answered("bcdefgh", "bcdefgx"), answered("b", "c")), maxLength=6)
    assert (len(splits.train.examples), splits.train.dropped) == (1, 1)


@pytest.mark.parametrize(
    ("body", "want", "want_in_message"),
    [
        (
            lines({"prompt": "a", "chosen": "b", "other": "c"}),
            Reason.DATASET_COLUMN_MISSING,
            ("train.jsonl", "'rejected'", "'prompt', 'chosen', 'other'", "spec.dataset.columns.rejected"),
        ),
        (
            lines({"chosen": "b", "rejected": "c"}),
            Reason.DATASET_COLUMN_MISSING,
            ("train.jsonl line 1", "no column 'prompt'", "spec.dataset.columns.prompt"),
        ),
        (
            lines(answered("b", "c"), answered("b", 5)),
            Reason.DATASET_MALFORMED,
            ("train.jsonl line 2", "'rejected' holds a JSON number", "write a string"),
        ),
        (
            b"prompt,chosen,rejected\na,b,c\na, ,c\n",
            Reason.DATASET_MALFORMED,
            ("train.csv line 3", "'chosen' is empty", "write a text"),
        ),
        (
            lines(answered("b", "b")),
            Reason.DATASET_MALFORMED,
            ("train.jsonl line 1", "'chosen' and 'rejected' hold the same", "remove the row"),
        ),
        (
            lines(answered([B], "c")),
            Reason.DATASET_MALFORMED,
            ("train.jsonl line 1", "'rejected' holds a JSON string", "list of {role, content} objects"),
        ),
        (
            lines(answered([ASKED, B], [ASKED])),
            Reason.DATASET_MALFORMED,
            ("train.jsonl line 1", "'rejected' has no message of the role assistant", "the assistant's answer"),
        ),
        (
            lines(answered([B], [C], prompt="no template")),
            Reason.INVALID_CONFIG,
            ("train.jsonl", "'chosen'", "no chat template"),
        ),
    ],
    ids=[
        "no rejected answer",
        "answers to no prompt",
        "an answer that is a number",
        "an empty answer",
        "twice the same answer",
        "a chat and a text",
        "a chat that the assistant does not answer",
        "chats, and a tokenizer without template",
    ],
)
def test_wrong_rows_are_named_with_the_fix(
    load: Loader, body: bytes, want: Reason, want_in_message: tuple[str, ...]
) -> None:
    name = "train.csv" if body.startswith(b"prompt,") else "train.jsonl"
    with pytest.raises(TrainerError) as error:
        load(body, name, template=None if b"no template" in body else CHATML)
    assert error.value.reason is want, error.value.message
    assert [part for part in want_in_message if part not in error.value.message] == [], error.value.message
