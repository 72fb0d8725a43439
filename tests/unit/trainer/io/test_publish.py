"""Publishing: whole or not at all, once per PeftJob, and by the gang that holds the claim alone."""

import hashlib
import itertools
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from peftjob_api import AdapterInfo, JobIdentity, Reason
from peftjob_api.constants import CLAIM_NAME, MANIFEST_NAME
from peftjob_api.spec import StorageSpec
from peftjob_testkit.memory_store import MemoryStore
from peftjob_trainer.claim import Claim
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.publish import find_published, publish
from peftjob_trainer.storage import ObjectInfo, Store, open_store

URI = "s3://out/sentiment"


def adapter(folder: Path, content: str) -> Path:
    """Write a folder with three files, two of which differ by content."""
    (folder / "sub").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(f"weights of {content}")
    (folder / "README.md").write_text(f"by {content}")
    (folder / "sub" / "tokenizer.json").write_text("the same for all")
    return folder


def contents(store: Store) -> dict[str, bytes]:
    """Return all objects but the claim."""
    return {o.key: store.get(o.key)[0] for o in store.list() if o.key != CLAIM_NAME}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/out", StorageSpec())


def test_the_manifest_names_every_file_and_the_status_names_the_manifest(
    store: Store, job: JobIdentity, tmp_path: Path
) -> None:
    info = publish(store, URI, Claim.take(store, job, 3, "g"), adapter(tmp_path / "a", "one"), job)
    manifest_bytes, _ = store.get(MANIFEST_NAME)
    manifest = json.loads(manifest_bytes)
    assert info.sha256 == hashlib.sha256(manifest_bytes).hexdigest()
    assert info.uri == URI
    assert (manifest["uid"], manifest["name"], manifest["namespace"], manifest["attempt"]) == (
        "uid-1", "sentiment", "team", 3,
    )  # fmt: skip
    files = {key: data for key, data in contents(store).items() if key != MANIFEST_NAME}
    assert {k: (e["sha256"], e["sizeBytes"]) for k, e in manifest["files"].items()} == {
        k: (hashlib.sha256(data).hexdigest(), len(data)) for k, data in files.items()
    }
    assert info.size_bytes == sum(map(len, files.values()))


def test_a_store_that_lets_nothing_be_deleted_gets_its_adapter_all_the_same(
    store: Store, job: JobIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(key: str) -> None:
        raise TrainerError(Reason.STORAGE_ACCESS_DENIED, f"{key}: no right to delete")

    claim = Claim.take(store, job, 1, "g")
    store.put("checkpoints/step-00000010-claim-1/manifest.json", b"{}")
    monkeypatch.setattr(store, "delete", refused)
    info = publish(store, URI, claim, adapter(tmp_path / "a", "one"), job)
    assert find_published(store, URI, job) == info
    assert "no right to delete" in caplog.text


def test_a_published_adapter_leaves_no_checkpoints(store: Store, job: JobIdentity, tmp_path: Path) -> None:
    """Also where the gang died before it could remove them."""
    info = publish(store, URI, Claim.take(store, job, 1, "g"), adapter(tmp_path / "a", "one"), job)
    store.put("checkpoints/step-00000010-claim-1/manifest.json", b"{}")
    assert find_published(store, URI, job) == info
    assert store.list("checkpoints/") == []
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_publishing_again_returns_what_is_there(store: Store, job: JobIdentity, tmp_path: Path) -> None:
    first = publish(store, URI, Claim.take(store, job, 1, "g1"), adapter(tmp_path / "a", "one"), job)
    before = contents(store)
    assert find_published(store, URI, job) == first
    assert publish(store, URI, Claim.take(store, job, 2, "g2"), adapter(tmp_path / "b", "two"), job) == first
    assert contents(store) == before


def test_nothing_is_found_before_it_is_published_or_for_another_job(
    store: Store, job: JobIdentity, tmp_path: Path
) -> None:
    assert find_published(store, URI, job) is None
    claim = Claim.take(store, job, 1, "g1")
    assert find_published(store, URI, job) is None
    publish(store, URI, claim, adapter(tmp_path / "a", "one"), job)
    assert find_published(store, URI, job.model_copy(update={"uid": "uid-2"})) is None


def test_a_published_adapter_is_found_without_its_claim(store: Store, job: JobIdentity, tmp_path: Path) -> None:
    info = publish(store, URI, Claim.take(store, job, 1, "g1"), adapter(tmp_path / "a", "one"), job)
    store.delete(CLAIM_NAME)
    assert find_published(store, URI, job) == info


def test_an_adapter_that_lost_a_file_is_made_again(store: Store, job: JobIdentity, tmp_path: Path) -> None:
    first = publish(store, URI, Claim.take(store, job, 1, "g1"), adapter(tmp_path / "a", "one"), job)
    store.delete("README.md")
    assert find_published(store, URI, job) is None
    second = publish(store, URI, Claim.take(store, job, 2, "g2"), adapter(tmp_path / "b", "two"), job)
    assert second.sha256 != first.sha256
    assert find_published(store, URI, job) == second
    assert contents(store)["README.md"] == b"by two"


def test_a_gang_that_died_between_commit_and_manifest_is_completed(
    store: Store, job: JobIdentity, tmp_path: Path
) -> None:
    info = publish(store, URI, Claim.take(store, job, 1, "g1"), adapter(tmp_path / "a", "one"), job)
    store.delete(MANIFEST_NAME)  # as if it had never been written: the commit is in the claim
    assert find_published(store, URI, job) == info
    assert hashlib.sha256(store.get(MANIFEST_NAME)[0]).hexdigest() == info.sha256


def test_a_file_that_came_from_elsewhere_meanwhile_is_not_overwritten(
    store: Store, job: JobIdentity, tmp_path: Path
) -> None:
    claim = Claim.take(store, job, 1, "g1")
    store.put("README.md", b"mine")
    with pytest.raises(TrainerError, match=r"README\.md") as error:
        publish(store, URI, claim, adapter(tmp_path / "a", "one"), job)
    assert error.value.reason is Reason.OUTPUT_OCCUPIED
    assert contents(store) == {"README.md": b"mine"}


def test_a_superseded_gang_changes_nothing(store: Store, job: JobIdentity, tmp_path: Path) -> None:
    first = Claim.take(store, job, 1, "g1")
    Claim.take(store, job, 2, "g2")
    before = store.list()
    with pytest.raises(TrainerError) as error:
        publish(store, URI, first, adapter(tmp_path / "a", "one"), job)
    assert error.value.reason is Reason.SUPERSEDED
    assert store.list() == before


class Killed(Exception):
    """The gang's process died."""


class Turns:
    """Lets threads go one store operation at a time, in a given order; each may be killed after some operations."""

    def __init__(self, order: list[int], dies_after: dict[int, int]) -> None:
        self._order = order
        self._dies_after = dies_after
        self._done = dict.fromkeys(range(max(order) + 1), 0)
        self._at = 0
        self._live = set(order)
        self._changed = threading.Condition()

    def wait(self, who: int) -> None:
        """Return when it is this thread's turn to do one operation."""
        with self._changed:
            if self._done[who] == self._dies_after.get(who):
                raise Killed
            self._done[who] += 1
            self._skip()
            if not self._changed.wait_for(lambda: self._at >= len(self._order) or self._order[self._at] == who, 10):
                raise TimeoutError

    def passed(self) -> None:
        """End a turn."""
        with self._changed:
            self._at += 1
            self._skip()

    def ended(self, who: int) -> None:
        """A thread does no more operations."""
        with self._changed:
            self._live.discard(who)
            self._skip()

    def _skip(self) -> None:
        while self._at < len(self._order) and self._order[self._at] not in self._live:
            self._at += 1
        self._changed.notify_all()


class TakingTurns(Store):
    """A store as one gang sees it: each operation waits for its turn."""

    def __init__(self, inner: Store, turns: Turns, who: int) -> None:
        self.uri, self._inner, self._turns, self._who = inner.uri, inner, turns, who

    def _do(self, name: str, *args: object, **kwargs: object) -> object:
        self._turns.wait(self._who)
        try:
            return getattr(self._inner, name)(*args, **kwargs)
        finally:
            self._turns.passed()

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        return self._do("list", prefix)  # type: ignore[return-value]

    def get(self, key: str) -> tuple[bytes, str]:
        return self._do("get", key)  # type: ignore[return-value]

    def head(self, key: str) -> ObjectInfo | None:
        return self._do("head", key)  # type: ignore[return-value]

    def put(self, key: str, body: bytes | Path, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        return self._do("put", key, body, if_none_match=if_none_match, if_match=if_match)  # type: ignore[return-value]

    def download(self, key: str, path: Path) -> None:
        self._do("download", key, path)

    def delete(self, key: str) -> None:
        self._do("delete", key)

    def discard(self, prefix: str, is_over: Callable[[str], bool]) -> None:
        self._do("discard", prefix, is_over)


@pytest.mark.parametrize("seed", range(300))
def test_three_gangs_at_once_leave_one_whole_adapter(seed: int, job: JobIdentity, tmp_path: Path) -> None:
    """Attempts 1, 2 and 3 start at random times, are slow at random, and two of them may die anywhere."""
    rng = random.Random(seed)
    inner = MemoryStore(uri=URI)
    # Runs of one gang, as when a node stalls, rather than coin tosses.
    order = list(itertools.chain.from_iterable([rng.randrange(3)] * rng.randint(1, 12) for _ in range(60)))
    order += [0, 1, 2]
    turns = Turns(order, {who: rng.randint(0, 40) for who in rng.sample(range(2), rng.randint(0, 2))})
    results: dict[int, AdapterInfo | Exception] = {}
    folders = [adapter(tmp_path / str(who), f"gang {who}") for who in range(3)]

    def gang(who: int) -> None:
        store = TakingTurns(inner, turns, who)
        try:
            found = find_published(store, URI, job)
            if found is None:
                claim = Claim.take(store, job, who + 1, f"g{who}")
                found = publish(store, URI, claim, folders[who], job)
            results[who] = found
        except Exception as error:
            results[who] = error
        finally:
            turns.ended(who)

    threads = [threading.Thread(target=gang, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert isinstance(results[2], AdapterInfo), results
    for result in results.values():
        if isinstance(result, AdapterInfo):
            assert result == results[2]
        elif not isinstance(result, Killed):
            assert isinstance(result, TrainerError), result
            assert result.reason is Reason.SUPERSEDED, result
    manifest_bytes = inner.objects[MANIFEST_NAME]
    assert hashlib.sha256(manifest_bytes).hexdigest() == results[2].sha256
    manifest = json.loads(manifest_bytes)
    for name, entry in manifest["files"].items():
        assert hashlib.sha256(inner.objects[name]).hexdigest() == entry["sha256"], name
    winner = folders[manifest["attempt"] - 1]
    assert inner.objects["adapter_model.safetensors"] == (winner / "adapter_model.safetensors").read_bytes()
