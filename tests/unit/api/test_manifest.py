"""Reading files, and the one line that each mistake gets."""

import pytest
from peftjob_api import ManifestError, PeftJob, PeftJobSpec, format_errors, load_manifest, read_peftjob
from peftjob_testkit.corpus import sample
from pydantic import ValidationError


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("spec:\n  suspend: true\n  suspend: false\n", "line 3, column 3: suspend is there twice"),
        ("spec: [1\n", "line 2, column 1: "),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: "),
        ("a:\n\t- 1\n", "line 2, column 1: "),
        ("a: *unknown\n", "line 1, column 4: "),
        ("a: !!python/object:os.system {}\n", "line 1, column 4: "),
        ("a: \x00\n", "special characters are not allowed"),
        ("", "no PeftJob: the file must hold one object"),
        ("- a\n", "no PeftJob: the file must hold one object"),
    ],
    ids=[
        *("a key twice", "a bracket left open", "two documents", "a tab", "an unknown alias", "a tag that runs code"),
        *("a control character", "an empty file", "a list"),
    ],
)
def test_a_file_that_is_no_manifest(text: str, want: str) -> None:
    with pytest.raises(ManifestError) as refused:
        load_manifest(text)
    assert want in str(refused.value)


def test_anchors_and_merges_are_understood() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\n"
    assert load_manifest(text)["more"] == {"a": 1, "b": 3}


def test_everything_wrong_is_told_at_once_one_line_each() -> None:
    with pytest.raises(ManifestError) as refused:
        read_peftjob(
            """
            apiVersion: peftjob.io/v1alpha1
            kind: PeftJob
            metadata: {name: several}
            spec:
              baseModel: {uri: llama, revison: main}
              dataset: {train: s3://data/t.jsonl}
              training: {learningRate: -1, batchSize: "8"}
              workers: {gpusPerNode: 1, processesPerNode: 1}
            """
        )
    assert str(refused.value).splitlines() == [
        "spec.baseModel.revison: unknown field (did you mean revision?)",
        "spec.training.batchSize: must be an integer, not '8' (write a number without quotes, such as 8)",
        "spec.training.learningRate: must be greater than 0 (got -1)",
        "spec.workers.processesPerNode: gpusPerNode and processesPerNode contradict each other: gpusPerNode trains on "
        "accelerators, processesPerNode on the CPU; set one",
        "spec.output: required, but not there (output is where the adapter goes.)",
    ]


def test_the_path_starts_at_the_model_that_was_validated() -> None:
    with pytest.raises(ValidationError) as refused:
        PeftJobSpec.model_validate({**sample("minimal")["spec"], "sede": 1})
    assert format_errors(refused.value, PeftJobSpec).startswith("sede: unknown field (there are: baseModel, task")


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ManifestError) as refused:
        read_peftjob(f'{{"spec": {{"suspend": "{"x" * 500}"}}}}')
    assert "xxx..." in str(refused.value)
    assert max(map(len, str(refused.value).splitlines())) < 200


def test_a_rule_is_an_ordinary_error_of_pydantic() -> None:
    bad = {**sample("minimal"), "metadata": {"name": "1st"}}
    with pytest.raises(ValueError, match="a letter first"):
        PeftJob.model_validate(bad)
