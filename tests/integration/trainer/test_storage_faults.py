"""A real S3 server that fails at each call of a gang's life in turn: the adapter is there whole, or not at all."""

import hashlib
import itertools
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from peftjob_api import AdapterInfo, JobIdentity, Reason, WaitingInfo
from peftjob_api.constants import CLAIM_NAME, MANIFEST_NAME
from peftjob_api.spec import StorageSpec
from peftjob_cluster.s3 import S3Server
from peftjob_testkit.s3_proxy import Fault, S3Proxy
from peftjob_trainer.checkpoints.state import TrainingState
from peftjob_trainer.checkpoints.stored import Stored
from peftjob_trainer.claim import Claim
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.history import History
from peftjob_trainer.publish import find_published, publish
from peftjob_trainer.storage import credentials as mounted
from peftjob_trainer.storage import fetch, open_store, patience
from peftjob_trainer.storage import s3 as s3_module
from peftjob_trainer.storage.waiting import WaitingStore

PART = 5 * 2**20
"""The least that S3 takes as a part."""


@dataclass
class Gang:
    """What a gang does at its output."""

    uri: str
    storage: StorageSpec
    job: JobIdentity
    folder: Path
    work: Path
    gives_up: bool = False
    """Whether it is told to stop as soon as it waits."""
    went_on_after: int | None = None

    def live(self, attempt: int = 1) -> AdapterInfo:
        """Claim the output, go on from a checkpoint, write two more, and publish; a store may fail at any call."""
        store = open_store(self.uri, self.storage)
        if found := find_published(store, self.uri, self.job):
            return found
        claim = Claim.take(store, self.job, attempt, f"gang {attempt}")
        if found := find_published(store, self.uri, self.job):
            return found
        stored = Stored(claim, 1, self.work)
        stored.sweep()
        newest = stored.newest()
        self.went_on_after = newest.step if newest else 0
        for step in (10, 20):
            if step > self.went_on_after:
                with suppress(TrainerError):  # as the loop's keeper does
                    stored.add(state(step))
        output = WaitingStore(open_store(self.uri, self.storage, patience.ONCE), lambda _: None, lambda: self.gives_up)
        return publish(output, self.uri, claim.through(output), self.folder, self.job)


def state(step: int) -> TrainingState:
    return TrainingState(step, {}, {"a": (4,)}, {"trained": torch.full((4,), float(step))}, History())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one try of a request by the library, short pauses between ours, small parts, and clients made once."""
    monkeypatch.setattr(s3_module, "ATTEMPTS", 1)
    monkeypatch.setattr(s3_module, "PART_BYTES", PART)
    monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.001)
    monkeypatch.setattr(fetch, "make_client", lru_cache(lambda spec, make=fetch.make_client: make(spec)))


@pytest.fixture
def is_large() -> bool:
    """Whether the adapter goes up in parts."""
    return False


@pytest.fixture
def folder(is_large: bool, tmp_path: Path) -> Path:
    """An adapter of two files, of which one may go up in two parts."""
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    (made / "adapter_model.safetensors").write_bytes(b"weights." * (PART // 8 + 1 if is_large else 8))
    return made


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[S3Proxy]:
    with S3Proxy(s3) as server:
        yield server


@pytest.fixture
def gang(
    storage: StorageSpec, at_endpoint: Callable[[str], StorageSpec], proxy: S3Proxy, job: JobIdentity, folder: Path,
    tmp_path: Path,
) -> Callable[..., Gang]:  # fmt: skip
    """Return a maker of gangs, each of which reaches S3 through the proxy."""
    return lambda uri, **how: Gang(uri, at_endpoint(proxy.endpoint), job, folder, tmp_path, **how)


@pytest.fixture
def look(s3: S3Server, folder: Path) -> Callable[..., dict[str, bytes]]:
    """Return a function that reads an output past our own code, and makes sure that what looks whole is."""
    client: Any = boto3.client("s3", **s3.boto3())

    def read(uri: str) -> dict[str, bytes]:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        found = {
            entry["Key"].removeprefix(f"{prefix}/"): client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            for entry in listed
        }
        if MANIFEST_NAME in found:
            for name, entry in json.loads(found[MANIFEST_NAME])["files"].items():
                assert hashlib.sha256(found[name]).hexdigest() == entry["sha256"], name
                assert found[name] == (folder / name).read_bytes()
        found["uploads"] = json.dumps(
            [u["Key"] for u in client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])]
        ).encode()
        return found

    return read


WHOLE = {CLAIM_NAME, MANIFEST_NAME, "adapter_config.json", "adapter_model.safetensors", "uploads"}


def is_whole(found: dict[str, bytes]) -> bool:
    """Tell whether an adapter and nothing else lies at an output, no upload in parts either."""
    return found.keys() == WHOLE and found["uploads"] == b"[]"


def fresh() -> str:
    return f"s3://adapters/{uuid.uuid4().hex}/adapter"


def calls_of(proxy: S3Proxy, live: Callable[[], object]) -> int:
    """Return how many requests something takes."""
    before = proxy.requests
    live()
    return proxy.requests - before


FAULTS: dict[Fault, int] = {"refused": 1, "lost": 1, "slow down": 3}
"""And how many requests fail in a row."""


@pytest.mark.parametrize(("fault", "is_large"), [(fault, fault == "lost") for fault in FAULTS])
def test_one_fault_at_any_call_costs_nothing(
    fault: Fault, gang: Callable[..., Gang], proxy: S3Proxy, look: Callable[..., dict[str, bytes]]
) -> None:
    calls = calls_of(proxy, gang(fresh()).live)
    assert calls > 25
    for call in range(calls):
        uri, first = fresh(), proxy.requests + call
        proxy.fails = lambda number, *_, first=first: fault if first <= number < first + FAULTS[fault] else None
        info = gang(uri).live()
        found = look(uri)
        assert is_whole(found), (call, sorted(found), found["uploads"])
        assert info.sha256 == hashlib.sha256(found[MANIFEST_NAME]).hexdigest()


@pytest.mark.parametrize("is_large", [True])
@pytest.mark.parametrize("last", ["refused", "lost"], ids=["and the call is not done", "and the call is done"])
def test_a_gang_that_loses_the_store_at_any_call_leaves_nothing_half(
    last: Fault, gang: Callable[..., Gang], proxy: S3Proxy, look: Callable[..., dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The store goes away at a call, for longer than the gang lives; then the next one comes."""
    monkeypatch.setattr(patience, "BRIEF", replace(patience.BRIEF, seconds=0.01))
    calls = calls_of(proxy, gang(fresh()).live)
    went_on = set()
    for call in range(calls):
        uri, first = fresh(), proxy.requests + call
        proxy.fails = lambda number, *_, first=first: None if number < first else last if number == first else "refused"
        info: AdapterInfo | None = None
        with suppress(TrainerError):
            info = gang(uri, gives_up=True).live()
        found = look(uri)  # what a reader finds now
        assert info is None or MANIFEST_NAME in found
        proxy.fails = lambda *_: None
        second = gang(uri)
        again = second.live(2)
        went_on.add(second.went_on_after)
        assert info in (None, again)
        found = look(uri)
        assert is_whole(found), (call, sorted(found), found["uploads"])
        assert again.sha256 == hashlib.sha256(found[MANIFEST_NAME]).hexdigest()
    assert went_on == {None, 0, 10, 20}, "published before, begun anew, and gone on from both checkpoints"


@pytest.mark.parametrize("fault", ["refused", "slow down", "full", "expired", "no backend"])
def test_a_finished_adapter_waits_for_its_output(
    fault: Fault, gang: Callable[..., Gang], proxy: S3Proxy, look: Callable[..., dict[str, bytes]],
    folder: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The output fails from the end of training on, for many tries, and is back."""
    one, told = gang(fresh()), list[WaitingInfo | None]()
    claim = Claim.take(open_store(one.uri, one.storage), one.job, 1, "g")
    before = proxy.requests
    proxy.fails = lambda number, *_: fault if number < before + 12 else None
    output = WaitingStore(open_store(one.uri, one.storage, patience.ONCE), told.append, lambda: False)
    publish(output, one.uri, claim.through(output), folder, one.job)
    assert is_whole(look(one.uri))
    assert len(told) == 13
    assert told[-1] is None
    assert {info.since for info in told[:-1] if info} == {told[0].since if told[0] else None}
    assert all(info and one.uri in info.message for info in told[:-1])


def test_of_two_jobs_that_start_at_once_on_one_output_one_is_refused(storage: StorageSpec, job: JobIdentity) -> None:
    for number in range(8):
        uri, start = fresh(), threading.Barrier(2)
        ended: dict[str, Claim | Reason] = {}

        def take(name: str, uri: str = uri, start: threading.Barrier = start, ended: dict[str, Any] = ended) -> None:
            own = job.model_copy(update={"name": name, "uid": f"uid of {name}"})
            store = open_store(uri, storage)
            start.wait()
            try:
                ended[name] = Claim.take(store, own, 1, f"gang of {name}")
            except TrainerError as error:
                ended[name] = error.reason

        threads = [threading.Thread(target=take, args=(f"{side}-{number}",)) for side in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = [claim for claim in ended.values() if isinstance(claim, Claim)]
        assert [reason for reason in ended.values() if not isinstance(reason, Claim)] == [Reason.OUTPUT_OCCUPIED]
        assert len(taken) == 1
        taken[0].check()


def test_keys_that_are_replaced_meanwhile_are_taken_up(
    job: JobIdentity, folder: Path, tmp_path: Path, at_endpoint: Callable[[str], StorageSpec],
    credentials: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """By the files of the mounted Secret; the environment has no keys, or those of the start."""
    monkeypatch.setattr(mounted, "FOLDER", tmp_path / "secret")
    with S3Server(buckets=["adapters"]) as server:

        def renew(number: int) -> None:
            """Write as the kubelet does: all files into a new folder, then the link is moved."""
            version = tmp_path / "secret" / f"..{number}"
            version.mkdir(parents=True)
            (version / "AWS_ACCESS_KEY_ID").write_text(server.access_key)
            (version / "AWS_SECRET_ACCESS_KEY").write_text(f"{server.secret_key}\n")
            (tmp_path / "link").symlink_to(version.name)
            (tmp_path / "link").replace(tmp_path / "secret" / "..data")
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                if not (tmp_path / "secret" / name).is_symlink():
                    (tmp_path / "secret" / name).symlink_to(f"..data/{name}")

        renew(1)
        uri, storage, told = fresh(), at_endpoint(server.endpoint), list[WaitingInfo | None]()
        claim = Claim.take(open_store(uri, storage), job, 1, "g")
        server.secret_key = "another"
        server.interrupt()
        server.resume()

        def hear(info: WaitingInfo | None) -> None:
            told.append(info)
            if len(told) == 3:
                renew(2)

        output = WaitingStore(open_store(uri, storage, patience.ONCE), hear, lambda: False)
        info = publish(output, uri, claim.through(output), folder, job)
        assert find_published(open_store(uri, storage), uri, job) == info
    assert len(told) == 4
    assert told[-1] is None
    assert all(waits and "refuses the credentials" in waits.message for waits in told[:-1])


def test_one_of_two_outputs_inside_of_each_other_is_refused(storage: StorageSpec, job: JobIdentity) -> None:
    outer, other = fresh(), job.model_copy(update={"name": "other", "uid": "uid-2"})
    inner = open_store(f"{outer}/deep/inside", storage)
    claim = Claim.take(open_store(outer, storage), job, 1, "g")
    with pytest.raises(TrainerError, match=rf"inside of {outer}, which the PeftJob team/sentiment claims") as error:
        Claim.take(inner, other, 1, "g")
    assert error.value.reason is Reason.OUTPUT_OCCUPIED
    assert inner.list() == []
    claim.release()
    Claim.take(inner, other, 1, "g")
    with pytest.raises(TrainerError, match="deep/inside/") as error:
        Claim.take(open_store(outer, storage), job, 2, "g")
    assert error.value.reason is Reason.OUTPUT_OCCUPIED


def test_a_folder_inside_of_a_finished_output_is_free(storage: StorageSpec, job: JobIdentity, folder: Path) -> None:
    outer = fresh()
    store = open_store(outer, storage)
    publish(store, outer, Claim.take(store, job, 1, "g"), folder, job)
    other = job.model_copy(update={"name": "other", "uid": "uid-2"})
    Claim.take(open_store(f"{outer}/second", storage), other, 1, "g").check()


@pytest.mark.parametrize("first", ["outer", "inner"])
def test_outputs_inside_of_each_other_that_are_claimed_at_once_do_not_both_stay(
    storage: StorageSpec, job: JobIdentity, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked before either has written: the one that writes last notices, and leaves nothing."""
    uri, other = fresh(), job.model_copy(update={"name": "other", "uid": "uid-2"})
    stores = {"outer": open_store(uri, storage), "inner": open_store(f"{uri}/inside", storage)}
    last = stores["inner" if first == "outer" else "outer"]
    put, once = last.put, [True]

    def slow(key: str, *body: Any, **conditions: Any) -> str:
        if once:
            once.clear()
            Claim.take(stores[first], job, 1, "g").check()
        return put(key, *body, **conditions)

    monkeypatch.setattr(last, "put", slow)
    with pytest.raises(TrainerError) as error:
        Claim.take(last, other, 1, "g")
    assert error.value.reason is Reason.OUTPUT_OCCUPIED
    assert [o.key for o in stores["outer"].list()] == [CLAIM_NAME if first == "outer" else f"inside/{CLAIM_NAME}"]


def test_uploads_that_were_given_up_are_found_and_others_spared(
    s3: S3Server, storage: StorageSpec, job: JobIdentity, tmp_path: Path, look: Callable[..., dict[str, bytes]]
) -> None:
    """Of a claim before: of a checkpoint, and of a file that it had announced. Not of a later one, nor of strangers."""
    uri = fresh()
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client: Any = boto3.client("s3", **s3.boto3())
    first = Claim.take(open_store(uri, storage), job, 1, "g1")
    first.announce(["adapter_model.safetensors"])
    ours = ["checkpoints/step-00000010-claim-1/state.safetensors", "adapter_model.safetensors"]
    spared = ["checkpoints/step-00000010-claim-3/state.safetensors", "notes.txt"]
    for key in itertools.chain(ours, spared):
        client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/{key}")
    second = Claim.take(open_store(uri, storage), job, 2, "g2")
    Stored(second, 2, tmp_path).sweep()
    left = json.loads(look(uri)["uploads"])
    assert sorted(left) == sorted(f"{prefix}/{key}" for key in spared)
