"""Several examples in one row: loss and gradients are those of the examples apart, or the model is refused."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from architectures import CAUSAL, EXPERTS, LLAMA, TEXT, Architecture  # noqa: E402 (after the path)
from decoders import DECODERS, MAMBA, make  # noqa: E402
from peftjob_api import PeftJobSpec  # noqa: E402
from peftjob_trainer.data import IGNORED, Example  # noqa: E402
from peftjob_trainer.exits import TrainerError  # noqa: E402
from peftjob_trainer.order import pack  # noqa: E402
from peftjob_trainer.tasks import packing, task_of  # noqa: E402

APART = [a for a in DECODERS if a.name not in ("bloom", "opt")] + [
    Architecture("gemma2, of layers with and without a window", CAUSAL, "gemma2",
                 {**LLAMA, "head_dim": 12, "sliding_window": 6}),
    Architecture("mistral, with a window", CAUSAL, "mistral", {**LLAMA, "sliding_window": 6}),
]  # fmt: skip
MIXED = [
    *(a for a in DECODERS if a.name in ("bloom", "opt")),  # no positions; a mask that does not ask for them
    MAMBA,
    Architecture("jamba", CAUSAL, "jamba", EXPERTS),
]
TOLERANCE = 1e-6
SPREAD = 0.2
"""Of the weights: wide enough for tokens to matter to each other."""
CPU = torch.device("cpu")
SPEC = PeftJobSpec.model_validate(
    {
        "baseModel": {"uri": "file:///model"},
        "task": {"type": "CausalLM"},
        "dataset": {"train": "file:///train.jsonl"},
        "output": {"uri": "file:///out"},
    }
)
TASK = task_of(SPEC, 0, None)


def examples() -> list[Example]:
    """Return examples of 4 to 20 tokens, of which the first are not learned."""
    chance = torch.Generator().manual_seed(3)
    found = []
    for length in (20, 4, 9, 12, 15, 7, 1):
        ids = torch.randint(3, 300, (length,), generator=chance).tolist()
        found.append(Example(tuple(ids), tuple([IGNORED] * (length // 3) + ids[length // 3 :])))
    return found


def check(model: Any) -> None:
    """Raise if the model is refused."""
    packing.check_takes_positions(model)
    packing.check_keeps_apart(model, nullcontext, CPU)


def learned(model: Any, batches: list[dict[str, torch.Tensor]]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss and the gradients of the norms and biases."""
    trained = {name: p for name, p in model.named_parameters() if p.dim() == 1}
    for parameter in trained.values():
        parameter.requires_grad_().grad = None
    total = 0.0
    for batch in batches:
        loss, _ = TASK.loss_sum(model, batch)
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}


def test_positions_restart_and_no_first_token_is_learned() -> None:
    first, second, third = Example((5, 6, 7), (5, 6, 7)), Example((8, 9), (8, 9)), Example((4, 3), (IGNORED, 3))
    batch = TASK.collate_packed([[first, second], [third]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [4, 3, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED, 9], [IGNORED, 3, IGNORED, IGNORED, IGNORED]]


@pytest.mark.parametrize("architecture", APART, ids=lambda a: a.name)
def test_a_packed_batch_teaches_what_the_examples_teach_apart(architecture: Architecture) -> None:
    model = make(architecture, SPREAD)
    given = examples()
    alone, want = learned(model, [TASK.collate([example]) for example in given])
    rows = pack([len(example.input_ids) for example in given], 32, 1)
    assert len(rows) == 3
    together, got = learned(model, [TASK.collate_packed([[given[i] for i in row] for row in rows])])
    assert together == pytest.approx(alone, rel=TOLERANCE)
    assert got.keys() == want.keys()
    largest = max(float(gradient.abs().max()) for gradient in want.values())
    assert max(float((got[name] - gradient).abs().max()) for name, gradient in want.items()) <= TOLERANCE * largest
    assert largest > 0.1
    mixed_up = TASK.collate_packed([[given[i] for i in row] for row in rows])
    mixed_up["position_ids"] = torch.arange(mixed_up["input_ids"].shape[1]).expand_as(mixed_up["input_ids"])
    assert learned(model, [mixed_up])[0] != pytest.approx(alone, rel=1e-5), "or the model looks at no other token"


@pytest.mark.parametrize("architecture", APART, ids=lambda a: a.name)
def test_a_model_that_keeps_examples_apart_is_accepted(architecture: Architecture) -> None:
    check(make(architecture, SPREAD))


@pytest.mark.parametrize("architecture", MIXED, ids=lambda a: a.name)
def test_a_model_that_mixes_examples_is_refused(architecture: Architecture) -> None:
    model = make(architecture, SPREAD)
    with pytest.raises(TrainerError, match=r"spec\.dataset\.packing: \w+ cannot keep the examples of a row apart"):
        check(model)


def test_a_model_that_ignores_positions_is_refused() -> None:
    model = make(Architecture("gpt_neox", CAUSAL, "gpt_neox", {**TEXT, "intermediate_size": 56}), SPREAD)
    inner = model.gpt_neox.rotary_emb.forward
    model.gpt_neox.rotary_emb.forward = lambda x, position_ids: inner(
        x, torch.arange(x.shape[1]).expand(x.shape[:2]) ** 2
    )
    with pytest.raises(TrainerError, match="does not begin the row"):
        packing.check_keeps_apart(model, nullcontext, CPU)
