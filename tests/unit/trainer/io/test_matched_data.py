"""What rows of queries and items become, and each way in which they can be wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peftjob_api import PeftJobSpec, Reason
from peftjob_api.spec import StorageSpec
from peftjob_testkit.rows import lines
from peftjob_trainer.data import Match, Splits, load_splits
from peftjob_trainer.exits import TrainerError

Loader = Callable[..., Splits]


@pytest.fixture
def load(spec: Callable[..., PeftJobSpec], tokenizer: Any, tmp_path: Path) -> Loader:
    """Return a function that loads a file."""

    def run(body: bytes, name: str = "train.jsonl", **dataset: Any) -> Splits:
        path = tmp_path / name
        path.write_bytes(body)
        job = spec(f"file://{path}", task={"type": "Ranking"}, **dataset)
        return load_splits(job, tokenizer, StorageSpec(), tmp_path / "work")

    return run


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ({"query": "ab", "item": "c"}, ("<s>ab", "<s>c")),
        ({"query": ["a", "b"], "item": "c"}, ("<s>a, b", "<s>c")),
        ({"query": [17, 4], "item": 5}, ("<s>17, 4", "<s>5")),
        ({"query": "a", "item": "b", "negatives": ["c", 7]}, ("<s>a", "<s>b", "<s>c", "<s>7")),
        ({"query": ["abcd", "ef", "g"], "item": "c"}, ("<s>ef, g", "<s>c")),
        ({"query": ["a", "bcdefghij"], "item": "c"}, ("<s>bcdefg", "<s>c")),
    ],
    ids=[
        "texts",
        "a history",
        "a history of numbers",
        "items that do not fit",
        "a history whose earliest things have no room",
        "a history whose latest thing has no room",
    ],
)
def test_queries_and_items(load: Loader, tokenizer: Any, row: Any, want: tuple[str, ...]) -> None:
    (match,) = load(lines(row), maxLength=7).train.examples
    assert isinstance(match, Match)
    texts = [match.query, match.item, *match.negatives]
    found = ["".join(tokenizer.convert_ids_to_tokens(ids)).replace("Ġ", " ").removesuffix("</s>") for ids in texts]
    assert tuple(found) == want
    assert match.length == sum(map(len, texts))


@pytest.mark.parametrize(
    ("body", "want", "want_in_message"),
    [
        (
            lines({"query": "a", "bought": "b"}),
            Reason.DATASET_COLUMN_MISSING,
            ("train.jsonl", "'item'", "'query', 'bought'", "spec.dataset.columns.item"),
        ),
        (
            lines({"query": "a", "item": "b"}, {"query": "a", "item": 0.5}),
            Reason.DATASET_MALFORMED,
            ("train.jsonl line 2", "'item' holds a JSON number", "write a string"),
        ),
        (
            b"query,item\na,b\n ,b\n",
            Reason.DATASET_MALFORMED,
            ("train.csv line 3", "'query' is empty", "write a text"),
        ),
        (
            lines({"query": [], "item": "b"}),
            Reason.DATASET_MALFORMED,
            ("train.jsonl line 1", "'query' is an empty list", "write a history"),
        ),
        (
            lines({"query": ["a", None], "item": "b"}),
            Reason.DATASET_MALFORMED,
            ("train.jsonl line 1", "item 2 of column 'query' is a JSON null", "list of texts or numbers"),
        ),
        (
            lines({"query": "a", "item": "b", "negatives": "c"}),
            Reason.DATASET_MALFORMED,
            ("train.jsonl line 1", "'negatives' holds a JSON string, no list", "write a list of items"),
        ),
        (
            lines({"query": "a", "item": "b", "negatives": ["c", "b"]}),
            Reason.DATASET_MALFORMED,
            ("train.jsonl line 1", "'negatives' has the item that fits, 'b'", "remove it"),
        ),
    ],
    ids=[
        "no item",
        "an item that is a fraction",
        "an empty query",
        "an empty history",
        "nothing in a history",
        "negatives that are no list",
        "an item that fits and does not",
    ],
)
def test_wrong_rows_are_named_with_the_fix(
    load: Loader, body: bytes, want: Reason, want_in_message: tuple[str, ...]
) -> None:
    with pytest.raises(TrainerError) as error:
        load(body, "train.csv" if body.startswith(b"query,") else "train.jsonl")
    assert error.value.reason is want, error.value.message
    assert [part for part in want_in_message if part not in error.value.message] == [], error.value.message
