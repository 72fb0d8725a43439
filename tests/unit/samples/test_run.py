"""How samples are run on one machine and on the cluster, without running any."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from peftjob_api import PeftJobSpec
from safetensors.numpy import save_file
from samples import on_cluster, outcome, run
from samples.uses import JOBS, runnable


def came_to(name: str, *, base: float, baseline: float, adapter: float) -> outcome.Outcome:
    """Return what a sample came to."""
    return outcome.Outcome(name, "accuracy", base, baseline, "copy", adapter, 0.0123, 1.0)


EVERY = pytest.mark.parametrize("name", runnable())


@EVERY
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
    found = outcome.table(
        [
            came_to("better than both", base=0.1, baseline=0.5, adapter=0.6),
            came_to("worse than a program", base=0.1, baseline=0.5, adapter=0.4),
            came_to("worse than the base", base=0.7, baseline=0.5, adapter=0.6),
            came_to("only as good", base=0.1, baseline=0.5, adapter=0.5),
        ]
    ).splitlines()
    assert [line.split(" | ")[-1] for line in found[2:6]] == ["met |", "missed |", "missed |", "missed |"]
    assert "| 0.100 | 0.500 (copy) | 0.600 | 1.23 % | 1.0 |" in found[2]
    assert found[-1] == "samples met: 1 of 4"


def test_the_share_trained_is_of_what_the_files_hold(tmp_path: Path) -> None:
    for name, shape in (("base", (8, 10)), ("adapter", (4, 5))):
        (tmp_path / name).mkdir()
        save_file({"weight": np.zeros(shape, np.float32)}, tmp_path / name / "model.safetensors")
    assert outcome.share_trained(tmp_path / "base", tmp_path / "adapter") == pytest.approx(0.2)


def test_a_sample_without_a_job_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["nothing"])
    said = capsys.readouterr().err
    assert "no sample with a job: nothing; there are" in said
    assert "banking" in said


@EVERY
def test_a_job_of_four_fields_sets_nothing_that_has_a_default(name: str) -> None:
    job = yaml.safe_load((JOBS / f"{name}.yaml").read_text())
    spec = outcome.four_fields(job)["spec"]
    assert spec.keys() <= {"baseModel", "dataset", "task", "output", "workers", "storage"}
    assert spec["dataset"].keys() <= set(outcome.FILES)
    assert spec.get("task", {}).keys() <= {"type"}
    assert PeftJobSpec.model_validate(spec).training.learning_rate is None
    assert "method" in job["spec"], "the job itself is as it was"


@EVERY
def test_the_cluster_gets_every_file_that_a_job_reads(name: str) -> None:
    job = yaml.safe_load((JOBS / f"{name}.yaml").read_text())
    found = on_cluster.uploads(job, Path("/data"), Path("/base"))
    spec = PeftJobSpec.model_validate(job["spec"])
    assert {uri for _, uri in found} == set(spec.uris()) - {spec.output.uri}
    assert found[0] == (Path("/base"), job["spec"]["baseModel"]["uri"])
    assert all(path.parent == Path("/data") for path, _ in found[1:])
    assert job["metadata"]["name"] == name
    assert on_cluster.split_uri(f"s3://adapters/{name}") == ("adapters", name)
