"""How samples are run on one machine, without running any."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from peftjob_api import PeftJobSpec
from safetensors.numpy import save_file
from samples import run
from samples.uses import JOBS, runnable


def outcome(name: str, *, base: float, baseline: float, adapter: float) -> run.Outcome:
    """Return what a sample came to."""
    return run.Outcome(name, "accuracy", base, baseline, "copy", adapter, 0.0123, 1.0)


@pytest.mark.parametrize("name", runnable())
@pytest.mark.parametrize("is_quick", [False, True], ids=["whole", "quick"])
def test_a_local_job_is_valid_and_has_no_uri_of_a_cluster(name: str, is_quick: bool) -> None:
    job = yaml.safe_load((JOBS / f"{name}.yaml").read_text())
    changed = run.local(job, Path("/data"), Path("/base"), is_quick=is_quick)
    spec = PeftJobSpec.model_validate(changed["spec"])
    assert all(uri.startswith("file:///") for uri in spec.uris())
    assert spec.dataset.train == f"file:///data/{Path(job['spec']['dataset']['train']).name}"
    assert spec.workers.world_size == 1
    assert spec.method == PeftJobSpec.model_validate(job["spec"]).method
    assert (spec.training.max_steps == run.QUICK_STEPS) is is_quick


def test_the_table_counts_what_was_met() -> None:
    found = run.table(
        [
            outcome("better than both", base=0.1, baseline=0.5, adapter=0.6),
            outcome("worse than a program", base=0.1, baseline=0.5, adapter=0.4),
            outcome("worse than the base", base=0.7, baseline=0.5, adapter=0.6),
            outcome("only as good", base=0.1, baseline=0.5, adapter=0.5),
        ]
    ).splitlines()
    assert [line.split(" | ")[-1] for line in found[2:6]] == ["met |", "missed |", "missed |", "missed |"]
    assert "| 0.100 | 0.500 (copy) | 0.600 | 1.23 % | 1.0 |" in found[2]
    assert found[-1] == "samples met: 1 of 4"


def test_the_share_trained_is_of_what_the_files_hold(tmp_path: Path) -> None:
    for name, shape in (("base", (8, 10)), ("adapter", (4, 5))):
        (tmp_path / name).mkdir()
        save_file({"weight": np.zeros(shape, np.float32)}, tmp_path / name / "model.safetensors")
    assert run.share_trained(tmp_path / "base", tmp_path / "adapter") == pytest.approx(0.2)


def test_a_sample_without_a_job_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["nothing"])
    said = capsys.readouterr().err
    assert "no sample with a job: nothing; there are" in said
    assert "banking" in said
