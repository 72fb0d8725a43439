"""A real S3 server on loopback, and the specs and identities to use it with."""

import http.server
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import boto3
import pytest
from peftjob_api import JobIdentity
from peftjob_api.spec import StorageSpec
from peftjob_cluster.s3 import S3Server
from peftjob_trainer.storage import Store, open_store

BUCKETS = ("models", "datasets", "adapters")


class Server(http.server.ThreadingHTTPServer):
    """Serves on loopback; clients that hang up are part of the tests."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def _served(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[type[http.server.BaseHTTPRequestHandler]], str]]:
    """Return a function that starts a server with a handler, and returns its address."""
    with ExitStack() as stack:
        yield lambda handler: stack.enter_context(_served(handler))


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with S3Server(buckets=BUCKETS) as server:
        yield server


@pytest.fixture
def credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this test the server's keys as a worker pod gets them, and nothing else of the machine's."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def storage(s3: S3Server, credentials: None) -> StorageSpec:
    return storage_at(s3.endpoint)


def storage_at(endpoint: str) -> StorageSpec:
    """Return `spec.storage` with an S3 endpoint."""
    return StorageSpec.model_validate({"s3": {"endpoint": endpoint}})


@pytest.fixture
def at_endpoint() -> Callable[[str], StorageSpec]:
    return storage_at


@pytest.fixture
def put(s3: S3Server) -> Callable[[str, bytes], None]:
    """Return a function that writes an object, by its s3:// uri, past our own code."""
    client = boto3.client("s3", **s3.boto3())

    def write(uri: str, body: bytes) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        client.put_object(Bucket=bucket, Key=key, Body=body)

    return write


@pytest.fixture
def output(storage: StorageSpec) -> Store:
    """A fresh, empty output folder on S3."""
    return open_store(f"s3://adapters/{uuid.uuid4().hex}/adapter", storage)


@pytest.fixture
def job() -> JobIdentity:
    return JobIdentity(namespace="team", name="sentiment", uid="uid-1")
