"""Samples that lie in files: read like a list, held by nobody, the same for ranks and nodes that have read the same."""

import pickle
import random
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peftjob_api import PeftJobSpec, Reason
from peftjob_api.spec import StorageSpec
from peftjob_testkit.rows import classified, lines
from peftjob_trainer import same_data
from peftjob_trainer.data import Example, Picture, Splits, lengths_of, load_once, load_splits
from peftjob_trainer.data.stored import StoredSamples, Writer
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.same_data import check_same

COUNT = 200
Load = Callable[..., Splits]


def example(number: int) -> Example:
    return Example((number,) * (1 + number % 7), number)


@pytest.fixture
def stored(tmp_path: Path) -> StoredSamples:
    with Writer(tmp_path / "train.pickle") as writer:
        for number in range(COUNT):
            writer.add(example(number), number % 10 == 0)
        return writer.finish()[0]


@pytest.fixture
def load(spec: Callable[..., PeftJobSpec], tokenizer: Any, tmp_path: Path) -> Load:
    """Return a function that loads a JSONL file of some bytes, as one of two nodes does."""

    def run(body: bytes, node: int = 0, task: Any = None, **dataset: Any) -> Splits:
        (tmp_path / "train.jsonl").write_bytes(body)
        job = spec(f"file://{tmp_path}/train.jsonl", task=task, **dataset)
        return load_splits(job, tokenizer, StorageSpec(), tmp_path / f"work-{node}")

    return run


def test_they_are_read_like_a_list(stored: StoredSamples) -> None:
    want = [example(number) for number in range(COUNT)]
    assert list(stored) == want
    assert [stored[0], stored[-1], stored[np.int64(7)]] == [want[0], want[-1], want[7]]
    assert list(stored[5:80:3]) == want[5:80:3]
    assert list(stored[190:]) == want[190:]
    assert (len(stored), len(stored[150:])) == (COUNT, 50)
    with pytest.raises(IndexError):
        stored[COUNT]
    assert lengths_of(stored[:9]) == [each.length for each in want[:9]]
    assert stored.cut.sum() == COUNT // 10


def test_some_of_some_are_those_of_the_file(stored: StoredSamples) -> None:
    places = np.array(random.Random(0).sample(range(COUNT), 90))
    part = stored.take(places)
    assert list(part) == [example(int(place)) for place in places]
    assert list(part.take(np.array([3, 1]))) == [example(int(places[3])), example(int(places[1]))]
    assert lengths_of(part) == [example(int(place)).length for place in places]


def test_another_process_of_the_node_reads_the_same(stored: StoredSamples) -> None:
    stored[0]
    assert list(pickle.loads(pickle.dumps(stored[10:20]))) == [example(number) for number in range(10, 20)]


def test_the_data_is_in_nobodys_memory(load: Load) -> None:
    """4 million tokens, which as lists of numbers would be 32 MB."""
    body = lines(*({"text": "x" * 4000} for _ in range(1000)))
    tracemalloc.start()
    try:
        splits = load(body, maxLength=4096, validationFraction=0.1)
        total = sum(sample.length for split in splits.each() for sample in split.examples)
        peak = tracemalloc.get_traced_memory()[1] - len(body)
    finally:
        tracemalloc.stop()
    assert total == 1000 * 4002
    assert peak < 4e6


def test_one_rank_encodes_and_the_others_read_what_it_did(
    spec: Callable[..., PeftJobSpec], tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_bytes(lines(*(classified(label, "xyz") for label in "abab")))
    job = spec(f"file://{tmp_path}/train.jsonl", task={"type": "SequenceClassification"}, testFraction=0.25)
    found: list[Splits] = []

    def other() -> None:
        found.append(load_once(job, None, StorageSpec(), tmp_path / "work", is_first=False))

    waiting = threading.Thread(target=other)
    waiting.start()
    first = load_once(job, tokenizer, StorageSpec(), tmp_path / "work", is_first=True)
    waiting.join(10)
    (theirs,) = found
    assert theirs.labels == first.labels == ["a", "b"]
    assert [list(split.examples) for split in theirs.each()] == [list(split.examples) for split in first.each()]
    assert [split.name for split in theirs.each()] == ["train", "test"]


def compare(monkeypatch: pytest.MonkeyPatch, *nodes: Splits) -> None:
    """Compare what nodes of two ranks have read."""
    told: list[torch.Tensor] = []

    def gather(found: list[torch.Tensor], own: torch.Tensor) -> None:
        """Stand for as many nodes as have told: the first sees itself only."""
        told.append(own)
        for rank, place in enumerate(found):
            place.copy_(told[rank // 2])

    fake = SimpleNamespace(get_world_size=lambda: 2 * len(told) + 2, all_gather=gather)
    monkeypatch.setattr(same_data, "dist", fake)
    for splits in nodes:
        check_same(splits, torch.device("cpu"), 2)


BODY = lines(*({"text": "xyz"} for _ in range(8)))
CLASSES = lines(*(classified(label) for label in "abab"))


@pytest.mark.parametrize(
    ("first", "second", "options", "want"),
    [
        (BODY, BODY + lines({"text": "x"}), {}, "node 1 has read other train data than node 0 (9 examples, not 8)"),
        (BODY, BODY.replace(b"xyz", b"xya", 1), {}, "(8 examples, but other ones)"),
        (CLASSES, CLASSES.replace(b'"a"', b'"c"'), {"task": {"type": "SequenceClassification"}}, "but other ones"),
    ],
    ids=["a row more", "another letter", "labels by other names"],
)
def test_a_node_with_other_data_is_named(
    first: bytes, second: bytes, options: dict[str, Any], want: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(monkeypatch, load(first, 0, **options), load(first, 1, **options))
    with pytest.raises(TrainerError) as error:
        compare(monkeypatch, load(first, 0, **options), load(second, 1, **options))
    assert error.value.reason is Reason.DATASET_DIFFERS
    assert want in error.value.message


def test_a_copy_of_an_image_is_the_same_image_wherever_it_lies(tmp_path: Path) -> None:
    digests = []
    for folder, body in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(body)
        with Writer(tmp_path / folder / "train.pickle") as writer:
            writer.add(Picture(tmp_path / folder / "1.png", 0, "train.jsonl line 1", 1), False)
            digests.append(writer.finish()[1])
    assert digests[0] == digests[1] != digests[2]
