"""The corpus through pydantic, as the launcher reads a PeftJob; tests/integration/api holds kubectl to the same."""

import copy

import pytest
from peftjob_api import ManifestError, PeftJob, read_peftjob, validate_update
from peftjob_testkit.corpus import Case, every, read, samples

BAD, GOOD, UPDATES = read("bad-*.yaml"), read("good.yaml") + samples(), read("updates.yaml")


def test_the_corpus_is_not_shrunk_by_accident() -> None:
    assert len(BAD) >= 95
    assert len(GOOD) >= 25
    assert len(UPDATES) >= 15


@every(BAD)
def test_a_bad_manifest_is_refused_with_the_field_and_the_fix(case: Case) -> None:
    with pytest.raises(ManifestError) as refused:
        read_peftjob(case.text)
    lines = str(refused.value).splitlines()
    field, fix = case.want("python")
    assert any(line.startswith(f"{field}: ") for line in lines), lines
    assert any(fix in line for line in lines), lines
    assert len(lines) == case.complaints, lines


@every(GOOD)
def test_a_good_manifest_is_taken(case: Case) -> None:
    assert read_peftjob(case.text).metadata.name == case.manifest["metadata"]["name"]


@every(GOOD)
def test_what_was_read_and_written_again_is_the_same(case: Case) -> None:
    spec = read_peftjob(case.text).spec
    assert type(spec).model_validate(spec.to_wire()) == spec


@every(UPDATES)
def test_a_started_job_changes_only_where_it_may(case: Case) -> None:
    old = copy.deepcopy(case.sample)
    if case.started:
        old["status"] = {"startTime": "2026-01-01T00:00:00Z"}
    PeftJob.model_validate(case.manifest)
    if not case.field:
        validate_update(old, case.manifest)
        return
    with pytest.raises(ValueError) as refused:
        validate_update(old, case.manifest)
    field, fix = case.want("python")
    assert str(refused.value).startswith(f"{field} ")
    assert fix in str(refused.value)
