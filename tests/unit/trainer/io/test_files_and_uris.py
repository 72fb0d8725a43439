"""Where uris point, and what only stores on file systems can get wrong."""

import errno
from pathlib import Path

import pytest
from peftjob_api import Reason
from peftjob_api.spec import BaseModelSpec, StorageSpec
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.storage import fetch as fetch_module
from peftjob_trainer.storage import fetch_files, fetch_model, open_store
from peftjob_trainer.storage.uris import Location, parse


@pytest.mark.parametrize(
    ("uri", "want"),
    [
        ("s3://bucket", Location("s3", "bucket", "")),
        ("s3://bucket/a/b/", Location("s3", "bucket", "a/b")),
        ("pvc://claim/a/b", Location("pvc", "claim", "a/b")),
        ("file:///a/b/", Location("file", "", "/a/b")),
        ("hf://acme/tiny", Location("hf", "acme/tiny", "")),
        ("hf://datasets/acme/words/data/a.csv", Location("hf", "acme/words", "data/a.csv")),
        ("hf://datasets/acme/words@v1.0/a.csv", Location("hf", "acme/words", "a.csv", "v1.0")),
    ],
)
def test_uris_taken_apart(uri: str, want: Location) -> None:
    assert parse(uri) == want


def test_a_claim_is_where_the_operator_mounts_it() -> None:
    assert parse("pvc://data/models/tiny").local == Path("/mnt/pvc/data/models/tiny")


@pytest.mark.parametrize("uri", ["ftp://host/a", "hf://acme/tiny"])
def test_what_cannot_be_written_to_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=uri):
        open_store(uri, StorageSpec())


def test_what_is_mounted_is_used_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "verify_weights", lambda *_: None)
    for name in ("config.json", "tokenizer.json", "model.safetensors", "train.csv"):
        (tmp_path / name).write_bytes(b"x")
    never = tmp_path / "never"
    assert fetch_model(BaseModelSpec(uri=f"file://{tmp_path}"), StorageSpec(), never) == tmp_path
    uri = f"file://{tmp_path}/train.csv"
    assert fetch_files([uri], StorageSpec(), never) == {uri: tmp_path / "train.csv"}
    assert not never.exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=f"{tmp_path}/none") as error:
        fetch_model(BaseModelSpec(uri=f"file://{tmp_path}/none"), StorageSpec(), tmp_path)
    assert error.value.reason is Reason.BASE_MODEL_NOT_FOUND


@pytest.mark.parametrize(
    ("number", "want", "want_in_message"),
    [
        (errno.EACCES, Reason.STORAGE_ACCESS_DENIED, "fsGroup"),
        (errno.EROFS, Reason.STORAGE_ACCESS_DENIED, "fsGroup"),
        (errno.ENOSPC, Reason.STORAGE_FULL, "make room on the volume"),
        (errno.EDQUOT, Reason.STORAGE_FULL, "make room on the volume"),
        (errno.EIO, Reason.STORAGE_UNAVAILABLE, "check the volume"),
    ],
    ids=["no right to write", "a read-only volume", "a full volume", "a used up quota", "a broken volume"],
)
def test_a_volume_that_cannot_be_written_is_named_and_left_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, want: Reason, want_in_message: str
) -> None:
    store = open_store(f"file://{tmp_path}/out", StorageSpec())
    store.put("key", b"before")

    def fail(*_: object) -> None:
        raise OSError(number, "the kernel says no")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(TrainerError, match=want_in_message) as error:
        store.put("key", b"after")
    assert error.value.reason is want
    assert store.uri in error.value.message
    assert store.get("key")[0] == b"before"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"key", ".peftjob-lock"}
