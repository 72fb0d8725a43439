"""What a checkpoint every ten steps costs: bytes, and step time beside the same run without any, in pairs.

Two ranks on the CPU, a Llama of 33 million parameters in fp32 of which each has a copy, 4 x 256 tokens per rank. A pair
of runs takes turns in who begins. Compared is the sum of all steps but the first and third: what the writing in the
background takes from the steps after it counts.
"""

import shutil
from pathlib import Path
from typing import Any

from kit import jobs, models
from kit.launch import Gang, run_ranks
from kit.table import Found, Row, at_most, told
from steps import LORA_RANK, MODEL, ROWS, TOKENS, counted
from traffic import most

EVERY_STEPS, STEPS = 10, 43
BAR_BYTES, BAR_TIME = 3.1, 1.03
NEVER = {"everyMinutes": 10000}


def measure(scratch: Path, rounds: int, *, quick: bool) -> Found:
    """Run the pairs; quick: a small model and few tokens."""
    changes: dict[str, Any] = {"vocab_size": 1000, "num_hidden_layers": 2} if quick else {}
    tokens = 32 if quick else TOKENS
    models.write(MODEL, scratch / MODEL, **changes)
    jobs.write_dense(scratch / "dense.jsonl", 2 * ROWS * STEPS, tokens)
    runs = {name: job(scratch, name, tokens, checkpoint) for name, checkpoint in
            (("without", NEVER), ("with", NEVER | {"everySteps": EVERY_STEPS}))}  # fmt: skip
    ranks: dict[str, list[list[Any]]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in sorted(runs, reverse=number % 2 == 0):
            shutil.rmtree(scratch / f"out-{name}", ignore_errors=True)
            found = run_ranks("ours", {"jobs": [runs[name]]}, Gang(), scratch)
            ranks[name].append([rank[0] for rank in found])
    return Found(rows_of(ranks), {"runs": ranks})


def job(scratch: Path, name: str, tokens: int, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a job for `ways.ours`."""
    body = jobs.job(
        f"file://{scratch / MODEL}", scratch / "dense.jsonl", scratch / f"out-{name}",
        sharding="Replicate", rank=LORA_RANK, maxSteps=STEPS, microBatchSize=ROWS, batchSize=2 * ROWS,
        dataset={"maxLength": tokens},
    )  # fmt: skip
    body["spec"]["checkpoint"] = checkpoint
    return {"body": body, "model": str(scratch / MODEL)}


def rows_of(ranks: dict[str, list[list[Any]]]) -> list[Row]:
    """Return the rows of what was measured."""
    first = ranks["with"][0]
    trained = 4 * first[0]["plan"]["trainableParameters"]
    sizes = [rank["checkpoints"] for each in ranks["with"] for rank in each if rank["checkpoints"]]
    counts = {name: {len(each[0]["checkpoints"]) for each in found} for name, found in ranks.items()}
    due = STEPS // EVERY_STEPS
    assert counts == {"with": {due + 1}, "without": {1}}, f"the due ones, and one after the last step: {counts}"
    size = max(size for written in sizes for size in written)
    moved = [most(ranks[name][0], "Training") for name in ("with", "without")]
    seconds = {name: total(found) for name, found in ranks.items()}
    return [
        at_most("checkpoint: bytes of its files, by the trained fp32 bytes", size / trained, BAR_BYTES, "x"),
        told("checkpoint: bytes of its files", size, "B"),
        at_most("checkpoint: bytes in collectives while training, more than without", moved[0] - moved[1], 0, "B"),
        at_most(f"step time with a checkpoint every {EVERY_STEPS} steps, by that without",
                seconds["with"] / seconds["without"], BAR_TIME, "x"),
    ]  # fmt: skip


def total(found: list[list[Any]]) -> float:
    """Return the seconds of a run: of each step, that of its slowest rank, and in the fastest round.

    The first and third step are left out, as everywhere.
    """
    rounds = ([max(at) for at in zip(*(rank["seconds"] for rank in ranks), strict=True)] for ranks in found)
    return min(sum(counted(seconds)) for seconds in rounds)
