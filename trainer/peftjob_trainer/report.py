"""`report.html` and `metrics.json`: how training went, for people and for programs.

Called by rank 0 before publishing. The page is one file that asks no other host for anything, so it can be opened from
a bucket, attached to a mail, or kept for years.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from peftjob_api import PlanInfo, RunConfig
from pydantic.alias_generators import to_camel

from .data_report import SplitReport, to_json
from .history import METRIC_KEYS, BaseBytes, EvalRecord, History, Return, deciding_metric
from .plots import Curve, Plot, draw
from .steps import StepRecord

METRICS_NAME = "metrics.json"
REPORT_NAME = "report.html"
MAX_LABELS_SHOWN = 50
"""On the page, the most frequent ones."""


def write_report(
    folder: Path, run: RunConfig, plan: PlanInfo, history: History, data: Sequence[SplitReport] = ()
) -> None:
    """Write `report.html` and `metrics.json` into a folder.

    Args:
        folder: That is going to be published.
        run: What was asked for.
        plan: How the base lay on the ranks.
        history: What happened.
        data: What the splits are like.
    """
    metrics = summarise(run, history, data)
    (folder / METRICS_NAME).write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("peftjob_trainer"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html").render(
        title=f"{run.job.namespace}/{run.job.name}",
        tables=[*tables(run, plan, history, metrics), *data_tables(data)],
        plots=[(plot.title, Markup(draw(plot))) for plot in (*plots(history), *length_plots(data))],
        samples=[sample for split in data for sample in split.samples],
    )
    (folder / REPORT_NAME).write_text(page, encoding="utf-8")


def summarise(run: RunConfig, history: History, data: Sequence[SplitReport] = ()) -> dict[str, Any]:
    """Return the content of metrics.json.

    `train`, `validation` and `test` hold the metrics of the adapter that is published: the last step's, or the best
    one's where there is validation data. A number that is not finite is null.
    """
    best = history.best_evaluation(run.spec)
    validation, test = best or history.last("validation"), history.last("test")
    last_step = history.steps.last
    content = {
        **({"train": {"loss": last_step.loss}} if last_step else {}),
        **({"validation": validation.metrics} if validation else {}),
        **({"test": test.metrics} if test else {}),
        "steps": history.step,
        **({"bestStep": best.step, "bestBy": METRIC_KEYS[deciding_metric(run.spec)]} if best else {}),
        **({"baseBytes": _camel(history.base_bytes)} if history.base_bytes else {}),
        **({"data": to_json(data)} if data else {}),
        **({"skippedSteps": history.steps.skipped} if history.steps.skipped else {}),
        **({"returns": [_camel(each) for each in history.returns]} if history.returns else {}),
        "trainingSeconds": round(history.steps.seconds, 3),
        "history": {
            "steps": [_camel(step) for step in history.steps],
            "evaluations": [_camel(record) for record in history.evaluations],
        },
    }
    return _finite(content)


def _camel(record: StepRecord | EvalRecord | BaseBytes | Return) -> dict[str, Any]:
    """Return a record as JSON, with the names that the status uses."""
    return {to_camel(key): value for key, value in asdict(record).items()}


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not know by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Table:
    """A table of the report."""

    title: str
    rows: Sequence[Sequence[str]]
    header: Sequence[str] = ()


def tables(run: RunConfig, plan: PlanInfo, history: History, metrics: dict[str, Any]) -> list[Table]:
    """Return the report's tables."""
    spec = run.spec
    training = spec.training
    whole = plan.base_parameters + plan.trainable_parameters
    settings = [f"{name} {_shown(value)}" for name, value in spec.method.settings.to_wire().items()]
    what = [
        ("PeftJob", f"{run.job.namespace}/{run.job.name}"),
        ("Base model", spec.base_model.uri + (f" @ {spec.base_model.revision}" if spec.base_model.revision else "")),
        ("Task", spec.task.type),
        ("Method", ", ".join([spec.method.type, *settings])),
        (
            "Trained parameters",
            f"{plan.trainable_parameters:,} of {whole:,} ({plan.trainable_parameters / max(whole, 1):.2%})",
        ),
        ("Training data", spec.dataset.train),
        *([("Validation data", spec.dataset.validation)] if spec.dataset.validation else []),
        *([("Test data", spec.dataset.test)] if spec.dataset.test else []),
        ("Output", spec.output.uri),
    ]
    how = [
        ("Steps", f"{metrics['steps']}" + (f", best {metrics['bestStep']}" if "bestStep" in metrics else "")),
        ("Batch", f"{_shown(training.batch_size)} examples per step"),
        (
            "Learning rate",
            f"{_shown(training.learning_rate)}, {training.schedule}, warm-up {training.warmup_ratio:.0%}",
        ),
        ("Seed", f"{training.seed}"),
        ("Ranks", f"{plan.ranks} on {spec.workers.nodes} node" + ("s" if spec.workers.nodes > 1 else "")),
        ("Base on each rank", f"{plan.base_bytes_per_rank / 2**20:,.1f} MiB (shard group {plan.shard_group})"),
        *_planned(plan),
        *([("Base alive in a step", _alive(history.base_bytes))] if history.base_bytes else []),
        ("Time in steps", duration(metrics["trainingSeconds"])),
    ]
    if history.step:
        seconds = statistics.median(step.seconds for step in history.steps)
        tokens = statistics.median(step.tokens_per_second for step in history.steps)
        how += [("Median step", f"{seconds:.3f} s"), ("Median throughput", f"{tokens:,.0f} tokens/s")]
    splits = [name for name in ("train", "validation", "test") if metrics.get(name)]
    names = list(dict.fromkeys(key for split in splits for key in metrics[split]))
    titles = {"train": "train, last step"}  # one batch: not to be held against the others
    results = [
        [
            titles.get(split, split),
            *("" if (v := metrics[split].get(name)) is None else f"{v:.4f}" for name in names),
        ]
        for split in splits
    ]
    return [Table("Results", results, ["", *names]), Table("What", what), Table("How", how)]


def _alive(base: BaseBytes) -> str:
    mib = 2**20
    return (
        f"at most {base.peak / mib:,.1f} MiB: the rank's share and what was gathered; the largest block has "
        f"{base.largest_block / mib:,.1f} MiB, the whole base {base.whole / mib:,.1f} MiB"
    )


def _shown(value: Any) -> str:
    """Return a setting's value as a manifest would have it."""
    return " ".join(map(str, value)) if isinstance(value, list) else json.dumps(value).strip('"')


def _planned(plan: PlanInfo) -> list[tuple[str, str]]:
    """Return what the plan said of a rank's memory, if it was asked."""
    if plan.peak_bytes_per_rank is None or plan.memory_bytes_per_rank is None:
        return []
    mib = 2**20
    peak, memory = plan.peak_bytes_per_rank / mib, plan.memory_bytes_per_rank / mib
    return [("Memory of a rank", f"at most {peak:,.0f} MiB planned, of {memory:,.0f} MiB")]


def duration(seconds: float) -> str:
    """Return a time for people, such as 1h02m03s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m{rest:02}s"
    return f"{minutes}m{rest:02}s" if minutes else f"{seconds:.1f}s"


def data_tables(data: Sequence[SplitReport]) -> list[Table]:
    """Return what the splits are like, and how often each label is in each."""
    if not data:
        return []
    header = ["", "examples", "tokens", "half up to", "95 % up to", "cut", "nothing to learn", "bad rows skipped"]
    rows = [
        [
            split.name,
            f"{split.examples:,}",
            f"{split.shortest:,} to {split.longest:,}",
            f"{split.quantiles[50]:,}",
            f"{split.quantiles[95]:,}",
            f"{split.truncated:,} ({split.truncated_share:.1%})",
            f"{split.left_out:,}",
            f"{split.skipped:,}",
        ]
        for split in data
    ]
    names = sorted(data[0].labels, key=lambda label: -data[0].labels[label])[:MAX_LABELS_SHOWN]
    labels = [[name, *(f"{split.labels.get(name, 0):,}" for split in data)] for name in names]
    skipped = [[split.name, reason] for split in data for reason in split.reasons]
    return [
        Table("Data", rows, header),
        Table("Labels", labels, ["", *(split.name for split in data)]),
        Table("First bad rows skipped", skipped),
    ]


def length_plots(data: Sequence[SplitReport]) -> list[Plot]:
    """Return the histogram of the lengths of the training data."""
    return [
        Plot(
            "Lengths of the training data",
            [Curve(split.name, [(float(x), float(y)) for x, y in zip(split.edges, split.bars, strict=False)], "bars")],
            "tokens",
        )
        for split in data[:1]
    ]


def plots(history: History) -> list[Plot]:
    """Return the report's plots; those without a point, and metrics of one evaluation only, are left out."""

    def of_steps(name: str, field: str) -> Curve:
        points = [(float(s.step), float(getattr(s, field))) for s in history.steps]
        return Curve(name, points, "exact" if field == "learning_rate" else "noisy")

    def of_evaluations(split: str, metric: str) -> Curve:
        points = [
            (float(r.step), r.metrics[metric]) for r in history.evaluations if r.split == split and metric in r.metrics
        ]
        return Curve(split if metric == "loss" else f"{metric}, {split}", points, "marked")

    others = list(dict.fromkeys(key for record in history.evaluations for key in record.metrics if key != "loss"))
    evaluated = [of_evaluations(split, metric) for metric in others for split in ("validation", "test")]
    if all(len(curve.points) < 2 for curve in evaluated):
        evaluated = []  # the table of results says it better
    drawn = [
        Plot("Loss", [of_steps("train", "loss"), *(of_evaluations(s, "loss") for s in ("validation", "test"))]),
        Plot("Evaluation", evaluated),
        Plot("Learning rate", [of_steps("learning rate", "learning_rate")]),
        Plot("Throughput, tokens/s", [of_steps("tokens/s", "tokens_per_second")]),
        Plot("Gradient norm", [of_steps("gradient norm", "grad_norm")]),
    ]
    kept = [Plot(plot.title, [curve for curve in plot.curves if curve.points]) for plot in drawn]
    return [plot for plot in kept if plot.curves]
