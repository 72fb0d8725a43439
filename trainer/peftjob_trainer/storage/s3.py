"""A store on S3, or on anything that speaks its protocol.

Opened by `open_store`. Unreachable endpoints, wrong keys and missing buckets become `TrainerError`s that name the
field to correct, after bounded retries: at most about 30 s when nothing answers.

Each write carries an id in the object's metadata. A write that arrived, but whose answer did not, is tried again, and
its condition then no longer holds: by its id the object is known as its own.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from peftjob_api import Reason
from peftjob_api.spec import S3StorageSpec

from ..exits import TrainerError
from .credentials import open_session
from .patience import Policy, retried
from .store import (
    CHUNK_BYTES,
    ConditionsUnsupported,
    ObjectInfo,
    ObjectNotFound,
    PreconditionFailed,
    Store,
    Stream,
    no_ranges,
)

CONNECT_SECONDS = 5
READ_SECONDS = 30
ATTEMPTS = 2
"""Of a request, by the library; together they end within the time that a pod has after SIGTERM."""
DEFAULT_REGION = "us-east-1"
PART_BYTES = 64 * 1024 * 1024
"""Larger files go up in parts of this size; S3 takes at most 10,000 parts, so up to 640 GB."""

WRITE_ID: Final = "peftjob-write"
"""Name in an object's metadata of the id of the write that made it."""

T = TypeVar("T")

_DENIED = {
    "401",
    "403",
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "UnauthorizedAccess",
}
_WRONG_REGION = {"301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_PRECONDITION = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
# Of Ceph and versitygw, of MinIO, and of others.
_FULL = {"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"}
# Of the last two, an upload in parts is gone, or a part of it: it begins anew.
_AWAY = {"SlowDown", "RequestTimeout", "ThrottlingException", "OperationAborted", "NoSuchUpload", "InvalidPart"}
_UNSUPPORTED = {"501", "NotImplemented"}


def make_client(spec: S3StorageSpec | None) -> Any:
    """Return a boto3 client for `spec.storage.s3`; keys are the mounted Secret's, the environment's, or the pod's."""
    spec = spec or S3StorageSpec()
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        # Servers other than Amazon's seldom have a DNS name for each bucket.
        s3={"addressing_style": "path"} if spec.endpoint else {},
        # Many of them don't know the newer checksum trailers either; TLS and our own sha256 do that work.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=16,
    )
    session = open_session()
    region = spec.region or session.region_name or DEFAULT_REGION
    return session.client("s3", endpoint_url=spec.endpoint, region_name=region, config=config)


class S3Store(Store):
    """The objects of a bucket below a prefix."""

    def __init__(self, client: Any, bucket: str, prefix: str, policy: Policy | None = None) -> None:
        self._client = client
        self._policy = policy
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """See `Store.list`; the empty objects that consoles make to show a folder are left out."""

        def call() -> list[ObjectInfo]:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            found = []
            for page in pages:
                if "Name" not in page:  # S3 names the bucket; any other page that is XML or HTML parses as empty
                    raise _no_s3(self.uri, self._client.meta.endpoint_url, "it answers something else")
                found += [entry for entry in page.get("Contents", []) if not entry["Key"].endswith("/")]
            return [ObjectInfo(e["Key"].removeprefix(self._prefix), e["Size"], e["ETag"]) for e in found]

        try:
            return sorted(self._do(call), key=lambda o: o.key)
        except ObjectNotFound as error:
            raise _no_s3(self.uri, self._client.meta.endpoint_url, "it has no such path") from error

    def get(self, key: str) -> tuple[bytes, str]:
        """See `Store.get`."""

        def call() -> tuple[bytes, str]:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            return answer["Body"].read(), answer["ETag"]

        return self._do(call, key)

    def head(self, key: str) -> ObjectInfo | None:
        """See `Store.head`."""
        try:
            answer = self._do(lambda: self._client.head_object(Bucket=self._bucket, Key=self._prefix + key), key)
        except ObjectNotFound:
            return None
        return ObjectInfo(key, answer["ContentLength"], answer["ETag"])

    def put(
        self, key: str, body: bytes | Path | Stream, *, if_none_match: bool = False, if_match: str | None = None
    ) -> str:
        """See `Store.put`."""
        conditions: dict[str, str] = {}
        if if_none_match:
            conditions["IfNoneMatch"] = "*"
        if if_match is not None:
            conditions["IfMatch"] = if_match
        target = {"Bucket": self._bucket, "Key": self._prefix + key}
        mark = {WRITE_ID: secrets.token_hex(16)}

        def put(content: Any) -> str:
            return self._client.put_object(**target, Body=content, Metadata=mark, **conditions)["ETag"]

        def call() -> str:
            if isinstance(body, bytes):
                return put(body)
            if isinstance(body, Stream):
                with body.open() as made:
                    if body.size <= PART_BYTES:
                        return put(made.read())
                    return self._put_parts(target, made, mark, conditions)
            with body.open("rb") as file:
                if body.stat().st_size <= PART_BYTES:
                    return put(file)
                return self._put_parts(target, file, mark, conditions)

        try:
            return self._do(call, key)
        except (ObjectNotFound, PreconditionFailed) as error:
            # S3 answers If-Match on an object that is gone with 404.
            etag = self._written(key, mark)
            if etag is None:
                raise PreconditionFailed(f"{self.uri}/{key}") from error
            return etag

    def _written(self, key: str, mark: dict[str, str]) -> str | None:
        """Return the ETag of an object, if it is the one that a certain write made."""
        try:
            answer = self._do(lambda: self._client.head_object(Bucket=self._bucket, Key=self._prefix + key), key)
        except ObjectNotFound:
            return None
        return answer["ETag"] if answer.get("Metadata", {}).items() >= mark.items() else None

    def _put_parts(self, target: dict[str, str], file: Any, mark: dict[str, str], conditions: dict[str, str]) -> str:
        """Upload a large file in parts; the conditions hold for the call that puts them together."""
        upload = {
            **target,
            "UploadId": self._client.create_multipart_upload(**target, Metadata=mark)["UploadId"],
        }
        try:
            parts: list[dict[str, Any]] = []
            while data := file.read(PART_BYTES):
                number = len(parts) + 1
                etag = self._client.upload_part(**upload, PartNumber=number, Body=data)["ETag"]
                parts.append({"PartNumber": number, "ETag": etag})
            return self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **conditions)[
                "ETag"
            ]
        except BaseException:
            # What cannot be aborted now, `discard` finds later; the first error tells more.
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**upload)
            raise

    def download(self, key: str, path: Path) -> None:
        """See `Store.download`: in ranges, several at a time, all of one version of the object."""

        def call() -> None:
            try:
                self._client.download_file(self._bucket, self._prefix + key, str(path))
            except ClientError as error:
                if error.response["Error"]["Code"] == "404":
                    # The transfer asks by HEAD, whose answer has no body to tell a missing key from a missing bucket.
                    self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, Range="bytes=0-0")
                raise

        self._do(call, key)

    def chunks(self, key: str, start: int, stop: int, etag: str) -> Iterator[bytes]:
        """Yield an object's bytes from `start` to before `stop` as they come, once: the caller asks again.

        Raises:
            ObjectNotFound: There is none any more.
            PreconditionFailed: It is not the one with this ETag any more.
            TrainerError: `STORAGE_UNAVAILABLE`: asking again may help. Others: it does not.
        """
        where, endpoint = f"{self.uri}/{key}", self._client.meta.endpoint_url
        target = {"Bucket": self._bucket, "Key": self._prefix + key, "Range": f"bytes={start}-{stop - 1}"}
        try:
            answer = self._client.get_object(**target, IfMatch=etag)
            with closing(answer["Body"]) as body:
                if answer["ETag"] != etag:  # of a server that knows no If-Match here
                    raise PreconditionFailed(where)
                if answer["ContentLength"] != stop - start:
                    raise no_ranges(where, endpoint)
                yield from body.iter_chunks(CHUNK_BYTES)
        except (BotoCoreError, ClientError, Boto3Error) as error:
            raise _translate(error, where, self._bucket, endpoint) from error

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        self._do(lambda: self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key), key)

    def around(self) -> Iterator[Store]:
        """See `Store.around`: up to the bucket itself."""
        parts = self._prefix.rstrip("/").split("/") if self._prefix else []
        for length in reversed(range(len(parts))):
            yield S3Store(self._client, self._bucket, "/".join(parts[:length]), self._policy)

    def discard(self, prefix: str, is_over: Callable[[str], bool]) -> None:
        """See `Store.discard`: uploads in parts, which cost as much as objects until somebody aborts them."""

        def call() -> None:
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
                key, number = upload["Key"], upload["UploadId"]
                if is_over(key.removeprefix(self._prefix)):
                    self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=number)

        with suppress(ConditionsUnsupported, ObjectNotFound):  # a store that cannot list them
            self._do(call)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _do(self, call: Callable[[], T], key: str = "") -> T:
        """Call the library, again while S3 is away for a moment, and turn its errors into ours."""
        where = f"{self.uri}/{key}" if key else self.uri

        def translated() -> T:
            try:
                return call()
            except (BotoCoreError, ClientError, Boto3Error) as error:
                raise _translate(error, where, self._bucket, self._client.meta.endpoint_url) from error

        return retried(translated, self._policy)


def _translate(error: Exception, where: str, bucket: str, endpoint: str) -> Exception:
    """Return our form of one of the library's errors."""
    if isinstance(error, ClientError):
        return _translate_answer(error, where, bucket, endpoint)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return TrainerError(
            Reason.STORAGE_ACCESS_DENIED,
            f"{where}: {error}: set spec.storage.s3.secretName to a Secret with AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, or spec.storage.serviceAccountName to an account with rights on the bucket",
        )
    if isinstance(error, ConnectionError | HTTPClientError | Boto3Error | IncompleteReadError):
        return TrainerError(
            Reason.STORAGE_UNAVAILABLE,
            f"{where}: no answer from {endpoint} ({error}): check spec.storage.s3.endpoint and that the workers' "
            f"network reaches it",
        )
    return _no_s3(where, endpoint, str(error))


def _no_s3(where: str, endpoint: str, why: str) -> TrainerError:
    return TrainerError(
        Reason.INVALID_CONFIG, f"{where}: {endpoint} does not speak S3 ({why}): correct spec.storage.s3.endpoint"
    )


def _translate_answer(error: ClientError, where: str, bucket: str, endpoint: str) -> Exception:
    """Return our form of a server's error answer."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = str(error)
    if code in ("NoSuchBucket", "InvalidBucketName"):
        return TrainerError(
            Reason.BUCKET_NOT_FOUND,
            f"{where}: {endpoint} has no bucket {bucket!r}: create it, or correct the uri or spec.storage.s3.endpoint",
        )
    if code in _NOT_FOUND and not (code == "404" and error.operation_name == "GetObject"):
        return ObjectNotFound(where)
    if code == "404":  # S3 says in words what is missing, where there is room for them
        return _no_s3(where, endpoint, "it answers 404 and nothing of S3")
    if code in _PRECONDITION or status == 412:
        return PreconditionFailed(where)
    if code in _UNSUPPORTED or status == 501:
        return ConditionsUnsupported(said)
    if code in _FULL or status == 507:
        return TrainerError(
            Reason.STORAGE_FULL,
            f"{where}: no room is left at {endpoint} ({said}): make some in bucket {bucket!r}, or raise its quota",
        )
    if code in _DENIED or status in (401, 403):
        return TrainerError(
            Reason.STORAGE_ACCESS_DENIED,
            f"{where}: {endpoint} refuses the credentials ({said}): correct the keys in the Secret that "
            f"spec.storage.s3.secretName names, or give their owner rights on bucket {bucket!r}",
        )
    if code in _WRONG_REGION or status == 301:
        region = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
        return TrainerError(
            Reason.INVALID_CONFIG,
            f"{where}: the bucket is in another region ({said}): set spec.storage.s3.region"
            + (f" to {region}" if region else ""),
        )
    if status >= 500 or status == 429 or code in _AWAY:
        return TrainerError(
            Reason.STORAGE_UNAVAILABLE, f"{where}: {endpoint} cannot serve now ({said}): see its own log"
        )
    return TrainerError(
        Reason.INVALID_CONFIG,
        f"{where}: {endpoint} refuses the request ({said}): check the uri and spec.storage.s3",
    )
