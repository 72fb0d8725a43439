"""Ranges of weights read from S3 that misbehaves: the right bytes come, or file and tensor are named."""

import http.client
import http.server
import socket
import struct
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from peftjob_api import Reason
from peftjob_api.spec import BaseModelSpec, StorageSpec
from peftjob_cluster.s3 import S3Server
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.sharding import sources
from peftjob_trainer.sharding.sources import Read, Source, open_source
from peftjob_trainer.storage import fetch_model, patience

sys.path.append(str(Path(__file__).resolve().parent))

from halves import FILE, HALF_BYTES, OTHERS, check_half, read_half

Put = Callable[[str, bytes], None]


@dataclass
class Faults:
    """What the proxy does to answers that carry a range of weights."""

    cut_after: int | None = None
    """Bytes of the body, then the connection ends."""
    times: int = 0
    """How many answers are spoilt."""
    is_reset: bool = False
    """After those bytes the connection is not closed, but reset."""
    status: int | None = None
    ignores_ranges: bool = False
    seen: list[str] = field(default_factory=list)
    before: Callable[[], None] | None = None
    """Called before a range is passed on."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def spoils(self) -> bool:
        """Count an answer; tell whether it is to be spoilt."""
        with self.lock:
            self.times -= 1
            return self.times >= 0


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on, and spoils some answers."""

    protocol_version = "HTTP/1.1"
    faults: Faults
    target: tuple[str, int]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        wanted = self.headers.get("Range")
        if wanted:
            self.faults.seen.append(wanted)
            if self.faults.before:
                self.faults.before()
        spoilt = bool(wanted) and self.faults.spoils()
        if spoilt and self.faults.status:
            reason = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            self.send_response(self.faults.status)
            self.send_header("Content-Length", str(len(reason)))
            self.end_headers()
            self.wfile.write(reason)
            return
        upstream = http.client.HTTPConnection(*self.target)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # the signature covers the Host that the client knows
            upstream.putheader(name, value)
        upstream.endheaders(body)
        answer = upstream.getresponse()
        content = answer.read()
        if spoilt and self.faults.ignores_ranges:
            content = FILE
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if spoilt and self.faults.cut_after is not None:
            content = content[: self.faults.cut_after]
            self.close_connection = True
        self.wfile.write(content)
        if spoilt and self.faults.is_reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        upstream.close()

    do_HEAD = do_PUT = do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def proxied(
    s3: S3Server,
    credentials: None,
    faults: Faults,
    at_endpoint: Callable[[str], StorageSpec],
    serve: Callable[[type[http.server.BaseHTTPRequestHandler]], str],
) -> StorageSpec:
    """`spec.storage` with the proxy as endpoint."""
    url = urlsplit(s3.endpoint)
    return at_endpoint(serve(type("Bound", (Proxy,), {"faults": faults, "target": (url.hostname, url.port)})))


@pytest.fixture
def uri(put: Put) -> str:
    """A model on S3 of one file with two tensors."""
    uri = f"s3://models/{uuid.uuid4().hex}"
    for name, body in {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": FILE}.items():
        put(f"{uri}/{name}", body)
    return uri


@pytest.fixture
def opened(uri: str, proxied: StorageSpec, faults: Faults, tmp_path: Path) -> Iterator[Source]:
    """The model as a rank opens it, after the launcher."""
    folder = fetch_model(BaseModelSpec(uri=uri), proxied, tmp_path / "model")
    faults.seen.clear()
    source = open_source(folder, uri, proxied)
    source.part_bytes = 256 * 1024
    yield source
    source.close()


def test_only_the_ranges_of_a_rank_are_read(opened: Source, faults: Faults) -> None:
    check_half(read_half(opened))
    assert opened.bytes_read == HALF_BYTES
    asked = [tuple(map(int, wanted.removeprefix("bytes=").split("-"))) for wanted in faults.seen]
    assert sum(last + 1 - first for first, last in asked) == HALF_BYTES
    assert len(asked) == 4  # 400 kB of each tensor in parts of 256 KiB


@pytest.mark.parametrize(
    "spoil",
    [{"cut_after": 100_000, "times": 3}, {"cut_after": 0, "times": 2},
     {"cut_after": 100_000, "is_reset": True, "times": 3}, {"status": 500, "times": 3}, {"status": 503, "times": 6},
     {"status": 429, "times": 3}],
    ids=["connections cut in the middle", "connections cut at once", "connections reset", "500s", "slow-downs",
         "too many requests"],
)  # fmt: skip
def test_what_passes_is_borne(opened: Source, faults: Faults, spoil: dict[str, int]) -> None:
    for name, value in spoil.items():
        setattr(faults, name, value)
    check_half(read_half(opened))
    assert faults.times < 0


def test_what_does_not_pass_is_named(opened: Source, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "BRIEF", replace(patience.BRIEF, seconds=1.0))
    faults.status, faults.times = 503, 10**6
    with pytest.raises(TrainerError) as error:
        read_half(opened)
    assert error.value.reason is Reason.STORAGE_UNAVAILABLE
    assert "model.safetensors" in error.value.message
    assert "tensor 'embed'" in error.value.message or "tensor 'head'" in error.value.message


@pytest.mark.parametrize("change", ["another content", "a shorter one", "none"])
def test_an_object_replaced_while_it_is_read_is_an_error(
    opened: Source, faults: Faults, uri: str, put: Put, s3: S3Server, change: str
) -> None:
    calls = []

    def replace() -> None:
        calls.append(1)
        if len(calls) != 2:  # the first range is of the old object
            return
        if change == "none":
            (s3.data / uri.removeprefix("s3://") / "model.safetensors").unlink()
        else:
            put(f"{uri}/model.safetensors", OTHERS if change == "another content" else OTHERS[:1000])

    opened.threads, faults.before = 1, replace
    with pytest.raises(TrainerError) as error:
        read_half(opened)
    assert error.value.reason is Reason.BASE_MODEL_CORRUPT
    assert [p for p in (f"{uri}/model.safetensors", "tensor 'embed'", "replaced") if p not in error.value.message] == []


def test_an_object_replaced_between_launcher_and_rank_is_an_error(opened: Source, uri: str, put: Put) -> None:
    put(f"{uri}/model.safetensors", OTHERS)
    with pytest.raises(TrainerError) as error:
        read_half(opened)
    assert error.value.reason is Reason.BASE_MODEL_CORRUPT


def test_a_server_without_ranges_is_told(opened: Source, faults: Faults) -> None:
    faults.ignores_ranges, faults.times = True, 10**6
    with pytest.raises(TrainerError, match="serves no ranges") as error:
        read_half(opened)
    assert error.value.reason is Reason.INVALID_CONFIG


def test_versions_are_told_apart(opened: Source, uri: str, put: Put, proxied: StorageSpec, tmp_path: Path) -> None:
    again = open_source(fetch_model(BaseModelSpec(uri=uri), proxied, tmp_path / "again"), uri, proxied)
    put(f"{uri}/model.safetensors", OTHERS)
    other = open_source(fetch_model(BaseModelSpec(uri=uri), proxied, tmp_path / "other"), uri, proxied)
    assert again.fingerprint() == opened.fingerprint() != other.fingerprint()
    for source in (again, other):
        source.close()


def test_small_gaps_are_read_along(opened: Source, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "GAPS_SHARE", 1.0)
    about = opened.weights.files["model.safetensors"]
    into = [bytearray(400) for _ in range(3)]
    reads = [Read("model.safetensors", about.start + 1000 * n, memoryview(b), "embed") for n, b in enumerate(into)]
    opened.read(reads)
    assert faults.seen == [f"bytes={about.start}-{about.start + 2399}"]
    assert [bytes(b) for b in into] == [FILE[about.start + 1000 * n :][:400] for n in range(3)]
