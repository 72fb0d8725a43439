"""On one accelerator: tokens per second, peak memory and loading, beside HF Trainer with peft.

Both compute in bf16 with activation checkpointing and the same attention (PyTorch's), on the same examples; the library
runs without DeepSpeed, as one does on a single device. Nothing is held against a bar: ratios are told, and the share of
the device's copy bandwidth that loading reaches, from files in the page cache.
"""

import statistics
from pathlib import Path
from typing import Any

from kit import jobs, models
from kit.launch import Gang, in_turns, run_ranks
from kit.table import Found, Row, told
from steps import counted

MODELS = ("llama-1.1b", "llama-8b")
TOKENS, MICRO_BATCH, BATCH, STEPS, LORA_RANK = 2048, 4, 8, 8, 16
WAYS = ("ours", "library")


def measure(scratch: Path, rounds: int, *, quick: bool, device: str = "cuda") -> Found:
    """Measure each model; quick: a small one and short rows. `device` is `cpu` where the bench itself is checked."""
    found = Found()
    for name in ("llama-26m",) if quick else MODELS:
        size = models.write(name, scratch / name, "bfloat16")
        for file in (scratch / name).glob("*.safetensors"):
            file.read_bytes()  # into the page cache
        loads: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        gang, on_cpu = Gang(1, 1), device == "cpu"
        job = job_of(scratch, name, device, 64 if quick else TOKENS)
        for _, way in in_turns(rounds, WAYS):
            task = {"way": way, "model": str(scratch / name), "device": device}
            loads[way] += run_ranks("device_load", task, gang, scratch, on_cpu=on_cpu)
            if way == "ours":
                runs[way] += run_ranks("ours", {"jobs": [job]}, gang, scratch, on_cpu=on_cpu)[0]
            else:
                runs[way] += run_ranks("library", {"job": job, "zero": False}, gang, scratch, on_cpu=on_cpu)
        found.rows += rows_of(name, size, loads, runs, BATCH * (64 if quick else TOKENS))
        found.raw[name] = {"bytes": size, "loads": loads, "runs": runs}
    return found


def job_of(scratch: Path, name: str, device: str, tokens: int) -> dict[str, Any]:
    """Return the job."""
    data = scratch / f"dense-{tokens}.jsonl"
    jobs.write_dense(data, BATCH * STEPS, tokens)
    body = jobs.job(
        f"file://{scratch / name}", data, scratch / f"out-{name}", sharding="Auto", ranks=1, rank=LORA_RANK,
        accelerator=device != "cpu", dataset={"maxLength": tokens}, precision="BF16", gradientCheckpointing=True,
        maxSteps=STEPS, microBatchSize=MICRO_BATCH, batchSize=BATCH,
    )  # fmt: skip
    return {"body": body, "model": str(scratch / name)}


def rows_of(
    name: str, size: int, loads: dict[str, list[dict[str, Any]]], runs: dict[str, list[dict[str, Any]]], tokens: int
) -> list[Row]:
    """Return the rows of one model.

    Args:
        name: Of the model.
        size: Bytes of its weights.
        loads: Of each way, what `ways.device_load` told.
        runs: Of each way, what `ways.ours` and `ways.library` told.
        tokens: Of one step.
    """
    seconds = {way: [s for run in each for s in counted(run["seconds"])] for way, each in runs.items()}
    step = {way: min(each) for way, each in seconds.items()}
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    peak = {way: min(run["device peak"] or 0 for run in each) for way, each in runs.items()}
    load = {way: min(one["seconds"] for one in each) for way, each in loads.items()}
    rate = max(one["copy rate"] for each in loads.values() for one in each)
    return [
        told(f"{name}: tokens/s, by the library's", step["library"] / step["ours"], "x"),
        told(f"{name}: tokens/s, by the library's, medians", medians["library"] / medians["ours"], "x"),
        told(f"{name}: tokens/s", tokens / step["ours"], library=tokens / step["library"]),
        told(f"{name}: peak memory of the device", peak["ours"], "B", library=peak["library"]),
        told(f"{name}: loading, of the device's copy bandwidth", size / load["ours"] / rate, "x",
             library=size / load["library"] / rate),
        told(f"{name}: seconds to load", load["ours"], "s", library=load["library"]),
    ]  # fmt: skip
