"""report.html, metrics.json and the choice of the best step."""

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from peftjob_api import JobIdentity, PeftJobSpec, PlanInfo, RunConfig
from peftjob_trainer.history import EvalRecord, History, is_better
from peftjob_trainer.plots import MAX_POINTS, Curve, Plot, draw, smooth, thin
from peftjob_trainer.report import duration, summarise, write_report
from peftjob_trainer.steps import MOST_KEPT, StepRecord, Steps

PLAN = PlanInfo(
    shard_group="Full",
    ranks=2,
    base_parameters=22_000_000,
    base_bytes_per_rank=44 * 2**20,
    trainable_parameters=220_000,
    peak_bytes_per_rank=3000 * 2**20,
    memory_bytes_per_rank=8000 * 2**20,
)
CLASSIFY = {"type": "SequenceClassification"}


def step(number: int, **changes: float) -> StepRecord:
    """Return the record of a step."""
    fields = {
        "epoch": number / 10,
        "loss": 2.0 / number,
        "learning_rate": 1e-3,
        "grad_norm": 0.5,
        "tokens_per_second": 1000.0,
        "seconds": 0.25,
    }
    return StepRecord(step=number, **{**fields, **changes})


def history(*accuracies: float, steps: int = 40) -> History:
    """Return a run with an evaluation of the validation data each ten steps, and one of the test data."""
    evaluations = [
        EvalRecord(10 * (number + 1), "validation", {"loss": 1.0 / (number + 1), "accuracy": accuracy})
        for number, accuracy in enumerate(accuracies)
    ]
    evaluations.append(EvalRecord(steps, "test", {"loss": 0.5, "accuracy": 0.75}))
    return History(Steps.of(step(number) for number in range(1, steps + 1)), evaluations)


@pytest.fixture
def run(spec: Callable[..., PeftJobSpec], job: JobIdentity) -> Callable[..., RunConfig]:
    return lambda **fields: RunConfig.of(job, spec(**fields))


@pytest.mark.parametrize(
    ("metric", "accuracies", "want"),
    [
        (None, (0.5, 0.9, 0.7, 0.8), 20),
        ("Loss", (0.5, 0.9, 0.7, 0.8), 40),
        ("Accuracy", (0.5, 0.9, 0.9, 0.8), 30),
        ("Accuracy", (math.nan, math.nan, 0.5, math.nan), 30),
    ],
    ids=["the task's own", "loss", "of equals that of less loss", "not a number"],
)
def test_the_best_step_is_that_of_the_deciding_metric(
    spec: Callable[..., PeftJobSpec], metric: str | None, accuracies: tuple[float, ...], want: int
) -> None:
    training = {"evaluation": {"metric": metric} if metric else {}}
    job = spec(task=CLASSIFY, training=training, validation="file:///data/v.jsonl")
    best = history(*accuracies).best_evaluation(job)
    assert best is not None
    assert best.step == want


def test_of_equals_a_later_one_of_more_loss_is_not_best(spec: Callable[..., PeftJobSpec]) -> None:
    found = [EvalRecord(step, "validation", {"loss": loss, "accuracy": 0.9}) for step, loss in ((10, 0.3), (20, 0.4))]
    best = History(evaluations=found).best_evaluation(spec(task=CLASSIFY, validation="file:///data/v.jsonl"))
    assert best is found[0]


def test_nan_beats_nothing_and_everything_beats_nan() -> None:
    assert not is_better("Loss", math.nan, 1.0)
    assert is_better("Loss", 1.0, math.nan)
    assert is_better("Loss", 0.5, 1.0)
    assert not is_better("Accuracy", 0.5, 1.0)
    assert is_better("Accuracy", 0.5, None)


def test_metrics_json_tells_of_the_adapter_that_is_published(run: Callable[..., RunConfig], tmp_path: Path) -> None:
    write_report(tmp_path, run(task=CLASSIFY), PLAN, history(0.5, 0.9, 0.7, 0.6))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["test"] == {"loss": 0.5, "accuracy": 0.75}
    assert metrics["validation"] == {"loss": 0.5, "accuracy": 0.9}
    assert metrics["train"] == {"loss": 0.05}
    assert (metrics["bestStep"], metrics["bestBy"], metrics["steps"]) == (20, "accuracy", 40)
    assert metrics["trainingSeconds"] == 10.0
    assert [record["step"] for record in metrics["history"]["steps"]] == list(range(1, 41))
    assert set(metrics["history"]["steps"][0]) == {
        "step", "epoch", "loss", "learningRate", "gradNorm", "tokensPerSecond", "seconds",
    }  # fmt: skip


def test_metrics_json_is_json_whatever_was_measured(run: Callable[..., RunConfig], tmp_path: Path) -> None:
    measured = History(
        Steps.of([step(1, loss=math.inf, grad_norm=math.nan)]), [EvalRecord(1, "test", {"loss": math.nan})]
    )
    write_report(tmp_path, run(), PLAN, measured)
    metrics = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["test"] == {"loss": None}
    assert metrics["history"]["steps"][0]["loss"] is None


def test_a_long_run_keeps_an_even_part_of_its_steps(run: Callable[..., RunConfig]) -> None:
    content = summarise(run(), History(Steps.of(step(number) for number in range(1, 3 * MOST_KEPT + 2))))
    numbers = [record["step"] for record in content["history"]["steps"]]
    assert len(numbers) <= MOST_KEPT + 1
    assert numbers[-1] == 3 * MOST_KEPT + 1
    assert len({b - a for a, b in pairwise(numbers[:-1])}) == 1


class Page(HTMLParser):
    """Collects a page's tags and what they point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value for name, value in attrs if value and name.rpartition(":")[2] in ("href", "src", "data", "action")
        ]


def test_the_page_asks_nobody_and_quotes_what_users_wrote(run: Callable[..., RunConfig], tmp_path: Path) -> None:
    evil = "file:///data/<script>alert(1)</script>&\"'.jsonl"
    write_report(tmp_path, run(train=evil, task=CLASSIFY, test=evil), PLAN, history(0.5, 0.9))
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert {"script", "link", "img", "iframe"}.isdisjoint(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert re.findall(r"url\((?!#)|@import", text) == []
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in text
    assert page.tags.count("svg") == 5
    for part in ("team/sentiment", "220,000 of 22,220,000 (0.99%)", "44.0 MiB", "0.9000", "best 20", "currentColor"):
        assert part in text, part
    assert "#010203" not in text


def test_a_run_without_evaluation_has_a_report_too(run: Callable[..., RunConfig], tmp_path: Path) -> None:
    write_report(tmp_path, run(), PLAN, History(Steps.of([step(1)])))
    assert Page((tmp_path / "report.html").read_text()).tags.count("svg") == 4
    write_report(tmp_path, run(), PLAN, History())
    assert "svg" not in Page((tmp_path / "report.html").read_text()).tags


def test_a_plot_is_well_formed_shows_its_curves_and_is_the_same_each_time() -> None:
    curves = [
        Curve("train", [(float(x), 1 / x) for x in range(1, 200)]),
        Curve("validation", [(50.0, 0.1), (100.0, math.nan), (150.0, 0.05)], "marked"),
    ]
    svg = draw(Plot("Loss", curves))
    ElementTree.fromstring(svg)
    assert "train" in svg
    assert "validation" in svg
    assert svg == draw(Plot("Loss", curves))


def test_many_points_are_averaged_to_few() -> None:
    points = thin([(float(x), float(x % 2)) for x in range(10 * MAX_POINTS)])
    assert len(points) == MAX_POINTS
    assert points[-1] == (10 * MAX_POINTS - 1, 0.5)
    assert {y for _, y in points} == {0.5}


def test_a_smoothed_constant_is_that_constant() -> None:
    assert smooth([3.0] * 60) == pytest.approx([3.0] * 60)


@pytest.mark.parametrize(("seconds", "want"), [(0.04, "0.0s"), (59.4, "59.4s"), (60, "1m00s"), (3723, "1h02m03s")])
def test_durations_for_people(seconds: float, want: str) -> None:
    assert duration(seconds) == want
