"""Step times: ours against HF Trainer with DeepSpeed ZeRO-3 and peft, and against plain PyTorch data parallelism.

Two ranks on the CPU, a Llama of 33 million parameters in fp32, 4 x 256 tokens per rank. Every run has processes of its
own, the runs take turns, and minima are compared: what slows a machine down only ever adds. The first step, and the one
at which our loop measures what is gathered, are left out on both sides.
"""

import shutil
import statistics
from pathlib import Path
from typing import Any

from kit import jobs, models
from kit.launch import Gang, in_turns, run_ranks
from kit.table import Found, Row, at_least, at_most, equal

MODEL, LORA_RANK = "llama-33m", 16
TOKENS, ROWS = 256, 4
MIXED_ACCUMULATION = 4
LEFT_OUT = (1, 3)
STEPS = 6
AGREE = 2e-3
"""Of the first losses, relative: the same model on the same examples."""
BARS = {
    "Full": ("library", 1.25),
    "Full, checkpointing": ("library, checkpointing", 1.7),
    "Auto": ("library", 1.5),
    "Auto, checkpointing": ("library, checkpointing", 2.1),
    "Auto, mixed lengths": ("library, mixed lengths", 2.5),
}
"""Ours -> what it is held against, and how many times faster it has to be."""
BAR_REPLICATE = 1.05
Times = dict[str, list[list[float]]]
"""Run -> round -> seconds of each step, of the slowest rank."""


def measure(scratch: Path, rounds: int, *, quick: bool) -> Found:
    """Run everything in turns; quick: a small model, few steps, and no checkpointing."""
    steps, tokens = (4, 32) if quick else (STEPS, TOKENS)
    changes: dict[str, Any] = {"vocab_size": 1000, "num_hidden_layers": 2} if quick else {}
    models.write(MODEL, scratch / MODEL, **changes)
    runs = {n: run for n, run in runs_of(scratch, tokens, steps).items() if not (quick and "checkpointing" in n)}
    times: Times = {name: [] for name in runs}
    losses: dict[str, float] = {}
    raw: dict[str, Any] = {}
    for number, name in in_turns(rounds, runs):
        way, job = runs[name]
        # An adapter of the same job that is there already would be all that the next round looks for.
        shutil.rmtree(job["body"]["spec"]["output"]["uri"].removeprefix("file://"), ignore_errors=True)
        task = {"jobs": [job]} if way == "ours" else {"job": job}
        ranks = run_ranks(way, task, Gang(), scratch)
        each = [rank[0] for rank in ranks] if way == "ours" else ranks
        raw[f"{name}, round {number + 1}"] = each
        times[name].append([max(at) for at in zip(*(rank["seconds"] for rank in each), strict=True)])
        losses[name] = statistics.fmean(rank["losses"][0] for rank in each)
    for name, found in times.items():
        kept = [dense(one) for one in found]
        print(f"steps, {name:26} min {min(kept):.3f} s  median {statistics.median(kept):.3f} s")
    return Found([*rows_of(times), *agreement(losses)], {"times": times, "losses": losses, "runs": raw})


def runs_of(scratch: Path, tokens: int, steps: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return name -> module of `ways/` and job; neighbours are compared with each other."""
    dense_data, mixed_data = scratch / "dense.jsonl", scratch / "mixed.jsonl"
    batch = 2 * ROWS
    jobs.write_dense(dense_data, batch * steps, tokens)
    jobs.write_mixed(mixed_data, batch * MIXED_ACCUMULATION * steps, tokens)

    def job(name: str, sharding: str, *, mixed: bool = False, packing: bool = False, **training: Any) -> dict[str, Any]:
        body = jobs.job(
            f"file://{scratch / MODEL}", mixed_data if mixed else dense_data, scratch / f"out-{name}",
            sharding=sharding, rank=LORA_RANK, maxSteps=steps, microBatchSize=ROWS,
            batchSize=batch * (MIXED_ACCUMULATION if mixed else 1),
            dataset={"maxLength": tokens, "packing": packing}, **training,
        )  # fmt: skip
        return {"body": body, "model": str(scratch / MODEL)}

    checkpointing = {"gradientCheckpointing": True}
    return {
        "Full": ("ours", job("full", "Full")),
        "library": ("library", job("library", "Full")),
        "Auto": ("ours", job("auto", "Auto")),
        "Full, checkpointing": ("ours", job("full-c", "Full", **checkpointing)),
        "library, checkpointing": ("library", job("library-c", "Full", **checkpointing)),
        "Auto, checkpointing": ("ours", job("auto-c", "Auto", **checkpointing)),
        "Auto, mixed lengths": ("ours", job("mixed", "Auto", mixed=True, packing=True)),
        "library, mixed lengths": ("library", job("library-m", "Full", mixed=True)),
        "Replicate": ("ours", job("replicate", "Replicate")),
        "data parallel": ("ddp", job("ddp", "Replicate")),
    }


def rows_of(times: Times) -> list[Row]:
    """Return the rows of what was timed."""
    rows = [
        at_least(f"step time: the library's by ours, {ours}", figure(times, theirs) / figure(times, ours), bar, "x")
        for ours, (theirs, bar) in BARS.items()
        if ours in times
    ]
    against = figure(times, "Replicate") / figure(times, "data parallel")
    return [*rows, at_most("step time: Replicate by plain PyTorch data parallelism", against, BAR_REPLICATE, "x")]


def figure(times: Times, name: str) -> float:
    """Return the seconds that stand for a run: of its fastest step, or, where steps differ, of all its steps."""
    found = times[name]
    if "mixed" not in name:
        return min(dense(one) for one in found)
    return float(sum(min(at) for at in zip(*(counted(one) for one in found), strict=True)))


def dense(seconds: list[float]) -> float:
    """Return the fastest step of one run."""
    return min(counted(seconds))


def counted(seconds: list[float]) -> list[float]:
    """Return the steps that count."""
    return [value for step, value in enumerate(seconds, 1) if step not in LEFT_OUT]


def agreement(losses: dict[str, float]) -> list[Row]:
    """Return whether each comparison compares the same: the first losses of both sides."""
    pairs = [(ours, theirs) for ours, (theirs, _) in BARS.items() if ours in losses] + [("Replicate", "data parallel")]
    apart = [abs(losses[a] - losses[b]) / abs(losses[b]) for a, b in pairs]
    return [equal("step time: first losses of both sides (to 0.2 %)", holds=max(apart) <= AGREE)]
