"""The runs that `test_resume` stops again and again: a job for each method and task, and how its attempts end.

With PEFTJOB_ALL_PAIRS=1 in the environment (`make test-pairs`) these are all pairs of a method and a task that the API
takes, and every row of `methods`; else each method goes with one task, and each task with some method.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import methods
import tiny
from methods import OF_METHOD, ROWS, Row
from peftjob_api.pairs import METHODS, supported

STEPS, EXAMPLES = 60, 45
"""The last batch of an epoch is short."""
DROPOUT = 0.2
ATTEMPTS = 4
EVALUATED = "best"
"""A run whose best step is not its last one; it is told to stop in an evaluation, too."""
CHECKPOINT_STEPS = 7
_DROPOUTS = {"LoRA": "dropout", "AdaLoRA": "dropout", "VeRA": "dropout", "Bottleneck": "dropout"} | dict.fromkeys(
    ("LoHa", "LoKr", "OFT"), "moduleDropout"
)
_FIELDS = {method: method[0].lower() + method[1:] for method in METHODS} | {"LoRA": "lora", "AdaLoRA": "adalora"}
_FIELDS |= {"VeRA": "vera", "LoHa": "loha", "LoKr": "lokr", "OFT": "oft"}
_MOVED = {("LoRA", "CausalLM"), ("LoRA", "Ranking")}
_CAUTION = 0.1
"""Of the rates of `methods`, for runs that are compared across worlds: what rounding does must not grow."""


def pairs(*, every: bool) -> dict[str, tuple[Row, str]]:
    """Return name of a run -> method with its settings, and task."""
    if every:
        found = [(row, "CausalLM") for row in ROWS]
        found += [(OF_METHOD[method], task) for method, task in supported() if task != "CausalLM"]
    else:
        tasks = {m: [task for method, task in supported() if method == m] for m in METHODS}
        found = [(OF_METHOD[m], tasks[m][(n + 3) % len(tasks[m])]) for n, m in enumerate(METHODS)]
        found += [(OF_METHOD["LoRA"], "CausalLM"), (OF_METHOD["LoRA"], "Ranking")]
    return {f"{row.name} {task}": (row, task) for row, task in found}


def moved(*, every: bool) -> list[str]:
    """Return the names of the runs that are compared across worlds."""
    return [name for name, (row, task) in pairs(every=every).items() if every or (row.name, task) in _MOVED]


def write(folder: Path, *, every: bool) -> dict[str, dict[str, dict[str, Any]]]:
    """Write models and data; return set of runs -> name -> {job, stops}.

    A set is done by one gang: `alone` by one rank, `together` by two, `in threes` by three. Runs of one name in several
    sets go on from each other.
    """
    methods.write(folder, examples=EXAMPLES)
    chance = random.Random(20)
    sets: dict[str, dict[str, dict[str, Any]]] = {"alone": {}, "together": {}, "in threes": {}}
    for number, (name, (row, task)) in enumerate(pairs(every=every).items()):
        sharding = ("Full", "Replicate")[number % 2]
        exact, across = f"exact {name}", f"moved {name}"
        body = job(folder, with_dropout(row), task, sharding)
        sets["together"][f"{exact}, straight"] = run(folder, f"{exact}, straight", body, [None])
        sets["together"][exact] = run(folder, exact, body, ends(chance))
        if name in moved(every=every):
            body = job(folder, replace(row, rate=_CAUTION * row.rate), task, "Replicate")
            sets["alone"][f"{across}, straight"] = run(folder, f"{across}, straight", body, [None], ranks=1)
            sets["alone"][across] = run(folder, across, body, [told(chance.randrange(2, 25))], ranks=1)
            body = job(folder, replace(row, rate=_CAUTION * row.rate), task, "Full")
            sets["together"][across] = run(folder, across, body, [told(chance.randrange(27, 45))])
            sets["in threes"][across] = run(folder, across, body, [None], ranks=3)
    evaluation = {"everySteps": 4, "metric": "Loss"}
    body = tiny.job(
        folder,
        model="bert",
        kind="SequenceClassification",
        train="classes.jsonl",
        method={"type": "LoRA", "lora": {"rank": 4, "dropout": DROPOUT}},
        training={"maxSteps": STEPS, "learningRate": 0.03, "schedule": "Constant", "evaluation": evaluation},
        dataset={"validation": f"file://{folder}/unseen-classes.jsonl"},
        sharding="Replicate",
    )
    # Whether it is to stop is asked in each step, and before each batch of an evaluation: first, after step 4.
    asked = [{"asked": 4, "dies": False}, told(40), None]
    sets["together"][f"exact {EVALUATED}, straight"] = run(folder, f"exact {EVALUATED}, straight", body, [None])
    sets["together"][f"exact {EVALUATED}"] = run(folder, f"exact {EVALUATED}", body, asked)
    return sets


def with_dropout(row: Row) -> Row:
    """Return a row whose method drops out what it can."""
    kind = row.method["type"]
    if kind not in _DROPOUTS or row.method.get(_FIELDS[kind], {}).get("dora"):
        return row
    settings = {**row.method.get(_FIELDS[kind], {}), _DROPOUTS[kind]: DROPOUT}
    return replace(row, method={**row.method, _FIELDS[kind]: settings})


def job(folder: Path, row: Row, task: str, sharding: str) -> dict[str, Any]:
    """Return a PeftJob without an output."""
    training = {"maxSteps": STEPS, "evaluation": {"everySteps": 25, "metric": "Loss"}}
    body = methods.job(folder, replace(row, training={**row.training, **training}), "FP32", task)
    return {**body, "spec": {**body["spec"], "sharding": sharding, "checkpoint": {"everySteps": CHECKPOINT_STEPS}}}


def run(
    folder: Path, name: str, body: dict[str, Any], stops: list[dict[str, Any] | None], ranks: int = 2
) -> dict[str, Any]:
    """Return a run with an output of its own."""
    output = {"uri": f"file://{output_of(folder, name)}"}
    spec = {**body["spec"], "output": output, "workers": {"processesPerNode": ranks}}
    return {"job": {**body, "spec": spec}, "stops": stops}


def output_of(folder: Path, name: str) -> Path:
    """Return the folder that a run publishes to."""
    return folder / "outputs" / name.replace(" ", "-").replace(",", "")


def ends(chance: random.Random) -> list[dict[str, Any] | None]:
    """Return how the attempts of a run end: at three random steps, at one of them without a last word."""
    steps = sorted(chance.sample(range(CHECKPOINT_STEPS + 2, STEPS), ATTEMPTS - 1))
    dying = chance.randrange(ATTEMPTS - 1)
    return [*({"step": step, "dies": number == dying} for number, step in enumerate(steps)), None]


def told(step: int) -> dict[str, Any]:
    """Return the end of an attempt that is told to stop in a step."""
    return {"step": step, "dies": False}
