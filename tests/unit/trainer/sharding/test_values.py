"""What is read of a base for something else that begins with it, and who reads it."""

from pathlib import Path

import pytest
import torch
from peftjob_api.spec import StorageSpec
from peftjob_trainer.sharding import Base
from peftjob_trainer.sharding.values import deal
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

EMBEDDINGS = "model.embed_tokens.weight"


@pytest.fixture
def base(tmp_path: Path) -> Base:
    sizes = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2}
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1)).save_pretrained(tmp_path)
    base = Base(tmp_path, f"file://{tmp_path}", StorageSpec(), torch.float32, torch.device("cpu"), seed=7)
    base.prepare(base.skeleton(AutoModelForCausalLM))
    return base


@pytest.mark.parametrize(
    "indices", [[7], [3, 4, 5], [49, 0, 7, 0], []], ids=["one", "neighbours", "in any order, one twice", "none"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_only_the_rows_that_are_asked_for_are_read(base: Base, indices: list[int], dtype: torch.dtype) -> None:
    stored = load_file(base.folder / "model.safetensors")[EMBEDDINGS]
    found = base.values.rows(EMBEDDINGS, indices, dtype)
    assert torch.equal(found, stored[indices].to(dtype))
    assert base.source.bytes_read == len(set(indices)) * 8 * 4


@pytest.mark.parametrize("row", [50, -1])
def test_a_row_that_is_not_there_is_an_error(base: Base, row: int) -> None:
    with pytest.raises(IndexError, match="50 rows"):
        base.values.rows(EMBEDDINGS, [0, row], torch.float32)


def test_a_tensor_as_a_whole(base: Base) -> None:
    stored = load_file(base.folder / "model.safetensors")[EMBEDDINGS]
    assert torch.equal(base.values.tensor(EMBEDDINGS, torch.float32), stored)


@pytest.mark.parametrize(
    ("sizes", "hands", "want"),
    [
        ({"a": 1, "b": 1, "c": 1}, 1, [["a", "b", "c"]]),
        ({"a": 5, "b": 3, "c": 3}, 2, [["a"], ["b", "c"]]),
        ({"c": 1, "a": 1, "b": 1}, 3, [["a"], ["b"], ["c"]]),
        ({"a": 1}, 3, [["a"], [], []]),
    ],
    ids=["one has all", "the largest first", "whatever order they come in", "more hands than work"],
)
def test_who_gets_what(sizes: dict[str, int], hands: int, want: list[list[str]]) -> None:
    assert deal(sizes, hands) == want
