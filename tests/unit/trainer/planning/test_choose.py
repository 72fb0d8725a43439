"""Which shard group a job takes, and what is said when it fits in none: by tables, without any model."""

from collections import Counter
from typing import Any

import pytest
from peftjob_api import PeftJobSpec, Reason
from peftjob_trainer.planning.choose import choose, options, spending, table, topology_of
from peftjob_trainer.planning.demand import Demand
from peftjob_trainer.planning.remedies import does_not_fit
from peftjob_trainer.sharding.groups import Topology

GIB = 2**30


def demand(base: float = 16, whole: float = 4, gathered: float = 1, runtime: float = 2) -> Demand:
    """Return a demand of round numbers, in GiB: a base of one parameter of one byte an element, nothing trained."""
    return Demand(
        base=Counter({(int(base * GIB), 1): 1}),
        buffers=0,
        trained=0,
        copies=0,
        whole=int(whole * GIB),
        sharded=int((whole + gathered) * GIB),
        runtime=int(runtime * GIB),
    )


def spec(nodes: int = 2, gpus: int = 4, sharding: str = "Auto", **training: Any) -> PeftJobSpec:
    return PeftJobSpec.model_validate(
        {
            "baseModel": {"uri": "s3://models/base"},
            "dataset": {"train": "s3://data/train.jsonl", "maxLength": 512},
            "training": {"batchSize": 32, **training},
            "workers": {"nodes": nodes, "gpusPerNode": gpus},
            "sharding": sharding,
            "output": {"uri": "s3://adapters/out"},
        }
    )


# A base of 16 GiB: Replicate needs 22, Node (4 ranks) 11, Full (8 ranks) 9; a tenth of the memory stays free.
CHOICES: dict[str, tuple[float, str, str | None, int]] = {
    "with room for a replica": (25, "Auto", "Replicate", 1),
    "with just the room": (22 / 0.9 + 0.001, "Auto", "Replicate", 1),
    "a little less, and the reserve is touched": (22 / 0.9 - 0.001, "Auto", "Node", 4),
    "with room for a fourth": (13, "Auto", "Node", 4),
    "with room for an eighth": (10.1, "Auto", "Full", 8),
    "with room for nothing": (9, "Auto", None, 0),
    "a forced replica that fits": (25, "Replicate", "Replicate", 1),
    "a forced replica that does not": (24, "Replicate", None, 0),
    "a forced node, where a replica would fit": (40, "Node", "Node", 4),
    "forced over all": (40, "Full", "Full", 8),
}


def test_a_guess_never_ends_a_job() -> None:
    found = options(demand(), Topology(2, 4), 1 * GIB, "Auto")
    assert choose(found) is None
    assert choose(found, is_rough=True) is found[-1]


SPARE: dict[str, tuple[float, float]] = {
    "a replica gathers nothing": (30, 0),
    "a group spends half of what it leaves": (13, (13 * 0.9 - 11) / 2),
    "but no more than the whole base": (60, 16),
}


@pytest.mark.parametrize(("memory", "want"), SPARE.values(), ids=SPARE.keys())
def test_memory_that_is_left_is_for_blocks_that_stay(memory: float, want: float) -> None:
    sharding: Any = "Node" if memory == 60 else "Auto"
    taken = choose(options(demand(), Topology(2, 4), int(memory * GIB), sharding))
    assert taken is not None
    spent = spending(taken, demand().base_bytes)
    assert spent.spare / GIB == pytest.approx(want, abs=1e-6)
    assert spent.parts.total == taken.parts.total + spent.spare
    assert spent.fits


@pytest.mark.parametrize(("memory", "sharding", "want_kind", "want_ranks"), CHOICES.values(), ids=CHOICES.keys())
def test_the_smallest_group_that_fits(memory: float, sharding: Any, want_kind: str | None, want_ranks: int) -> None:
    found = choose(options(demand(), Topology(2, 4), int(memory * GIB), sharding))
    assert (found.group.kind if found else None) == want_kind
    assert (found.group.ranks if found else 0) == want_ranks


def test_several_nodes_are_taken_before_all() -> None:
    found = choose(options(demand(base=64), Topology(4, 2), int(17.5 * GIB), "Auto"))  # 64/4 + 7 = 23, 64/8 + 7 = 15
    assert found is not None
    assert found.group.kind == "Full"
    found = choose(options(demand(base=64), Topology(4, 2), int(26 * GIB), "Auto"))
    assert found is not None
    assert (found.group.kind, found.group.ranks) == ("Nodes", 4)


def test_parts_add_up_with_padding_and_state() -> None:
    needs = Demand(Counter({(10, 2): 3, (7, 4): 1}), 100, 1000, copies=1, whole=3000, sharded=9000, runtime=1)
    alone, shared = needs.on(1), needs.on(4)
    assert alone.base == 3 * 10 * 2 + 7 * 4 + 100
    assert shared.base == 3 * 3 * 2 + 2 * 4 + 100  # ceil(10 / 4) = 3, ceil(7 / 4) = 2
    assert alone.trained == shared.trained == 5 * 4 * 1000  # parameter, gradient, two moments, and the best so far
    assert alone.activations == shared.activations == 4000  # a copy for the reduction is more than the step
    assert (alone.gathered, shared.gathered) == (0, 5000)
    assert shared.total == shared.base + 5000 + 4000 + 20000 + 1


def message(job: PeftJobSpec, memory: float, estimate: Any = None, **needs: float) -> str:
    needed = demand(**needs)
    found = options(needed, topology_of(job), int(memory * GIB), job.sharding)
    assert choose(found) is None
    error = does_not_fit(job, found, needed, estimate or (lambda changed: needed))
    assert error.reason is Reason.DOES_NOT_FIT
    assert error.code == 64
    return error.message


def by_rows(job: PeftJobSpec) -> Demand:
    """Return a demand of 4 GiB of activations for each row, and half of that with checkpointing."""
    rows = job.training.micro_batch_size or 8
    return demand(whole=rows * (2 if job.training.gradient_checkpointing else 4))


def test_the_numbers_are_named() -> None:
    said = message(spec(), 9)
    assert "needs 9.0 GiB on each GPU even in shard group Full (8 ranks)" in said
    assert "may use 8.1 GiB of 9.0 GiB" in said
    assert "base 2.0 GiB, gathered 1.0 GiB, activations 4.0 GiB" in said
    assert "GPUs of 10.0 GiB" in said


def test_more_nodes_that_would_fit_are_counted() -> None:
    # 16 / (4 n) + 7 <= 8.1 from n = 4 on.
    assert "what would fit: workers.nodes 4;" in message(spec(), 9)


def test_no_number_of_nodes_helps_against_activations() -> None:
    assert "workers.nodes" not in message(spec(gpus=1), 7)


def test_a_smaller_micro_batch_and_checkpointing_are_planned_again() -> None:
    # 2 + 1 + 2 + 4 a row, of 22.5 GiB.
    said = message(spec(microBatchSize=8), 25, by_rows, whole=32)
    assert "training.microBatchSize 4;" in said
    assert "training.gradientCheckpointing true" in said
    assert "microBatchSize 2" not in said
    assert "together" not in said


def test_what_helps_only_together_is_said_so() -> None:
    said = message(spec(microBatchSize=8), 7.5, by_rows, whole=32)  # 16/8 + 1 + 2 = 5, and 2 for a row
    assert "workers.nodes" in said
    assert "together" in said
    assert "microBatchSize 4" not in said


def test_a_forced_group_is_told_what_auto_would_do() -> None:
    assert "what would fit: sharding Auto" in message(spec(sharding="Replicate"), 12)


def test_pods_are_told_their_limit() -> None:
    job = spec()
    workers = job.workers.model_copy(update={"gpus_per_node": None, "processes_per_node": 2})
    said = message(job.model_copy(update={"workers": workers}), 9)
    assert "on each process" in said
    assert "of memory for each pod (the container's limit in spec.workers.podTemplate)" in said


def test_the_table_has_a_line_for_each_group() -> None:
    found = options(demand(), Topology(2, 4), int(13 * GIB), "Auto")
    lines = table(found, choose(found))
    assert [line.split("(")[0].strip() for line in lines[1:]] == ["Replicate", "Node", "Full"]
    assert [line.rpartition("  ")[2] for line in lines[1:]] == ["does not fit", "taken", "fits"]
    assert "22.0 GiB" in lines[1]
