"""What S3's error answers mean, also those that no server in the tests gives."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ParamValidationError
from peftjob_api import Reason
from peftjob_trainer.exits import TrainerError
from peftjob_trainer.storage import ConditionsUnsupported, ObjectNotFound, PreconditionFailed, patience
from peftjob_trainer.storage.s3 import S3Store


def answer(code: str, status: int, **headers: str) -> ClientError:
    """Return the library's exception for an error answer."""
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code, "Message": "it said"}, "ResponseMetadata": metadata}, "PutObject")


class Client:
    """Fails every write the same way, for so many times; the first may arrive all the same."""

    def __init__(self, error: Exception, times: int = 1000, *, arrives: bool = False) -> None:
        self.error = error
        self.times = times
        self.arrives = arrives
        self.calls = 0
        self.meta = type("Meta", (), {"endpoint_url": "https://s3.example"})
        self.there: dict[str, Any] = {"ETag": '"of another"', "Metadata": {}}

    def put_object(self, **given: Any) -> dict[str, str]:
        self.calls += 1
        if self.arrives:
            self.there = {"ETag": '"arrived"', "Metadata": given["Metadata"]}
        if self.calls <= self.times:
            raise self.error
        return {"ETag": '"done"'}

    def head_object(self, **_: Any) -> dict[str, Any]:
        return self.there


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes by sleeping alone."""
    now = [0.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.mark.parametrize(
    ("error", "want", "want_in_message"),
    [
        (answer("QuotaExceeded", 403), Reason.STORAGE_FULL, "make some in bucket 'bucket'"),
        (answer("XMinioStorageFull", 507), Reason.STORAGE_FULL, "or raise its quota"),
        (answer("", 507), Reason.STORAGE_FULL, "no room is left"),
        (answer("NoSuchUpload", 404), Reason.STORAGE_UNAVAILABLE, "it said"),
        (answer("InvalidPart", 400), Reason.STORAGE_UNAVAILABLE, "it said"),
        (answer("OperationAborted", 409), Reason.STORAGE_UNAVAILABLE, "it said"),
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


@pytest.mark.parametrize("arrives", [True, False], ids=["it is our own write", "it is another's"])
def test_a_refused_write_looks_whose_object_is_there(arrives: bool) -> None:
    """The library tries again by itself: the first try may have arrived, and its answer not."""
    store = S3Store(Client(answer("PreconditionFailed", 412), arrives=arrives), "bucket", "prefix")
    if arrives:
        assert store.put("key", b"x", if_none_match=True) == '"arrived"'
        return
    with pytest.raises(PreconditionFailed):
        store.put("key", b"x", if_none_match=True)


class Reading:
    """Fails every read the same way."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.meta = type("Meta", (), {"endpoint_url": "https://s3.example"})

    def head_object(self, **_: Any) -> None:
        raise self.error

    get_object = head_object


def test_a_missing_object_is_no_failure_of_the_store() -> None:
    # A HEAD has no body to say more in.
    head = ClientError({"Error": {"Code": "404"}, "ResponseMetadata": {"HTTPStatusCode": 404}}, "HeadObject")
    assert S3Store(Reading(head), "bucket", "prefix").head("key") is None
    with pytest.raises(ObjectNotFound):
        S3Store(Reading(answer("NoSuchKey", 404)), "bucket", "prefix").get("key")


def test_a_server_that_knows_no_s3_says_nothing_about_an_object() -> None:
    """A load balancer without its backends: a claim that seems to be gone would end the gang."""
    page = ClientError({"Error": {"Code": "404"}, "ResponseMetadata": {"HTTPStatusCode": 404}}, "GetObject")
    with pytest.raises(TrainerError) as error:
        S3Store(Reading(page), "bucket", "prefix").get("key")
    assert error.value.reason is Reason.INVALID_CONFIG


def test_a_store_that_is_away_is_asked_again_for_a_while(clock: list[float]) -> None:
    busy = answer("ServiceUnavailable", 503)
    assert S3Store(Client(busy, times=6), "bucket", "prefix").put("key", b"x") == '"done"'
    client = Client(busy)
    with pytest.raises(TrainerError):
        S3Store(client, "bucket", "prefix").put("key", b"x")
    assert clock[0] - 10 <= patience.BRIEF.seconds
    assert client.calls > 7


def test_a_refusal_is_not_repeated(clock: list[float]) -> None:
    client = Client(answer("AccessDenied", 403))
    with pytest.raises(TrainerError):
        S3Store(client, "bucket", "prefix").put("key", b"x")
    assert (client.calls, clock[0]) == (1, 0.0)
