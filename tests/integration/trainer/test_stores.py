"""What every store promises, held against S3 and against files by the same tests."""

import threading
import uuid
from pathlib import Path

import pytest
from peftjob_api.spec import StorageSpec
from peftjob_trainer.storage import ObjectNotFound, PreconditionFailed, Store, open_store
from peftjob_trainer.storage import s3 as s3_module


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store(f"file://{tmp_path}/out", StorageSpec())
    storage: StorageSpec = request.getfixturevalue("storage")
    return open_store(f"s3://adapters/{uuid.uuid4().hex}", storage)


def test_what_was_put_is_listed_read_and_downloaded(store: Store, tmp_path: Path) -> None:
    assert store.list() == []
    etag = store.put("b/c.txt", b"content")
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    store.put("a.txt", source)
    assert [(o.key, o.size) for o in store.list()] == [("a.txt", 11), ("b/c.txt", 7)]
    assert [o.key for o in store.list("b/")] == ["b/c.txt"]
    assert store.get("b/c.txt") == (b"content", etag)
    head = store.head("b/c.txt")
    assert head is not None
    assert (head.key, head.size, head.etag) == ("b/c.txt", 7, etag)
    assert store.list()[1].etag == etag
    store.download("a.txt", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"from a file"
    store.delete("a.txt")
    store.delete("a.txt")
    assert [o.key for o in store.list()] == ["b/c.txt"]


def test_what_is_not_there_is_said_so(store: Store, tmp_path: Path) -> None:
    store.put("there", b"x")
    assert store.head("missing") is None
    with pytest.raises(ObjectNotFound):
        store.get("missing")
    with pytest.raises(ObjectNotFound):
        store.download("missing", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_conditions_decide_whether_a_write_happens(store: Store) -> None:
    first = store.put("key", b"1", if_none_match=True)
    with pytest.raises(PreconditionFailed):
        store.put("key", b"2", if_none_match=True)
    second = store.put("key", b"2", if_match=first)
    assert second != first
    for stale in (first, '"0"'):
        with pytest.raises(PreconditionFailed):
            store.put("key", b"3", if_match=stale)
    assert store.get("key") == (b"2", second)
    store.delete("key")
    with pytest.raises(PreconditionFailed):
        store.put("key", b"3", if_match=second)
    assert store.list() == []


def test_of_eight_writers_with_one_condition_one_wins(store: Store) -> None:
    for _ in range(10):
        before = store.put("key", uuid.uuid4().bytes)
        won: list[int] = []
        start = threading.Barrier(8)

        def write(number: int, before: str = before, won: list[int] = won, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                store.put("key", f"writer {number}".encode(), if_match=before)
                won.append(number)
            except PreconditionFailed:
                pass

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.get("key")[0] == f"writer {won[0]}".encode()


def test_large_files_go_in_parts_under_the_same_conditions(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * 1024 * 1024)  # the least that S3 takes
    large = tmp_path / "large"
    large.write_bytes(b"0123456789abcdef" * (12 * 65536))
    etag = store.put("large", large, if_none_match=True)
    with pytest.raises(PreconditionFailed):
        store.put("large", large, if_none_match=True)
    store.put("large", large, if_match=etag)
    store.download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    assert [(o.key, o.size) for o in store.list()] == [("large", 12 * 1024 * 1024)]


def test_our_own_lock_and_unfinished_writes_are_no_objects(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/out", StorageSpec())
    store.put("key", b"x")
    (tmp_path / "out" / ".peftjob-tmp-killed").write_bytes(b"half")
    assert [o.key for o in store.list()] == ["key"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"key", ".peftjob-lock", ".peftjob-tmp-killed"}
