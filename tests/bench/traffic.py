"""What crosses the network while loading, in a step and in a save: by shard group, and by today's stack.

Two ranks of one node for `Full`; two nodes of two ranks each, in network namespaces with a cable between them, for
`Node`. Bytes of collectives are counted where they are called, bytes between nodes at the cable.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from kit import jobs, models, nodes
from kit.collectives import GATHERS, OPERATIONS
from kit.launch import Gang, run_ranks
from kit.table import Found, at_most, equal, told

MODEL, LORA_RANK = "llama-26m", 16
STEPS = 10
TOKENS, MICRO_BATCH = 32, 2
MIN_TRAINED_BYTES = 4e6
"""So that fixed costs do not count for much."""
BOOKKEEPING_BYTES = 64e3
BAR_GRADIENTS, BAR_GATHERED, BAR_SAVED, BAR_SAVING_MEMORY = 1.1, 1.9, 1.1, 100e6
BAR_MISSED = 0.05
"""Headers and connections are carried too."""
Rank = dict[str, Any]


def measure(scratch: Path, *, quick: bool) -> Found:
    """Run all jobs of this part; quick: fewer steps, and today's stack not on two nodes."""
    steps = 4 if quick else STEPS
    base = models.write(MODEL, scratch / MODEL)
    data = scratch / "dense.jsonl"
    jobs.write_dense(data, 64, TOKENS)
    found = Found(raw={"base": base})
    one_node(found, scratch, data, base, steps)
    lacking = nodes.missing()
    if lacking:
        print(f"traffic: no two nodes without {lacking}: what crosses between nodes is not measured")
        return found
    two_nodes(found, scratch, data, base, steps, with_library=not quick)
    return found


def job(
    scratch: Path, data: Path, name: str, sharding: str, gang: Gang, accumulation: int = 1, **training: Any
) -> dict[str, Any]:
    """Return a job for `ways.ours`."""
    body = jobs.job(
        f"file://{scratch / MODEL}", data, scratch / f"out-{name}",
        sharding=sharding, nodes=gang.nodes, ranks=gang.ranks_per_node, rank=LORA_RANK,
        batchSize=MICRO_BATCH * gang.world * accumulation, microBatchSize=MICRO_BATCH, **training,
    )  # fmt: skip
    return {"body": body, "model": str(scratch / MODEL), "counts_wires": True, "name": name}


def one_node(found: Found, scratch: Path, data: Path, base: int, steps: int) -> None:
    """Measure `Full` on two ranks: gathers of a step, and a save."""
    gang = Gang()
    plain = job(scratch, data, "plain", "Full", gang, maxSteps=steps)
    checkpointed = job(scratch, data, "checkpointed", "Full", gang, maxSteps=steps, gradientCheckpointing=True)
    ours = run_ranks("ours", {"jobs": [plain, checkpointed]}, gang, scratch)
    theirs = run_ranks("library", {"job": checkpointed}, gang, scratch)
    found.raw |= {"full": ours, "library": theirs}
    least = base * (gang.world - 1) / gang.world  # what each rank lacks
    without, with_ = ([rank[number] for rank in ours] for number in (0, 1))
    alive = max(rank["base"]["peak"] - rank["base"]["partition"] for rank in with_ if rank["base"])
    found.rows += [
        at_most("loading, Full: bytes in collectives (0 and bookkeeping)", most(with_, "Loading"), BOOKKEEPING_BYTES,
                "B", library=most(theirs, "Loading")),
        at_most("step, Full, checkpointing: gathered per rank and micro step, by base x (N-1)/N",
                most(with_, "Training", GATHERS) / steps / least, BAR_GATHERED, "x",
                library=most(theirs, "Training", GATHERS) / steps / least),
        at_most("step, Full, checkpointing: gathered base alive at once (2 blocks + largest embedding)", alive,
                2 * largest_block() + largest_embedding(), "B"),
        told("step, Full, no checkpointing: gathered per rank and micro step, by base x (N-1)/N",
             most(without, "Training", GATHERS) / steps / least, "x"),
    ]  # fmt: skip
    found.rows.append(
        equal("first loss, beside the library's (to 1e-3)",
              holds=abs(with_[0]["losses"][0] - theirs[0]["losses"][0]) <= 1e-3 * theirs[0]["losses"][0])
    )  # fmt: skip
    trained = 4 * with_[0]["plan"]["trainableParameters"]
    published = sum(f.stat().st_size for f in (scratch / "out-checkpointed").iterdir() if f.suffix == ".safetensors")
    sent = sum(total(rank, "Saving") for rank in with_)
    written = sum(f.stat().st_size for f in next(scratch.glob("library-*/adapter")).glob("*.safetensors"))
    theirs_sent = sum(total(rank, "Saving") for rank in theirs)
    found.rows += [
        at_most("saving: bytes in collectives and to the store, by the trained fp32 bytes",
                (sent + published) / trained, BAR_SAVED, "x", library=(theirs_sent + written) / trained),
        at_most("saving: peak extra memory of a rank (adapter + 100 MB)", max(r["saving peak"] for r in with_),
                published + BAR_SAVING_MEMORY, "B", library=max(r["saving peak"] for r in theirs)),
    ]  # fmt: skip


def two_nodes(found: Found, scratch: Path, data: Path, base: int, steps: int, *, with_library: bool) -> None:
    """Measure `Node` on two nodes, accumulating 1 and 4 micro steps, and `Replicate` beside it."""
    with nodes.two_nodes(2) as gang:
        once = job(scratch, data, "node-1", "Node", gang, maxSteps=steps)
        four = job(scratch, data, "node-4", "Node", gang, 4, maxSteps=steps)
        copies = job(scratch, data, "copies", "Replicate", gang, maxSteps=steps)
        ours = run_ranks("ours", {"jobs": [once, four, copies]}, gang, scratch)
        theirs = run_ranks("library", {"job": once}, gang, scratch) if with_library else []
    found.raw |= {"two nodes": ours, "library on two nodes": theirs}
    trained = 4 * ours[0][0]["plan"]["trainableParameters"]
    assert trained >= MIN_TRAINED_BYTES, f"only {trained} bytes are trained"
    crossing = [on_nodes(ours, lambda rank, n=n: cable(rank[n], steps)) for n in range(3)]
    library = on_nodes(theirs, lambda rank: cable(rank, steps) / trained) if theirs else None
    library_loading = on_nodes(theirs, loading_cable) if theirs else None
    for number, name in enumerate(("Node", "Node, accumulating 4", "Replicate")):
        each = [rank[number] for rank in ours]
        found.rows += [
            at_most(f"loading, {name}: bytes that a node receives (0 and bookkeeping)", on_nodes(each, loading_cable),
                    BOOKKEEPING_BYTES, "B", library=None if number else library_loading),
            at_most(f"loading, {name}: bytes in collectives within a node",
                    most(each, "Loading"), base + BOOKKEEPING_BYTES if name == "Replicate" else BOOKKEEPING_BYTES, "B"),
            at_most(f"step, {name}: bytes that cross, of a node and direction, beside 1.1 x the trained fp32 bytes",
                    max(0, crossing[number] - BAR_GRADIENTS * trained), BOOKKEEPING_BYTES, "B"),
            told(f"step, {name}: bytes that cross, of a node and direction, by the trained fp32 bytes",
                 crossing[number] / trained, "x", library=None if number else library),
            equal(f"step, {name}: adapters of all ranks after {steps} steps",
                  holds=len({rank["adapter"] for rank in each}) == 1),
        ]  # fmt: skip
    # Not of `Replicate`: there are only sums, for which gloo sends more than the best algorithm would.
    apart = max(missed([rank[n] for rank in ours]) for n in (0, 1))
    found.rows.append(at_most("step, Node: by how much counters and interfaces differ", apart, BAR_MISSED, "x"))
    per_micro = (crossing[1] - crossing[0]) / 3  # three more micro steps carry what micro steps carry
    gathered = max(total(rank[n], "Training", GATHERS, across=True) for rank in ours for n in (0, 1))
    found.rows += [
        at_most("step, Node: bytes that cross per micro step (0 and bookkeeping)", max(0.0, per_micro),
                BOOKKEEPING_BYTES, "B"),
        at_most("step, Node: bytes gathered by groups that span nodes", gathered, 0, "B"),
    ]  # fmt: skip


def on_nodes(ranks: Sequence[Any], figure: Callable[[Any], float]) -> float:
    """Return the larger figure of the two nodes, as the first rank of each saw it."""
    return max(figure(rank) for rank in ranks[:: len(ranks) // len(nodes.ADDRESSES)])


def total(rank: Rank, phase: str, operations: Iterable[str] = OPERATIONS, *, across: bool | None = None) -> int:
    """Return the bytes that a rank received in a phase; see `Collectives.total`."""
    sides = [rank["within"]] * (across is not True) + [rank["across"]] * (across is not False)
    return int(sum(side.get(phase, {}).get(operation, 0) for side in sides for operation in operations))


def most(ranks: Iterable[Rank], phase: str, operations: Iterable[str] = OPERATIONS) -> int:
    """Return the most that any rank received."""
    return max(total(rank, phase, operations) for rank in ranks)


def cable(rank: Rank, steps: int) -> int:
    """Return the most bytes that crossed in one direction in one step but the first, which also makes connections."""
    marks = [wire[nodes.CABLE] for wire in rank["wires"][1:]]
    assert len(marks) == steps + 1
    return max(b - a for one, other in pairwise(marks[1:]) for a, b in zip(one, other, strict=True))


def missed(ranks: Sequence[Rank]) -> float:
    """Return by how much counters and interfaces differ on the bytes that a node's ranks received while training."""
    per_node = len(ranks) // len(nodes.ADDRESSES)
    apart: list[float] = []
    for first in range(0, len(ranks), per_node):
        marks = ranks[first]["wires"]
        carried = sum(marks[-1][name][0] - marks[1][name][0] for name in ("lo", nodes.CABLE))
        counted = sum(total(rank, "Training") for rank in ranks[first : first + per_node])
        apart.append(abs(carried - counted) / carried)
    return max(apart)


def loading_cable(rank: Rank) -> int:
    """Return the bytes that a node received until training began."""
    before, after = (wire[nodes.CABLE][0] for wire in rank["wires"][:2])
    return int(after - before)


def largest_block() -> int:
    """Return the fp32 bytes of one block of the model."""
    s = models.MODELS[MODEL].settings
    heads = 2 * s["hidden_size"] ** 2 * (1 + s["num_key_value_heads"] / s["num_attention_heads"])
    return round(4 * (heads + 3 * s["hidden_size"] * s["intermediate_size"] + 2 * s["hidden_size"]))


def largest_embedding() -> int:
    """Return the fp32 bytes of the embeddings."""
    settings = models.MODELS[MODEL].settings
    return int(4 * settings["hidden_size"] * settings["vocab_size"])
