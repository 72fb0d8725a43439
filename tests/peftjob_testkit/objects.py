"""S3 as the demo and the tests use it: upload folders, read objects, hash a prefix."""

import hashlib
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError


class ObjectStore:
    """One S3 server."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        self.endpoint = endpoint
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=60),
        )

    def ensure_bucket(self, bucket: str) -> None:
        """Create a bucket that may be there already."""
        try:
            self.client.create_bucket(Bucket=bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def upload(self, source: Path, bucket: str, prefix: str) -> int:
        """Upload a file, or the files of a folder; return the number of bytes."""
        files = [source] if source.is_file() else [p for p in sorted(source.rglob("*")) if p.is_file()]
        for path in files:
            key = prefix if source.is_file() else f"{prefix}/{path.relative_to(source)}"
            self.client.upload_file(str(path), bucket, key)
        return sum(path.stat().st_size for path in files)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write one object."""
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """Return the keys below a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def get(self, bucket: str, key: str) -> bytes:
        """Read one object."""
        data: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return data

    def digest(self, bucket: str, prefix: str) -> dict[str, str]:
        """Return the sha256 of every object below a prefix, by key."""
        return {key: hashlib.sha256(self.get(bucket, key)).hexdigest() for key in self.keys(bucket, prefix)}

    def download(self, bucket: str, prefix: str, folder: Path) -> None:
        """Copy everything below a prefix into a folder."""
        for key in self.keys(bucket, prefix):
            path = folder / key.removeprefix(prefix).lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.get(bucket, key))
