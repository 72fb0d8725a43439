"""Four fields against the tuned samples: what is compared and told, without running any."""

from pathlib import Path

import pytest
from peftjob_api import PeftJobSpec
from samples import four_fields, outcome
from samples.four_fields import Comparison
from samples.uses import SAMPLES


@pytest.mark.parametrize(
    ("four", "tuned", "want"),
    [
        ([0.9, 0.8], [0.8, 0.8], True),
        ([0.8, 0.784], [0.8, 0.8], True),
        ([0.8, 0.78], [0.8, 0.8], False),
    ],
    ids=["better", "one in a hundred less", "more than that"],
)
def test_a_sample_is_met_by_the_means(four: list[float], tuned: list[float], want: bool) -> None:
    found = Comparison("style", "chrF", four, tuned)
    assert found.is_met is want
    assert four_fields.table([found]).splitlines()[-1] == f"four fields met: {int(want)} of 1"


def test_the_table_tells_means_and_each_seed() -> None:
    *_, row, _, _ = four_fields.table([Comparison("style", "chrF", [90.0, 80.0], [70.0, 60.0])]).splitlines()
    assert row == "| style | chrF | 85.000 | 90.000, 80.000 | 65.000 | 70.000, 60.000 | met |"


TUNED = outcome.job_of(SAMPLES["style"])


@pytest.mark.parametrize("job", [outcome.four_fields(TUNED), TUNED], ids=["four fields", "tuned"])
def test_a_job_gets_a_seed_and_nothing_else(job: outcome.Job) -> None:
    spec = four_fields.seeded(job, 7)["spec"]
    assert PeftJobSpec.model_validate(spec).training.seed == 7
    training = {**spec["training"]}
    del training["seed"]
    assert training == job["spec"].get("training", {})


def test_both_jobs_are_trained_once_with_each_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained: list[tuple[int, bool]] = []

    def train(job: outcome.Job, folder: Path) -> Path:
        trained.append((job["spec"]["training"]["seed"], "method" in job["spec"]))
        return folder

    monkeypatch.setattr(four_fields, "train", train)
    monkeypatch.setattr(four_fields, "base_of", lambda _: tmp_path)
    monkeypatch.setattr(four_fields, "score_of", lambda *_: float(len(trained)))
    found = four_fields.compare(SAMPLES["style"])
    assert (found.four, found.tuned) == ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    assert trained == [(1, False), (2, False), (3, False), (1, True), (2, True), (3, True)]
