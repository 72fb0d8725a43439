"""Who may take an output prefix, and that whoever lost it can no longer publish: rules, then every interleaving."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from peftjob_api import JobIdentity, Reason
from peftjob_api.constants import CLAIM_NAME, MANIFEST_NAME
from peftjob_api.spec import StorageSpec
from peftjob_trainer.claim import Claim, check_output, read_claim
from peftjob_trainer.claim_record import ClaimRecord, FileEntry, Manifest, decide
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.storage import Store, open_store

OTHER_UID = "uid-0"


def record(**changes: object) -> ClaimRecord:
    """Return the claim of attempt 2, gang g2, of the PeftJob team/sentiment."""
    fields = {
        "uid": "uid-1", "namespace": "team", "name": "sentiment", "attempt": 2, "gang": "g2", "token": "t", "number": 5,
    }  # fmt: skip
    return ClaimRecord.model_validate({**fields, **changes})


MANIFEST = Manifest(
    uid="uid-1", namespace="team", name="sentiment", attempt=1, created="2026-01-01T00:00:00+00:00",
    files={"adapter_model.safetensors": FileEntry(sha256="0" * 64, size_bytes=1)},
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A prefix as a starting gang (attempt 2, gang g3, of team/sentiment with uid-1) finds it."""

    id: str
    claim: ClaimRecord | None
    keys: list[str] = field(default_factory=list)
    attempt: int = 2
    gang: str = "g3"
    want: Reason | None = None
    want_in_message: tuple[str, ...] = ()


CASES = [
    Case("an empty prefix is free", None),
    Case(
        "foreign files without any claim are left alone",
        None,
        ["a.txt", "b.txt", "c.txt", "d.txt"],
        want=Reason.OUTPUT_OCCUPIED,
        want_in_message=("a.txt, b.txt, c.txt and 1 more", "spec.output.uri", "s3://out/x"),
    ),
    Case(
        "a manifest without a claim is foreign",
        None,
        [MANIFEST_NAME],
        want=Reason.OUTPUT_OCCUPIED,
        want_in_message=(MANIFEST_NAME,),
    ),
    Case("the same attempt after a suspension is a new gang and takes over", record(), [CLAIM_NAME]),
    Case("the same gang whose rank 0 started again takes over", record(), [CLAIM_NAME], gang="g2"),
    Case("a higher attempt takes over", record(), [CLAIM_NAME], attempt=3),
    Case(
        "a lower attempt never replaces a higher one",
        record(),
        [CLAIM_NAME],
        attempt=1,
        want=Reason.SUPERSEDED,
        want_in_message=("attempt 2", "this is attempt 1"),
    ),
    Case(
        "a gang that was superseded never comes back",
        record(superseded=["g1", "g3"]),
        [CLAIM_NAME],
        want=Reason.SUPERSEDED,
        want_in_message=("g2",),
    ),
    Case(
        "what a killed gang of ours left half published is overwritten",
        record(files=["adapter_model.safetensors", MANIFEST_NAME]),
        [CLAIM_NAME, "adapter_model.safetensors"],
    ),
    Case(
        "a file that no claim of ours announced is foreign",
        record(files=["adapter_model.safetensors"]),
        [CLAIM_NAME, "adapter_model.safetensors", "thesis.txt"],
        want=Reason.OUTPUT_OCCUPIED,
        want_in_message=("thesis.txt",),
    ),
    Case(
        "a PeftJob that was deleted and made again takes over from its unfinished namesake",
        record(uid=OTHER_UID, files=["adapter_model.safetensors"]),
        [CLAIM_NAME, "adapter_model.safetensors"],
        attempt=1,
    ),
    Case(
        "its finished namesake's adapter is kept",
        record(uid=OTHER_UID, manifest=MANIFEST),
        [CLAIM_NAME, MANIFEST_NAME],
        want=Reason.OUTPUT_OCCUPIED,
        want_in_message=("team/sentiment", OTHER_UID, "spec.output.uri"),
    ),
    Case(
        "a deleted PeftJob's late gang does not take over from its successor",
        record(uid="uid-2", superseded=["uid-1"]),
        [CLAIM_NAME],
        attempt=9,
        want=Reason.OUTPUT_OCCUPIED,
        want_in_message=("created after this one",),
    ),
    Case(
        "another PeftJob that has not finished keeps its prefix",
        record(uid=OTHER_UID, name="other"),
        [CLAIM_NAME],
        want=Reason.OUTPUT_OCCUPIED,
        want_in_message=("team/other", CLAIM_NAME, "spec.output.uri"),
    ),
    Case(
        "another PeftJob that has finished keeps its prefix",
        record(uid=OTHER_UID, name="other", manifest=MANIFEST),
        [CLAIM_NAME, MANIFEST_NAME],
        want=Reason.OUTPUT_OCCUPIED,
        want_in_message=("the adapter of", "team/other"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_who_may_take_the_claim(case: Case, job: JobIdentity) -> None:
    def take() -> None:
        decide(case.claim, case.keys, job, case.attempt, case.gang, "s3://out/x")

    if case.want is None:
        take()
        return
    with pytest.raises(TrainerError) as error:
        take()
    assert error.value.reason is case.want
    is_late = case.claim is not None and case.claim.uid == job.uid and case.attempt < case.claim.attempt
    assert error.value.claimed_attempt == (case.claim.attempt if case.claim and is_late else None)
    assert [part for part in case.want_in_message if part not in error.value.message] == [], error.value.message


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/out", StorageSpec())


def test_numbers_rise_and_gangs_that_lost_are_remembered(store: Store, job: JobIdentity) -> None:
    numbers = [Claim.take(store, job, attempt, gang).number for attempt, gang in [(1, "g1"), (1, "g2"), (2, "g3")]]
    assert numbers == [1, 2, 3]
    found = read_claim(store)
    assert found is not None
    assert found[0].superseded == ["g1", "g2"]


def test_the_loser_learns_it_by_a_check(store: Store, job: JobIdentity) -> None:
    first = Claim.take(store, job, 1, "g1")
    first.check()
    Claim.take(store, job, 2, "g2").check()
    with pytest.raises(TrainerError, match="attempt 2") as error:
        first.check()
    assert error.value.reason is Reason.SUPERSEDED


def test_a_claim_that_was_removed_is_lost(store: Store, job: JobIdentity) -> None:
    claim = Claim.take(store, job, 1, "g1")
    store.delete(CLAIM_NAME)
    with pytest.raises(TrainerError) as error:
        claim.check()
    assert error.value.reason is Reason.SUPERSEDED


def test_a_refused_gang_changes_nothing(store: Store, job: JobIdentity) -> None:
    store.put("thesis.txt", b"ten years of work")
    before = store.list()
    with pytest.raises(TrainerError):
        Claim.take(store, job, 1, "g1")
    assert store.list() == before


def test_looking_first_says_the_same_and_changes_nothing(store: Store, job: JobIdentity) -> None:
    check_output(store, job, 1, "g1")
    assert store.list() == []
    Claim.take(store, job, 2, "g2")
    before = store.list()
    check_output(store, job, 2, "g3")
    with pytest.raises(TrainerError) as error:
        check_output(store, job, 1, "g1")
    assert error.value.reason is Reason.SUPERSEDED
    assert store.list() == before


def test_an_object_that_is_no_claim_is_left_alone(store: Store, job: JobIdentity) -> None:
    store.put(CLAIM_NAME, json.dumps({"version": "from the future"}).encode())
    with pytest.raises(TrainerError) as error:
        Claim.take(store, job, 1, "g1")
    assert error.value.reason is Reason.OUTPUT_OCCUPIED


def test_a_namesake_s_uid_is_remembered(store: Store, job: JobIdentity) -> None:
    Claim.take(store, JobIdentity(namespace="team", name="sentiment", uid=OTHER_UID), 4, "old")
    claim = Claim.take(store, job, 1, "new")
    assert (claim.number, claim.record.superseded) == (2, [OTHER_UID])
