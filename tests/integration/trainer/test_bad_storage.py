"""Each way in which S3 can be wrong: the reason, within how long, and a message that names the place and the fix."""

import http.server
import json
import os
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from peftjob_api import JobIdentity, Reason
from peftjob_api.spec import BaseModelSpec, StorageSpec
from peftjob_cluster.s3 import S3Server
from peftjob_testkit.s3_proxy import S3Proxy
from peftjob_trainer.claim import Claim
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.storage import fetch_files, fetch_model, open_store, patience
from peftjob_trainer.storage.weights import RECORD_NAME, Weights

Put = Callable[[str, bytes], None]


def safetensors(tensors: dict[str, int], cut: int = 0) -> bytes:
    """Return a file of F32 vectors of the given lengths, without its last `cut` bytes."""
    header, at = {}, 0
    for name, length in tensors.items():
        header[name] = {"dtype": "F32", "shape": [length], "data_offsets": [at, at + 4 * length]}
        at += 4 * length
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + bytes(at)
    return whole[: len(whole) - cut]


def described(**header: Any) -> bytes:
    """Return a file of 16 bytes of data with a header of its own."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


def vector(length: int, begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """Return what a header says of a tensor."""
    return {"dtype": dtype, "shape": [length], "data_offsets": [begin, end]}


SMALL = {"config.json": b"{}", "tokenizer.json": b"{}"}
GOOD = {**SMALL, "model.safetensors": safetensors({"embed": 8, "head": 8})}
INDEX = json.dumps({"weight_map": {"embed": "model-1.safetensors", "head": "model-2.safetensors"}}).encode()
SHARDED = {
    **SMALL,
    "model.safetensors.index.json": INDEX,
    "model-1.safetensors": safetensors({"embed": 8}),
    "model-2.safetensors": safetensors({"head": 8}),
}


@pytest.fixture
def model(put: Put) -> Callable[[dict[str, bytes]], BaseModelSpec]:
    """Return a function that puts a model at a fresh prefix of S3."""

    def upload(files: dict[str, bytes]) -> BaseModelSpec:
        uri = f"s3://models/{uuid.uuid4().hex}"
        for name, body in files.items():
            put(f"{uri}/{name}", body)
        return BaseModelSpec(uri=uri)

    return upload


def test_only_what_a_model_needs_is_fetched(
    model: Callable[[dict[str, bytes]], BaseModelSpec], storage: StorageSpec, tmp_path: Path
) -> None:
    extra = {
        "pytorch_model.bin": b"pickle",
        "modeling.py": b"code",
        "onnx/model.onnx": b"x",
        "unused.safetensors": b"x",
    }
    for number, files in enumerate((GOOD, SHARDED)):
        folder = fetch_model(model({**files, **extra}), storage, tmp_path / str(number))
        found = {p.name: p.read_bytes() for p in folder.iterdir()}
        weights = Weights.read(folder)
        assert weights is not None
        assert found.keys() == {RECORD_NAME, *(name for name in files if not name.endswith(".safetensors"))}
        assert {name: file.size for name, file in weights.files.items()} == {
            name: len(body) for name, body in files.items() if name.endswith(".safetensors")
        }


@dataclass(frozen=True)
class BadModel:
    """Files at the prefix of a base model."""

    id: str
    files: dict[str, bytes]
    want: Reason
    want_in_message: tuple[str, ...]


BAD_MODELS = [
    BadModel("nothing is there", {}, Reason.BASE_MODEL_NOT_FOUND, ("nothing is there", "spec.baseModel.uri")),
    BadModel(
        "no config", {"model.safetensors": b""}, Reason.BASE_MODEL_NOT_FOUND, ("config.json", "only model.safetensors")
    ),
    BadModel(
        "an adapter instead of a base",
        {"adapter_config.json": b"{}", "adapter_model.safetensors": b""},
        Reason.BASE_MODEL_NOT_FOUND,
        ("adapter, not a base model",),
    ),
    BadModel(
        "weights only as a pickle",
        {**SMALL, "pytorch_model.bin": b""},
        Reason.BASE_MODEL_NOT_FOUND,
        ("pytorch_model.bin", "convert it to safetensors"),
    ),
    BadModel(
        "no tokenizer",
        {"config.json": b"{}", "model.safetensors": safetensors({"a": 1})},
        Reason.BASE_MODEL_NOT_FOUND,
        ("no tokenizer",),
    ),
    BadModel(
        "weights cut short",
        {**SMALL, "model.safetensors": safetensors({"embed": 8, "head": 8}, cut=40)},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "'embed'", "cut short", "upload the file again"),
    ),
    BadModel(
        "the last tensor cut short by a byte",
        {**SMALL, "model.safetensors": safetensors({"embed": 8, "head": 8}, cut=1)},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "'head'"),
    ),
    BadModel(
        "a shard cut short",
        {**SHARDED, "model-2.safetensors": safetensors({"head": 8}, cut=3)},
        Reason.BASE_MODEL_CORRUPT,
        ("model-2.safetensors", "'head'"),
    ),
    BadModel(
        "a shard missing",
        {k: v for k, v in SHARDED.items() if k != "model-2.safetensors"},
        Reason.BASE_MODEL_CORRUPT,
        ("model-2.safetensors", "not there"),
    ),
    BadModel(
        "a shard without its tensor",
        {**SHARDED, "model-2.safetensors": safetensors({"tail": 8})},
        Reason.BASE_MODEL_CORRUPT,
        ("model-2.safetensors", "'head'"),
    ),
    BadModel(
        "a tensor in two shards",
        {**SHARDED, "model-2.safetensors": safetensors({"head": 8, "embed": 8})},
        Reason.BASE_MODEL_CORRUPT,
        ("model-2.safetensors", "'embed'", "model-1.safetensors too"),
    ),
    BadModel(
        "a header longer than the file",
        {**SMALL, "model.safetensors": struct.pack("<Q", 10_000) + safetensors({"embed": 8})[8:]},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "no whole header"),
    ),
    BadModel(
        "a header that is no JSON",
        {**SMALL, "model.safetensors": struct.pack("<Q", 9) + b"{'embed':" + bytes(32)},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "its header is damaged"),
    ),
    BadModel(
        "tensors that overlap",
        {**SMALL, "model.safetensors": described(embed=vector(3, 0, 12), head=vector(2, 8, 16))},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "'head'", "begins at byte 8", "ends at 12"),
    ),
    BadModel(
        "a hole between tensors",
        {**SMALL, "model.safetensors": described(embed=vector(1, 0, 4), head=vector(2, 8, 16))},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "'head'", "begins at byte 8", "ends at 4"),
    ),
    BadModel(
        "a tensor that ends before it begins",
        {**SMALL, "model.safetensors": described(embed=vector(4, 16, 0))},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "'embed'", "offsets"),
    ),
    BadModel(
        "a shape that does not fit the bytes",
        {**SMALL, "model.safetensors": described(embed=vector(5, 0, 16))},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "'embed'", "shape and dtype"),
    ),
    BadModel(
        "a dtype that does not fit the bytes",
        {**SMALL, "model.safetensors": described(embed=vector(4, 0, 16, "BF16"))},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "'embed'", "shape and dtype"),
    ),
    BadModel(
        "an index that is none",
        {**SHARDED, "model.safetensors.index.json": b"[]"},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors.index.json",),
    ),
    BadModel(
        "a Git LFS pointer",
        {**SMALL, "model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"},
        Reason.BASE_MODEL_CORRUPT,
        ("Git LFS pointer", "git lfs pull"),
    ),
    BadModel(
        "an empty file",
        {**SMALL, "model.safetensors": b""},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors", "0 bytes"),
    ),
    BadModel(
        "bytes after the last tensor",
        {**SMALL, "model.safetensors": safetensors({"a": 1}) + b"more"},
        Reason.BASE_MODEL_CORRUPT,
        ("model.safetensors",),
    ),
]


@pytest.mark.parametrize("place", ["s3", "file"])
@pytest.mark.parametrize("case", BAD_MODELS, ids=lambda case: case.id)
def test_a_bad_base_model_is_named(
    case: BadModel,
    place: str,
    model: Callable[[dict[str, bytes]], BaseModelSpec],
    storage: StorageSpec,
    tmp_path: Path,
) -> None:
    if place == "file":
        folder = tmp_path / "model"
        folder.mkdir()
        for name, body in case.files.items():
            (folder / name).write_bytes(body)
        spec = BaseModelSpec(uri=f"file://{folder}")
    else:
        spec = model(case.files)
    with pytest.raises(TrainerError) as error:
        fetch_model(spec, storage, tmp_path / "copy")
    assert error.value.reason is case.want
    assert [p for p in (*case.want_in_message, spec.uri) if p not in error.value.message] == [], error.value.message


def test_a_data_file_is_fetched(storage: StorageSpec, put: Put, tmp_path: Path) -> None:
    put("s3://datasets/team/train.csv", b"text,label\n")
    (path,) = fetch_files(["s3://datasets/team/train.csv"], storage, tmp_path / "x").values()
    assert path.read_bytes() == b"text,label\n"


def test_data_files_of_a_pattern_are_fetched_in_order(
    storage: StorageSpec, put: Put, at_endpoint: Callable[[str], StorageSpec], tmp_path: Path
) -> None:
    for key in ("many/b/part-1.csv", "many/a/part-2.csv", "many/a/part-1.csv", "many/_SUCCESS", "many/part-0.csv"):
        put(f"s3://datasets/{key}", key.encode())
    uris = ["s3://datasets/many/*/part-*.csv", "s3://datasets/many/part-*.csv"]
    found = fetch_files(uris, storage, tmp_path / "y")
    want = ["many/a/part-1.csv", "many/a/part-2.csv", "many/b/part-1.csv", "many/part-0.csv"]
    assert list(found) == [f"s3://datasets/{key}" for key in want]
    assert [path.read_text() for path in found.values()] == want
    assert fetch_files(uris, at_endpoint("http://127.0.0.1:9"), tmp_path / "y") == found
    with pytest.raises(TrainerError, match="no object of bucket 'datasets' matches"):
        fetch_files(["s3://datasets/many/*.parquet"], storage, tmp_path / "y")


@dataclass(frozen=True)
class BadStorage:
    """A uri and an endpoint that do not work."""

    id: str
    uri: str
    want: Reason
    want_in_message: tuple[str, ...]
    secret: str | None = "right"
    endpoint: str | None = None


BAD_STORAGE = [
    BadStorage(
        "a data file is missing",
        "s3://datasets/nowhere.csv",
        Reason.DATASET_NOT_FOUND,
        ("s3://datasets/nowhere.csv", "spec.dataset.train"),
    ),
    BadStorage(
        "the bucket is missing",
        "s3://no-such-bucket/train.csv",
        Reason.BUCKET_NOT_FOUND,
        ("no-such-bucket", "create it"),
    ),
    BadStorage(
        "the secret key is wrong",
        "s3://datasets/train.csv",
        Reason.STORAGE_ACCESS_DENIED,
        ("secretName", "s3://datasets"),
        secret="wrong",
    ),
    BadStorage(
        "there are no keys",
        "s3://datasets/train.csv",
        Reason.STORAGE_ACCESS_DENIED,
        ("secretName", "serviceAccountName"),
        secret=None,
    ),
    BadStorage(
        "nothing listens at the endpoint",
        "s3://datasets/train.csv",
        Reason.STORAGE_UNAVAILABLE,
        ("http://127.0.0.1:9", "spec.storage.s3.endpoint"),
        endpoint="http://127.0.0.1:9",
    ),
    BadStorage(
        "the endpoint's name does not exist",
        "s3://datasets/train.csv",
        Reason.STORAGE_UNAVAILABLE,
        ("http://s3.invalid", "spec.storage.s3.endpoint"),
        endpoint="http://s3.invalid",
    ),
]


@pytest.mark.parametrize("case", BAD_STORAGE, ids=lambda case: case.id)
def test_storage_that_does_not_work_is_named_in_time(
    case: BadStorage,
    s3: S3Server,
    credentials: None,
    at_endpoint: Callable[[str], StorageSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if case.secret is None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    elif case.secret == "wrong":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    # How long a server may take to restart is tried with an endpoint that swallows packets, below.
    monkeypatch.setattr(patience, "BRIEF", replace(patience.BRIEF, seconds=2.0))
    storage = at_endpoint(case.endpoint or s3.endpoint)
    before = time.monotonic()
    with pytest.raises(TrainerError) as error:
        fetch_files([case.uri], storage, tmp_path)
    assert time.monotonic() - before < 10
    assert error.value.reason is case.want
    assert [part for part in case.want_in_message if part not in error.value.message] == [], error.value.message


@pytest.mark.parametrize(
    ("secret", "bucket", "want"),
    [("wrong", "adapters", Reason.STORAGE_ACCESS_DENIED), (None, "no-such-bucket", Reason.BUCKET_NOT_FOUND)],
    ids=["the secret key is wrong", "the bucket is missing"],
)
def test_an_output_that_cannot_be_written_is_found_before_training(
    storage: StorageSpec,
    job: JobIdentity,
    monkeypatch: pytest.MonkeyPatch,
    secret: str | None,
    bucket: str,
    want: Reason,
) -> None:
    if secret:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with pytest.raises(TrainerError) as error:
        Claim.take(open_store(f"s3://{bucket}/x", storage), job, 1, "g")
    assert error.value.reason is want


def test_a_bucket_without_room_is_found_before_training(
    s3: S3Server, credentials: None, job: JobIdentity, at_endpoint: Callable[[str], StorageSpec]
) -> None:
    with S3Proxy(s3) as proxy:
        proxy.fails = lambda number, method, path: "full" if method == "PUT" else None
        with pytest.raises(TrainerError, match="raise its quota") as error:
            Claim.take(open_store("s3://adapters/full", at_endpoint(proxy.endpoint)), job, 1, "g")
    assert error.value.reason is Reason.STORAGE_FULL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a volume")
def test_a_volume_without_room_is_found_before_training(job: JobIdentity, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "peftjob-test", str(tmp_path)], check=True)
    try:
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "filler").write_bytes(bytes(2**20))
        with pytest.raises(TrainerError, match="make room on the volume") as error:
            Claim.take(open_store(f"file://{tmp_path}/out", StorageSpec()), job, 1, "g")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert error.value.reason is Reason.STORAGE_FULL


@pytest.fixture
def silent() -> Iterator[str]:
    """An endpoint whose host swallows every packet: a full backlog that nobody accepts from."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        fill = [socket.socket() for _ in range(4)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for one in fill:
            one.close()


def test_an_endpoint_that_swallows_packets_is_given_up_in_half_a_minute(
    silent: str, credentials: None, at_endpoint: Callable[[str], StorageSpec], tmp_path: Path
) -> None:
    before = time.monotonic()
    with pytest.raises(TrainerError, match=silent) as error:
        fetch_files(["s3://datasets/train.csv"], at_endpoint(silent), tmp_path)
    took = time.monotonic() - before
    assert error.value.reason is Reason.STORAGE_UNAVAILABLE
    assert 5 <= took < 32, took


@pytest.mark.parametrize("status", [200, 404, 405, 500], ids=lambda status: f"it answers {status}")
def test_an_endpoint_that_is_no_s3_is_named(
    status: int, credentials: None, at_endpoint: Callable[[str], StorageSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    monkeypatch.setattr(patience, "BRIEF", replace(patience.BRIEF, seconds=2.0))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        try:
            with pytest.raises(TrainerError, match=endpoint) as error:
                open_store("s3://datasets/x", at_endpoint(endpoint)).list()
        finally:
            server.shutdown()
            thread.join()
    assert error.value.reason is (Reason.STORAGE_UNAVAILABLE if status == 500 else Reason.INVALID_CONFIG)
