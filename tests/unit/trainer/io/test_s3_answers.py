"""What S3's error answers mean, also those that no server in the tests gives."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ParamValidationError
from peftjob_api import Reason
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.storage import ConditionsUnsupported, ObjectNotFound, PreconditionFailed
from peftjob_trainer.storage import s3 as s3_module
from peftjob_trainer.storage.s3 import S3Store


def answer(code: str, status: int, **headers: str) -> ClientError:
    """Return the library's exception for an error answer."""
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code, "Message": "it said"}, "ResponseMetadata": metadata}, "PutObject")


class Client:
    """Fails every call the same way, for so many times."""

    def __init__(self, error: Exception, times: int = 1000) -> None:
        self.error = error
        self.times = times
        self.calls = 0
        self.meta = type("Meta", (), {"endpoint_url": "https://s3.example"})

    def put_object(self, **_: Any) -> dict[str, str]:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return {"ETag": '"done"'}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes by sleeping alone."""
    now = [0.0]
    monkeypatch.setattr(s3_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(s3_module.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.mark.parametrize(
    ("error", "want", "want_in_message"),
    [
        (answer("AccessDenied", 403), Reason.STORAGE_ACCESS_DENIED, "secretName"),
        (answer("ExpiredToken", 400), Reason.STORAGE_ACCESS_DENIED, "secretName"),
        (answer("RequestTimeTooSkewed", 403), Reason.STORAGE_ACCESS_DENIED, "it said"),
        (NoCredentialsError(), Reason.STORAGE_ACCESS_DENIED, "serviceAccountName"),
        (answer("NoSuchBucket", 404), Reason.BUCKET_NOT_FOUND, "'bucket'"),
        (
            answer("PermanentRedirect", 301, **{"x-amz-bucket-region": "eu-west-1"}),
            Reason.INVALID_CONFIG,
            "spec.storage.s3.region to eu-west-1",
        ),
        (answer("AuthorizationHeaderMalformed", 400), Reason.INVALID_CONFIG, "spec.storage.s3.region"),
        (answer("SlowDown", 503), Reason.STORAGE_UNAVAILABLE, "https://s3.example"),
        (answer("InternalError", 500), Reason.STORAGE_UNAVAILABLE, "it said"),
        (answer("TooManyRequests", 429), Reason.STORAGE_UNAVAILABLE, "it said"),
        (EndpointConnectionError(endpoint_url="x"), Reason.STORAGE_UNAVAILABLE, "spec.storage.s3.endpoint"),
        (answer("MethodNotAllowed", 405), Reason.INVALID_CONFIG, "it said"),
        (ParamValidationError(report="bad"), Reason.INVALID_CONFIG, "spec.storage.s3.endpoint"),
    ],
    ids=lambda value: getattr(value, "value", None) if isinstance(value, Reason) else None,
)
def test_what_an_answer_means(error: Exception, want: Reason, want_in_message: str, clock: list[float]) -> None:
    with pytest.raises(TrainerError) as raised:
        S3Store(Client(error), "bucket", "prefix").put("key", b"x")
    assert raised.value.reason is want
    assert want_in_message in raised.value.message
    assert "s3://bucket/prefix/key" in raised.value.message


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (answer("PreconditionFailed", 412), PreconditionFailed),
        (answer("ConditionalRequestConflict", 409), PreconditionFailed),
        (answer("NoSuchKey", 404), PreconditionFailed),
        (answer("NotImplemented", 501), ConditionsUnsupported),
    ],
    ids=["someone wrote first", "someone writes now", "someone deleted it", "the store knows no conditions"],
)
def test_what_an_answer_to_a_conditional_write_means(error: Exception, want: type[Exception]) -> None:
    client = Client(error)
    with pytest.raises(want):
        S3Store(client, "bucket", "prefix").put("key", b"x", if_match='"1"')
    assert client.calls == 1


def test_a_missing_object_is_no_failure_of_the_store() -> None:
    client = Client(answer("404", 404))
    client.head_object = client.put_object  # type: ignore[attr-defined]
    client.get_object = client.put_object  # type: ignore[attr-defined]
    store = S3Store(client, "bucket", "prefix")
    assert store.head("key") is None
    with pytest.raises(ObjectNotFound):
        store.get("key")


def test_a_store_that_is_away_is_asked_again_for_a_while(clock: list[float]) -> None:
    busy = answer("ServiceUnavailable", 503)
    assert S3Store(Client(busy, times=10), "bucket", "prefix").put("key", b"x") == '"done"'
    client = Client(busy)
    with pytest.raises(TrainerError):
        S3Store(client, "bucket", "prefix").put("key", b"x")
    assert clock[0] - 10 <= s3_module.PATIENCE_SECONDS
    assert client.calls > 10


def test_a_refusal_is_not_repeated(clock: list[float]) -> None:
    client = Client(answer("AccessDenied", 403))
    with pytest.raises(TrainerError):
        S3Store(client, "bucket", "prefix").put("key", b"x")
    assert (client.calls, clock[0]) == (1, 0.0)
