"""On one accelerator: tokens per second, peak memory, loading and the plan, beside HF Trainer with peft.

Both compute in bf16 with the same attention (PyTorch's), on the same examples, with and without checkpointing of
activations; the library runs without DeepSpeed, as one does on a single device. Ratios are told, and the share of the
device's copy bandwidth that loading reaches, from files in the page cache. The planned peak is held against a bar.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit import jobs, models
from kit.launch import Gang, in_turns, run_ranks
from kit.table import Found, Row, at_most, told
from steps import counted

TOKENS, BATCH, STEPS, LORA_RANK = 2048, 8, 6, 16
WAYS = ("ours", "library")
BAR_PLAN = 0.15
Measured = dict[str, list[dict[str, Any]]]
"""Of each way, what it told, round by round."""


@dataclass(frozen=True)
class Case:
    """A model, and how many rows of it a device computes at once."""

    rows: int
    rows_kept: int
    """Where all activations are kept."""


CASES = {"llama-1.1b": Case(4, 4), "llama-8b": Case(4, 2)}
SMALL = {"llama-26m": Case(4, 2)}


def measure(name: str, scratch: Path, rounds: int, *, device: str = "cuda", folder: Path | None = None) -> Found:
    """Measure a model.

    Args:
        name: In `CASES`, or `SMALL`, by whose short rows the bench itself is checked.
        scratch: For runs, and for the model if it is not kept.
        rounds: Of all ways in turns.
        device: `cpu` where the bench itself is checked.
        folder: Where models are, or are to be kept.
    """
    case, tokens = (SMALL[name], 64) if name in SMALL else (CASES[name], TOKENS)
    model = (folder or scratch) / name
    size = models.write(name, model, "bfloat16")
    for file in model.glob("*.safetensors"):
        file.read_bytes()  # into the page cache
    kinds = {
        name: job_of(scratch, model, device, tokens, case.rows_kept, checkpointing=False),
        f"{name}, checkpointing": job_of(scratch, model, device, tokens, case.rows, checkpointing=True),
    }
    loads, runs = alternate(scratch, model, kinds, rounds, device)
    found = Found(rows_of_loading(name, size, loads), {"bytes": size, "loads": loads, "runs": runs})
    for number, kind in enumerate(kinds):
        each = {way: [run[number] for run in of_way] for way, of_way in runs.items()}
        found.rows += rows_of_training(kind, each, BATCH * tokens)
    return found


def alternate(
    scratch: Path, model: Path, kinds: dict[str, Any], rounds: int, device: str
) -> tuple[Measured, dict[str, list[list[dict[str, Any]]]]]:
    """Load and train in turns; return what the ways told of loading, and of each kind of training."""
    loads: Measured = {way: [] for way in WAYS}
    runs: dict[str, list[list[dict[str, Any]]]] = {way: [] for way in WAYS}
    gang, on_cpu = Gang(1, 1), device == "cpu"
    for number, way in in_turns(rounds, WAYS):
        load = {"way": way, "model": str(model), "device": device}
        loads[way] += run_ranks("device_load", load, gang, scratch, on_cpu=on_cpu)
        for kind, job in kinds.items():
            job["body"]["spec"]["output"]["uri"] = f"file://{scratch}/out-{kind}-{number}".replace(", ", "-")
        task = {"jobs": list(kinds.values()), "zero": False}
        runs[way] += run_ranks(way, task, gang, scratch, on_cpu=on_cpu)
    return loads, runs


def job_of(scratch: Path, model: Path, device: str, tokens: int, rows: int, *, checkpointing: bool) -> dict[str, Any]:
    """Return the job."""
    data = scratch / f"dense-{tokens}.jsonl"
    jobs.write_dense(data, BATCH * STEPS, tokens)
    body = jobs.job(
        f"file://{model}", data, scratch / "out", sharding="Auto", ranks=1, rank=LORA_RANK,
        accelerator=device != "cpu", dataset={"maxLength": tokens}, precision="BF16",
        gradientCheckpointing=checkpointing, maxSteps=STEPS, microBatchSize=rows, batchSize=BATCH,
    )  # fmt: skip
    return {"body": body, "model": str(model)}


def rows_of_loading(name: str, size: int, loads: Measured) -> list[Row]:
    """Return the rows of loading a model; `size` is the bytes of its weights."""
    load = {way: min(one["seconds"] for one in each) for way, each in loads.items()}
    fill = min(one["fill"] for one in loads["ours"])
    rate = max(one["copy rate"] for each in loads.values() for one in each)
    return [
        told(f"{name}: seconds to load", load["ours"], "s", library=load["library"]),
        told(f"{name}: loading, of the device's copy bandwidth", size / load["ours"] / rate, "x",
             library=size / load["library"] / rate),
        told(f"{name}: its reads and copies alone", size / fill / rate, "x"),
        told(f"{name}: the device's copy bandwidth per second", rate, "B"),
    ]  # fmt: skip


def rows_of_training(name: str, runs: Measured, tokens: int) -> list[Row]:
    """Return the rows of one model and kind of training.

    Args:
        name: Of both.
        runs: Of each way, what `ways.ours` and `ways.library` told.
        tokens: Of one step.
    """
    seconds = {way: [s for run in each for s in counted(run["seconds"])] for way, each in runs.items()}
    step = {way: min(each) for way, each in seconds.items()}
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    peak = {way: min(run["device peak"] or 0 for run in each) for way, each in runs.items()}
    rows = [
        told(f"{name}: tokens/s, by the library's", step["library"] / step["ours"], "x"),
        told(f"{name}: tokens/s, by the library's, medians", medians["library"] / medians["ours"], "x"),
        told(f"{name}: tokens/s", tokens / step["ours"], library=tokens / step["library"]),
        told(f"{name}: peak memory of the device", peak["ours"], "B", library=peak["library"]),
    ]
    runtime = max(run["device runtime"] or 0 for run in runs["ours"])
    if runtime:
        planned = runs["ours"][0]["plan"]["peakBytesPerRank"]
        off = abs(planned / (peak["ours"] + runtime) - 1)
        rows += [
            told(f"{name}: planned peak, context and libraries included", planned, "B"),
            at_most(f"{name}: planned peak, off the measured", off, BAR_PLAN),
        ]
    return rows
