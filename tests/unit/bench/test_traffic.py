"""What the bench of traffic makes of what ranks counted."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "tests/bench"))

import traffic
from kit.nodes import CABLE

RANK = {
    "within": {"Training": {"allgather": 5, "allreduce": 7}, "Loading": {"allreduce": 1}},
    "across": {"Training": {"allreduce": 11}},
    # Before loading, when training began, and after each of three steps: (received, sent).
    "wires": [{CABLE: mark} for mark in ((0, 0), (100, 50), (1100, 1050), (1300, 1150), (1350, 1400))],
}


def test_the_first_step_makes_connections_and_does_not_count() -> None:
    assert traffic.cable(RANK, 3) == 250


def test_bytes_that_no_counter_saw_are_found() -> None:
    marks = [{"lo": (0, 0), CABLE: (0, 0)}, {"lo": (500, 500), CABLE: (50, 7)}, {"lo": (1400, 1400), CABLE: (150, 9)}]
    ranks = [{"within": {"Training": {"allgather": number}}, "across": {}, "wires": marks} for number in (600, 400) * 2]
    assert traffic.missed(ranks) == 0
    ranks[3]["within"]["Training"] = {}
    assert traffic.missed(ranks) == 0.4


def test_loading_is_what_came_before_the_first_step() -> None:
    assert traffic.loading_cable(RANK) == 100


def test_bytes_are_summed_over_groups_and_operations() -> None:
    assert traffic.total(RANK, "Training") == 23
    assert traffic.total(RANK, "Training", ["allreduce"], across=True) == 11
    assert traffic.total(RANK, "Training", ["allreduce"], across=False) == 7
    assert traffic.total(RANK, "Saving") == 0
    assert traffic.most([RANK, {**RANK, "across": {}}], "Training") == 23


def test_of_two_nodes_the_larger_figure_counts() -> None:
    assert traffic.on_nodes([1, 9, 3, 4], float) == 3


def test_the_model_is_as_large_as_its_parts() -> None:
    settings = traffic.models.MODELS[traffic.MODEL].settings
    blocks = settings["num_hidden_layers"] * traffic.largest_block()
    norm = 4 * settings["hidden_size"]
    assert blocks + 2 * traffic.largest_embedding() + norm == 4 * parameters(settings)


def parameters(settings: dict[str, int]) -> int:
    """Return the number of parameters that transformers gives a Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        return sum(p.numel() for p in LlamaForCausalLM(LlamaConfig(**settings)).parameters())
