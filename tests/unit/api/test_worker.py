"""What workers and operator tell each other: bounded on the way out, lenient and never trusted on the way in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peftjob_api import (
    AdapterInfo,
    JobIdentity,
    PeftJobSpec,
    PlanInfo,
    RunConfig,
    TerminationMessage,
    WorkerStatus,
    parse_worker_json,
)
from peftjob_api.constants import TERMINATION_MAX_BYTES
from peftjob_api.peftjob import IMMUTABLE_FIELDS, MUTABLE_FIELDS
from peftjob_api.worker import STATUS_MAX_BYTES
from peftjob_testkit.corpus import changed, sample

ANY_TEXT = st.text(st.characters(codec=None))  # lone surrogates and control characters included
COUNTS = st.none() | st.integers(0, 2**62)
NUMBERS = st.none() | st.floats()
METRICS = st.dictionaries(st.text(max_size=64), st.floats(), max_size=32)
ADAPTERS = st.builds(
    AdapterInfo,
    uri=st.text(max_size=640),
    sha256=st.just("0" * 64),
    size_bytes=st.integers(0, 2**62),
)
STATUSES = st.builds(
    WorkerStatus,
    phase=st.sampled_from(["Training", "Done"]),
    step=COUNTS,
    total_steps=COUNTS,
    loss=NUMBERS,
    eta_seconds=NUMBERS,
    metrics=METRICS,
)
MESSAGES = st.builds(
    TerminationMessage,
    reason=st.sampled_from(["Finished", "InternalError"]),
    message=ANY_TEXT | st.integers(0, 5000).flatmap(lambda n: st.sampled_from(["x" * n, "\x00" * n, "\U0001f600" * n])),
    exit_code=st.integers(-64, 255),
    rank=COUNTS,
    adapter=st.none() | ADAPTERS,
    status=st.none() | STATUSES,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@given(MESSAGES)
def test_a_termination_message_fits_and_never_loses_the_result(message: TerminationMessage) -> None:
    text = message.to_json()
    assert len(text.encode()) <= TERMINATION_MAX_BYTES
    read = parse_worker_json(TerminationMessage, text)
    assert read is not None
    assert (read.reason, read.exit_code, read.rank, read.adapter) == (
        message.reason,
        message.exit_code,
        message.rank,
        message.adapter,
    )
    assert message.message.startswith(read.message)


@pytest.mark.parametrize(
    ("length", "metrics", "want_status"),
    [(2048, 3, True), (0, 3, True), (2048, 32, False)],
    ids=["a long message", "no message", "a long message and metrics with the longest names"],
)
def test_what_is_cut_is_the_message_and_the_status_only_if_that_is_not_enough(
    length: int, metrics: int, want_status: bool
) -> None:
    names = {f"{i:02}" + "\u540d" * 62: 0.1234567890123 for i in range(metrics)}
    message = TerminationMessage(
        reason="Finished", message="m" * length, exit_code=0, status=WorkerStatus(step=7, metrics=names)
    )
    read = parse_worker_json(TerminationMessage, message.to_json())
    assert read is not None
    assert (read.status == message.status) is want_status


def test_a_short_message_is_not_cut() -> None:
    text = "größe: Zeile 7 ist kein JSON"
    message = TerminationMessage(reason="DatasetMalformed", message=text, exit_code=65)
    assert json.loads(message.to_json()) == {"reason": "DatasetMalformed", "message": text, "exitCode": 65}


def test_bytes_of_a_files_name_do_not_stop_the_last_word() -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    message = TerminationMessage(reason="DatasetNotFound", message=f"no file {name}", exit_code=66)
    read = parse_worker_json(TerminationMessage, message.to_json())
    assert read is not None
    assert read.message == "no file caf?"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('{"step": 3, "loss": NaN}', {"step": 3}),
        ('{"step": 3, "loss": Infinity, "etaSeconds": -Infinity}', {"step": 3}),
        ('{"step": 3, "loss": 1e999}', {"step": 3}),
        ('{"step": NaN}', {}),
        ('{"step": 3, "temperature": 0.7, "nested": {"a": [1]}}', {"step": 3}),
        ('{"metrics": {"accuracy": 0.5, "loss": NaN, "note": "x", "n": null}}', {"metrics": {"accuracy": 0.5}}),
        ('{"metrics": {"accuracy": 1%s}}' % ("0" * 400), {}),
        ('{"step": 3.0}', {"step": 3}),
        ('{"step": null, "loss": null}', {}),
    ],
    ids=[
        *("a loss that is not a number", "infinite numbers", "a number beyond floats", "a count that is not a number"),
        *("fields of a newer trainer", "metrics that are no numbers", "an integer beyond floats", "a whole number"),
        "null",
    ],
)
def test_what_is_no_finite_number_is_absent(text: str, want: dict[str, Any]) -> None:
    status = parse_worker_json(WorkerStatus, text)
    assert status is not None
    assert status == WorkerStatus.model_validate(want)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"step": -1}',
        '{"step": "three"}',
        '{"step": 1%s}' % ("0" * 40),
        '{"metrics": {"%s": 1}}' % ("k" * 65),
        json.dumps({"metrics": {f"m{i}": 1 for i in range(33)}}),
        '{"step": 1, "pad": "%s"}' % ("x" * STATUS_MAX_BYTES),
        b'{"phase": "\xff"}',
        "[" * 10_000,
    ],
    ids=[
        *(
            "nothing",
            "a list",
            "null",
            "half an object",
            "a negative count",
            "a word for a count",
            "a count of 41 digits",
        ),
        *("a metric's name too long", "too many metrics", "more than 16 KiB", "no UTF-8", "ten thousand brackets"),
    ],
)
def test_what_does_not_fit_is_as_if_nothing_was_said(text: str | bytes) -> None:
    assert parse_worker_json(WorkerStatus, text) is None


@given(st.dictionaries(st.sampled_from([f.alias for f in WorkerStatus.model_fields.values() if f.alias]), JSON))
def test_no_json_object_breaks_the_reader(fields: dict[str, Any]) -> None:
    status = parse_worker_json(WorkerStatus, json.dumps(fields))
    assert status is None or parse_worker_json(WorkerStatus, json.dumps(status.to_wire(), allow_nan=False)) == status


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str | bytes) -> None:
    parse_worker_json(TerminationMessage, text)


def test_a_plan_is_read_back() -> None:
    plan = PlanInfo(shard_group="Full", ranks=2, base_parameters=7, base_bytes_per_rank=14, trainable_parameters=1)
    assert parse_worker_json(WorkerStatus, json.dumps({"plan": plan.to_wire()})) == WorkerStatus(plan=plan)


# --- the run config ------------------------------------------------------------------------------------------------

JOB = JobIdentity(namespace="team-a", name="chat", uid="0000-1111")


def config(**paths: Any) -> str:
    manifest = changed(sample("chat"), {"set": {path.replace("__", "."): value for path, value in paths.items()}})
    return RunConfig.of(JOB, PeftJobSpec.model_validate(manifest["spec"])).to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"spec__suspend": True},
        {"spec__maxRestarts": 0},
        {"spec__activeDeadlineSeconds": 1},
        {"spec__ttlSecondsAfterFinished": 1},
        {"spec__training__batchSize": 128.0},
        {"spec__training__seed": 42},
    ],
    ids=["suspend", "maxRestarts", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "128.0 for 128", "a default"],
)
def test_the_run_config_does_not_change_with(change: dict[str, Any]) -> None:
    assert config(**change) == config()


def test_the_run_config_changes_with_everything_else() -> None:
    assert config(spec__training__seed=43) != config()


def test_the_run_config_is_read_back_by_the_launcher() -> None:
    read = RunConfig.model_validate_json(config())
    assert read.job == JOB
    assert read.to_json() == config()


def test_every_field_of_the_spec_is_either_mutable_or_not() -> None:
    fields = {field.alias for field in PeftJobSpec.model_fields.values()}
    assert sorted(fields, key=str) == sorted((*MUTABLE_FIELDS, *IMMUTABLE_FIELDS))
    assert {PeftJobSpec.model_fields[name].alias for name in RunConfig.OPERATOR_FIELDS} == set(MUTABLE_FIELDS)
