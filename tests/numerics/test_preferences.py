"""DPO on sharded ranks is DPO on one, and by plain PyTorch; its reference is the untouched base."""

import json
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peftjob_trainer.order import global_batch
from test_agreement import GRADIENTS, LOSSES, largest_difference, worst
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

# peft 0.21 asks transformers 5.23 by a name that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
STEPS, BATCH, SEED, RATE = 20, 16, 42, 3e-3
BETA, SMOOTHING = 0.5, 0.1


def answers(runs: Path, name: str) -> list[list[tuple[torch.Tensor, int]]]:
    """Return of each row the ids of both answers behind their prompt, and where the answers begin."""
    tokenizer = AutoTokenizer.from_pretrained(runs / "llama")

    def ids(prompt: str, answer: str) -> tuple[torch.Tensor, int]:
        whole = [*tokenizer(prompt + answer).input_ids, tokenizer.eos_token_id]
        return torch.tensor([whole]), len(tokenizer(prompt).input_ids)

    rows = [json.loads(line) for line in (runs / f"preferences-{name}.jsonl").read_text().splitlines()]
    return [[ids(row["prompt"], row[part]) for part in ("chosen", "rejected")] for row in rows]


def log_probability(model: Any, ids: torch.Tensor, start: int) -> torch.Tensor:
    scores = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return scores.gather(1, ids[0, 1:, None])[start - 1 :].sum()


def plain(runs: Path, initial: dict[str, torch.Tensor]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the losses and the first gradients of the same training, an answer at a time, with two models."""
    base = AutoModelForCausalLM.from_pretrained(runs / "llama").eval()
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(runs / "llama"), config)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(initial[name])
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 1, STEPS)
    rows, losses, gradients = answers(runs, "33"), [], {}
    for step in range(1, STEPS + 1):
        batch = global_batch(len(rows), BATCH, SEED, step)
        total = 0.0
        for row in batch:
            with torch.no_grad():
                chosen, rejected = (log_probability(base, *answer) for answer in rows[row])
            own = [log_probability(model, *answer) for answer in rows[row]]
            preferred = torch.sigmoid(BETA * ((own[0] - chosen) - (own[1] - rejected)))
            loss = -((1 - SMOOTHING) * preferred.log() + SMOOTHING * (1 - preferred).log()) / len(batch)
            loss.backward()
            total += float(loss.detach())
        gradients = gradients or {name: p.grad.clone() for name, p in trained.items()}
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, gradients


def test_it_trains_the_same_on_one_rank_on_two_and_by_plain_pytorch(runs: Path, one: Any, two: Any) -> None:
    single = one[cases.PREFERRED]
    losses, gradients = plain(runs, single["initial"])
    for result in (single, two[0][cases.PREFERRED]):
        assert worst(result["losses"], losses) <= LOSSES
        assert largest_difference(result["gradients"], gradients) <= GRADIENTS
    assert losses[0] == pytest.approx(0.6931, abs=1e-4), "it begins as the reference"
    assert min(losses) < 0.8 * losses[0]
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 100 * GRADIENTS


@pytest.mark.parametrize("name", [cases.PREFERRED, f"{cases.PREFERRED}, dropout", f"{cases.PREFERRED}, PiSSA"])
def test_the_reference_is_the_untouched_base_after_training(name: str, runs: Path, one: Any, two: Any) -> None:
    base = AutoModelForCausalLM.from_pretrained(runs / "llama").eval()
    with torch.no_grad():
        want = [[float(log_probability(base, *answer)) for answer in row] for row in answers(runs, "9")]
    both = two[0][name]["references"] | two[1][name]["references"]
    for found in (one[name]["references"], both):
        assert sorted(found) == list(range(9))
        for number, pair in enumerate(want):
            assert found[number] == pytest.approx(pair, rel=1e-5)


def test_there_is_no_second_copy_of_the_base(two: Any) -> None:
    for result in two:
        run = result[cases.PREFERRED]
        assert run["whole"] == result["completions, accumulated"]["whole"]
        assert run["plan"]["baseBytesPerRank"] == pytest.approx(run["whole"] / 2, rel=0.01)
        assert run["gathered"] == []
    seen = two[0][cases.PREFERRED]["base"]
    assert seen["partition"] < seen["peak"] <= seen["partition"] + 2 * seen["largest_block"]


def test_it_prefers_the_chosen_answers_of_unseen_prompts(one: Any, two: Any) -> None:
    metrics = [result[cases.PREFERRED]["published"] for result in (one, *two)]
    assert metrics[1] == metrics[2]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3)
    assert metrics[0]["accuracy"] > 0.9
    assert metrics[0]["margin"] == pytest.approx(metrics[0]["chosenReward"] - metrics[0]["rejectedReward"])
    assert metrics[0]["margin"] > 0.5
