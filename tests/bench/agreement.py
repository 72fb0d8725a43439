"""The same jobs on the accelerator and on the CPU: every method, most tasks, and a base in ZeRO's partitions.

Jobs of tiny models, in fp32 and without dropout, are trained by our session on both. Held against a bar is how far the
losses are apart. On one device nothing has to be partitioned: some jobs are made to, in a shard group of one rank, so
that gathering and freeing are done there as well.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kit.launch import ROOT, Gang, run_ranks
from kit.table import Found, at_most, equal

STEPS = 8
PARTS = 3
"""Processes that train at once, on each of both."""
BAR = 1e-4
"""Of losses, relative: products are added up in another order."""
PARTITIONED = ("LoRA", "DoRA", "Prompt tuning from text", "Pfeiffer adapters", "LoRA and modules whole")


def measure(scratch: Path, *, device: str = "cuda") -> Found:
    """Train on both; `device` is `cpu` where the bench itself is checked."""
    bodies = bodies_of(scratch / "inputs")
    parts = [list(bodies)[number::PARTS] for number in range(PARTS)]

    def train(place: str, names: list[str]) -> dict[str, dict[str, Any]]:
        on_cpu = place == "here" or device == "cpu"
        task = {"jobs": [job_of(name, bodies[name], scratch / place, on_cpu=on_cpu) for name in names], "goes on": True}
        return dict(zip(names, run_ranks("ours", task, Gang(1, 1), scratch, on_cpu=on_cpu)[0], strict=True))

    with ThreadPoolExecutor() as pool:
        futures = {place: [pool.submit(train, place, names) for names in parts] for place in ("there", "here")}
        runs = {place: {n: run for one in each for n, run in one.result().items()} for place, each in futures.items()}
    there, here = runs.values()
    errors = {
        f"{name}, {place}": run["error"] for place, each in runs.items() for name, run in each.items() if "error" in run
    }
    for name, error in errors.items():
        print(f"agreement, {name}: {error}", flush=True)
    apart = {
        name: distance(there[name]["losses"], here[name]["losses"])
        for name in bodies
        if "error" not in {**there[name], **here[name]}
    }
    for name, number in sorted(apart.items(), key=lambda item: -item[1])[:5]:
        print(f"agreement, {name}: losses are {number:.1e} apart")
    rows = [
        equal(f"{len(bodies)} jobs on the device and on the CPU: all end well", holds=not errors),
        at_most("losses on the device, from those on the CPU, relative", max(apart.values(), default=1.0), BAR),
    ]
    return Found(rows, {"apart": apart, "errors": errors, "runs": runs})


def distance(losses: list[float], others: list[float]) -> float:
    """Return how far losses are apart at most, relative to the others."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, others, strict=True))


def bodies_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Write models and data; return name -> PeftJob on two CPU ranks, in fp32."""
    sys.path.append(str(ROOT / "tests/numerics"))
    import methods
    import tiny

    folder.mkdir()
    bodies = {name.removesuffix(" FP32"): b for name, b in methods.write(folder).items() if name.endswith(" FP32")}
    text = {"model": "llama", "kind": "CausalLM", "train": "completions.jsonl"}
    validation = {"validation": f"file://{folder}/unseen-translations.jsonl"}
    generate = {"evaluation": {"metric": "ChrF", "generate": {"maxNewTokens": 12, "maxSamples": 9}}}
    return {
        **bodies,
        "packed": tiny.job(folder, **text, dataset={"packing": True}, training={"microBatchSize": 2}),
        "checkpointed": tiny.job(folder, **text, training={"gradientCheckpointing": True}),
        "writing": tiny.job(
            folder, model="t5", kind="Seq2SeqLM", train="translations.jsonl", training=generate, dataset=validation
        ),
        **{f"{name} CausalLM, partitioned": bodies[f"{name} CausalLM"] for name in PARTITIONED},
        "checkpointed, partitioned": tiny.job(folder, **text, training={"gradientCheckpointing": True}),
    }


def job_of(name: str, body: dict[str, Any], folder: Path, *, on_cpu: bool) -> dict[str, Any]:
    """Return a job for `ways.ours` on one rank."""
    spec = body["spec"]
    out = folder / name.replace(" ", "-").replace(",", "")
    changes = {
        # A tenth: with the rates of the tests of methods, steps that rounding alone decides are large.
        "training": {**spec["training"], "maxSteps": STEPS, "learningRate": spec["training"]["learningRate"] / 10},
        "workers": {"processesPerNode" if on_cpu else "gpusPerNode": 1},
        "sharding": "Auto",
        "output": {"uri": f"file://{out}"},
    }
    model = spec["baseModel"]["uri"].removeprefix("file://")
    return {"body": {**body, "spec": {**spec, **changes}}, "model": model, "partitioned": "partitioned" in name}
