"""Few labels: what is compared, counted and told, on models of a moment."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peftjob_api import PeftJobSpec
from samples import few_labels, full_tuning
from samples.few_labels import Adapted, Comparison, Tuned
from samples.run import local


class Model(torch.nn.Module):
    """A classifier of one number."""

    def __init__(self) -> None:
        """Begin with zeros, and one parameter that nothing depends on."""
        super().__init__()
        self.layer = torch.nn.Linear(1, 2)
        torch.nn.init.zeros_(self.layer.weight)
        self.unused = torch.nn.Parameter(torch.zeros(1000))

    def forward(self, number: torch.Tensor) -> SimpleNamespace:
        """Return logits."""
        return SimpleNamespace(logits=self.layer(number))


def numbers(rows: list[float], is_training: bool) -> dict[str, torch.Tensor]:
    """Return a column."""
    return {"number": torch.tensor(rows)[:, None]}


def compared(*, adapter: float, full: float, share: float) -> Comparison:
    """Return what a case came to."""
    whole = [Tuned(0.9, full - 0.1, 4000), Tuned(0.9, full + 0.1, 4000)]
    return Comparison("text", [Adapted(0.5, adapter, 100, share, 300)] * 2, 1e-4, whole)


def test_full_tuning_learns_and_keeps_the_best_epoch() -> None:
    torch.manual_seed(0)
    data = ([-2.0, -1.0, 1.0, 2.0] * 4, ["below", "below", "above", "above"] * 4)
    splits = {"train": data, "validation": data, "test": data}
    model = Model()
    found = full_tuning.tune(model, numbers, ["above", "below"], splits, rate=0.1, batch=4, epochs=3)
    assert (found.validation, found.test) == (1.0, 1.0)
    assert found.state == 4 * 4 * 4, "parameter, gradient and two moments of four numbers; the unused have none"
    # An epoch that is worse later is not kept: labels that contradict what was learned.
    wrong = {**splits, "train": (data[0], data[1][::-1])}
    before, _ = full_tuning.judged(model, numbers, ["above", "below"], data)
    found = full_tuning.tune(model, numbers, ["above", "below"], wrong, rate=1e-4, batch=16, epochs=1)
    assert before == found.validation == 1.0
    found = full_tuning.tune(model, numbers, ["above", "below"], wrong, rate=0.5, batch=4, epochs=20)
    assert found.test == found.validation


@pytest.mark.parametrize(
    ("adapter", "full", "share", "want"),
    [
        (0.8, 0.8, 0.019, True),
        (0.9, 0.8, 0.019, True),
        (0.79, 0.8, 0.019, False),
        (0.9, 0.8, 0.02, False),
    ],
    ids=["as good with few", "better", "worse", "better with too many"],
)
def test_a_case_is_met(adapter: float, full: float, share: float, want: bool) -> None:
    found = compared(adapter=adapter, full=full, share=share)
    assert found.is_met is want
    assert few_labels.table([found]).splitlines()[-1] == f"few labels met: {int(want)} of 1"


def test_the_table_tells_means_and_the_ratio_of_memory() -> None:
    _, _, whole, own, *_ = few_labels.table([compared(adapter=0.85, full=0.8, share=0.0123)]).splitlines()
    assert whole == "| text | all parameters, rate 0.0001 | 0.800 | 0.700, 0.900 | 100 % | 0.00 MB |  |"
    assert own == "| text | defaults | 0.850 | 0.850, 0.850 | 1.23 % | 0.00 MB, 1/40 | met |"


@pytest.mark.parametrize("name", few_labels.CASES)
def test_a_job_leaves_all_to_its_default(name: str, tmp_path: Path) -> None:
    case = few_labels.CASES[name]
    spec = PeftJobSpec.model_validate(local(few_labels.job_of(case, 7), tmp_path, tmp_path)["spec"])
    assert spec.training.seed == 7
    assert spec.method.lora is None
    case.write(tmp_path)
    rows, labels = case.read(tmp_path, "train")
    assert len(rows) == len(labels) == few_labels.ROWS
    assert not set(rows) & set(case.read(tmp_path, "test")[0])
