"""Objects that are made while they are written: whole, in parts, and made again when a write is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peftjob_api.spec import StorageSpec
from peftjob_trainer.storage import PreconditionFailed, Stream, open_store, s3
from peftjob_trainer.storage.s3 import S3Store

CHUNKS = [b"abc", b"", b"defgh", b"i"]


def stream() -> Stream:
    return Stream(9, lambda: iter(CHUNKS))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9, 100])
def test_reads_of_any_size_give_the_same_bytes(size: int) -> None:
    with stream().open() as file:
        parts = list(iter(lambda: file.read(size), b""))
    assert b"".join(parts) == b"abcdefghi"
    assert all(len(part) == size for part in parts[:-1])


def test_the_rest_is_read_at_once() -> None:
    with stream().open() as file:
        assert (file.read(2), file.read(), file.read()) == (b"ab", b"cdefghi", b"")


def test_a_file_store_takes_a_stream_on_conditions(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}", StorageSpec())
    etag = store.put("big", stream(), if_none_match=True)
    assert store.get("big") == (b"abcdefghi", etag)
    with pytest.raises(PreconditionFailed):
        store.put("big", stream(), if_none_match=True)


class Client:
    """Stands in for boto3's: keeps what is put, in parts or at once; the first whole upload is lost."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.parts: list[bytes] = []
        self.meta = type("Meta", (), {"endpoint_url": "http://s3"})

    def put_object(self, **given: Any) -> dict[str, str]:
        self.calls.append("put_object")
        self.parts = [given["Body"]]
        return {"ETag": "one"}

    def create_multipart_upload(self, **_: Any) -> dict[str, str]:
        self.calls.append("create")
        self.parts = []
        return {"UploadId": "1"}

    def upload_part(self, **given: Any) -> dict[str, str]:
        assert given["PartNumber"] == len(self.parts) + 1
        self.parts.append(given["Body"])
        return {"ETag": "part"}

    def complete_multipart_upload(self, **given: Any) -> dict[str, str]:
        assert given["IfMatch"] == "before"
        assert len(given["MultipartUpload"]["Parts"]) == len(self.parts)
        if self.calls.count("create") == 1:
            from botocore.exceptions import EndpointConnectionError

            raise EndpointConnectionError(endpoint_url="http://s3")
        return {"ETag": "parts"}

    def abort_multipart_upload(self, **_: Any) -> None:
        self.calls.append("abort")


@pytest.mark.parametrize(
    ("part", "want_parts", "want_calls"),
    [(64, [b"abcdefghi"], ["put_object"]), (4, [b"abcd", b"efgh", b"i"], ["create", "abort", "create"])],
    ids=["small", "large, and again after a failure"],
)
def test_s3_takes_a_stream(
    part: int, want_parts: list[bytes], want_calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", part)
    client, begun = Client(), []

    def chunks() -> Iterator[bytes]:
        begun.append(1)
        return iter(CHUNKS)

    store = S3Store(client, "bucket", "prefix")
    assert store.put("big", Stream(9, chunks), if_match="before") == ("one" if part == 64 else "parts")
    assert client.parts == want_parts
    assert client.calls == want_calls
    assert len(begun) == want_calls.count("create") + want_calls.count("put_object")
