"""Sources and stores on S3 and on servers that speak it; the one module that asks boto3 for anything.

The endpoint, the credentials and the checksum mode come from the environment or the AWS configuration files, never
from an address or a setting.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cnn.errors import (
    BadImage,
    ConfigError,
    SafelightError,
    SourceError,
    SourceOutageError,
    StorageError,
    StorageOutageError,
)
from cnn.text import redact
from infra.machine.proxies import check_socks, is_loopback
from infra.machine.user_dirs import cache_dir
from infra.storage.aws import read_aws_variables, silence_aws_clients
from infra.storage.entry import MOST_BYTES, Entry, check_path
from infra.storage.local import LocalStore
from infra.storage.s3_errors import CHANGED, MISSING, explain_s3_error, is_s3_outage, read_code, to_bad_image
from infra.storage.s3_patience import S3Patience
from infra.storage.scratch import remove_stale_scratch

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": 1},  # `S3Patience` has its own
    connect_timeout=10,
    read_timeout=60,
    max_pool_connections=16,
)
TRANSFER = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=32 << 20, max_concurrency=4)
ARCHIVES = {"GLACIER", "DEEP_ARCHIVE"}  # classes whose objects must be restored before they can be read
FAULTS = (BotoCoreError, ClientError, Boto3Error)


class S3Location:
    """A bucket and what all keys in it begin with; keys are opaque, whatever characters they hold."""

    is_local = False
    fault: type[SafelightError] = StorageError
    outage: type[SafelightError] = StorageOutageError

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.bucket, self.prefix = split_s3_uri(uri)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """One page is asked for after another, in whatever order the server has."""
        with self._explain_errors("list"):
            yield from self._list(prefix)

    def uri_of(self, path: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{path}"

    def _list(self, prefix: str) -> Iterator[Entry]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
        for page in pages:
            for item in page.get("Contents", ()):
                path = item["Key"].removeprefix(self.prefix)
                if not path or (path.endswith("/") and item["Size"] == 0):
                    continue  # what consoles make to show an empty folder
                problem = "archived" if item.get("StorageClass") in ARCHIVES else None
                problem = problem or ("too_large" if item["Size"] > MOST_BYTES else None)
                written = item["LastModified"].timestamp() if "LastModified" in item else None
                yield Entry(path, item["Size"], item["ETag"].strip('"'), problem, written)

    @property
    def _client(self) -> "S3Client":
        return make_s3_client(read_aws_variables())

    def _get(self, path: str, most: int | None = None) -> bytes:
        """One object as it stood at one moment; a reply that breaks off is asked for again, for the same version.

        Raises: BadImage when it has more than `most` bytes.
        """
        version: dict[str, Any] = {}
        for attempt in range(3):
            answer = self._client.get_object(Bucket=self.bucket, Key=self.prefix + path, **version)
            if most is not None and answer["ContentLength"] > most:
                answer["Body"].close()
                raise BadImage("too_large", f"{answer['ContentLength']} bytes")
            version = {"IfMatch": answer["ETag"]}
            try:
                return answer["Body"].read()
            except BotoCoreError:  # connection lost or body cut short: botocore retries requests, not bodies
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def _explain_errors(self, action: str, path: str = "") -> Iterator[None]:
        try:
            yield
        except FAULTS as error:
            fault = self.outage if is_s3_outage(error) else self.fault
            raise fault(f"cannot {action} {self.uri_of(path)}: {explain_s3_error(error, self.bucket)}") from None


class S3Source(S3Location):
    """A prefix that is only read; see `infra.storage.store.Source`."""

    fault = SourceError
    outage = SourceOutageError

    def read(self, path: str) -> bytes:
        for _ in range(2):
            with self._explain_errors("read", path):
                try:
                    return self._get(path, MOST_BYTES)
                except ClientError as error:
                    if read_code(error) not in CHANGED:
                        raise to_bad_image(error) or error from None
        raise BadImage("changed_during_read", "it was replaced while it was read, twice")


class S3Store(S3Location):
    """A workspace on S3; see `infra.storage.store.Store`. `root` is a cache folder with one subfolder per store."""

    @property
    def root(self) -> Path:
        address = f"{self._client.meta.endpoint_url} {self.bucket} {self.prefix}"
        return cache_dir() / "s3" / hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def read(self, path: str) -> bytes:
        with self._explain_errors("read", path):
            return self._get(check_path(path))

    def write(self, path: str, data: bytes) -> None:
        with self._explain_errors("write", path):
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + check_path(path), Body=data)

    def put_file(self, path: str, local: Path) -> None:
        with self._explain_errors("write", path):
            try:
                self._client.upload_file(str(local), self.bucket, self.prefix + check_path(path), Config=TRANSFER)
            except OSError as error:
                raise StorageError(f"cannot read {local}: {error.strerror}; run again") from None

    def take_file(self, path: str, local: Path) -> None:
        self.put_file(path, local)
        with suppress(OSError):  # a later run removes what stays
            local.unlink(missing_ok=True)

    def fetch(self, path: str) -> Path:
        with self._explain_errors("read", path):
            head = self._client.head_object(Bucket=self.bucket, Key=self.prefix + check_path(path))
            version = f"{head['ContentLength']} {head['ETag']}".encode()
            copies, versions = self._cache()
            place = self.root / path
            if versions.exists(path) and versions.read(path) == version and size_of(place) == head["ContentLength"]:
                return place
            versions.delete(path)  # from here on the file and its version may differ
            self._download(path, copies, head["ContentLength"])
            versions.write(path, version)
            return place

    def exists(self, path: str) -> bool:
        with self._explain_errors("read", path):
            try:
                self._client.head_object(Bucket=self.bucket, Key=self.prefix + check_path(path))
            except ClientError as error:
                if read_code(error) not in MISSING:
                    raise
                return False
            return True

    def delete(self, path: str) -> None:
        with self._explain_errors("delete", path):
            try:
                self._client.delete_object(Bucket=self.bucket, Key=self.prefix + check_path(path))
            except ClientError as error:
                if read_code(error) not in MISSING:
                    raise
            # The copy goes with its object: one that is damaged must not pass for the object that is made anew.
            copies, versions = self._cache()
            versions.delete(path)
            copies.delete(path)

    def remove_unfinished(self, before: float) -> int:
        """Uploads in parts that began before a time and never ended, and what lies in the cache."""
        with self._explain_errors("list the uploads to"):
            found = self._list_unfinished(before)
            for key, upload in found:
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
        return len(found) + remove_stale_scratch(self.root)

    def count_unfinished(self, before: float) -> int:
        """Uploads in parts alone: nobody but this machine sees the cache."""
        with self._explain_errors("list the uploads to"):
            return len(self._list_unfinished(before))

    def _list_unfinished(self, before: float) -> list[tuple[str, str]]:
        """(key, id) of the uploads in parts that began before a time and never ended."""
        pages = self._client.get_paginator("list_multipart_uploads")
        return [
            (upload["Key"], upload["UploadId"])
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix)
            for upload in page.get("Uploads", ())
            if upload["Initiated"].timestamp() <= before
        ]

    def _cache(self) -> tuple[LocalStore, LocalStore]:
        """(copies of objects, what tells which version of its object a copy is)."""
        return LocalStore(self.root), LocalStore(self.root.with_name(self.root.name + ".versions"))

    def _download(self, path: str, copies: LocalStore, size: int) -> None:
        def save(temporary: Path) -> None:
            with temporary.open("r+b") as file:  # the file that is locked, where download_file would replace it
                self._client.download_fileobj(self.bucket, self.prefix + path, file, Config=TRANSFER)
            if size_of(temporary) != size:
                raise StorageError(f"{self.uri_of(path)} changed while it was downloaded; run again")

        copies.write_with(path, save)


def split_s3_uri(uri: str) -> tuple[str, str]:
    """(bucket, what keys begin with: empty or ending in "/") of an s3:// address. Raises: ConfigError."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not bucket or "@" in bucket or ":" in bucket or "?" in uri or "#" in uri:
        raise ConfigError(
            f"{redact(uri)} is not s3://bucket/prefix; credentials come from the environment (AWS_ACCESS_KEY_ID,"
            " AWS_SECRET_ACCESS_KEY, or an AWS profile), the server's address from AWS_ENDPOINT_URL"
        )
    return bucket, prefix if not prefix or prefix.endswith("/") else prefix + "/"


@lru_cache(maxsize=4)
def make_s3_client(environment: tuple[tuple[str, str], ...]) -> "S3Client":
    """The client of this process for these AWS_ variables; making one costs 50 ms or more. Clients are thread-safe."""
    silence_aws_clients()
    region = dict(environment).get("AWS_REGION") or dict(environment).get("AWS_DEFAULT_REGION")
    try:
        client = boto3.session.Session(region_name=region).client("s3", config=CONFIG)
        if is_loopback(urlsplit(client.meta.endpoint_url).hostname or "") and getproxies():
            direct = CONFIG.merge(Config(proxies={}))  # whatever NO_PROXY says: for botocore, that of [::1] is none
            client = boto3.session.Session(region_name=region).client("s3", config=direct)
    except ValueError:
        raise ConfigError("AWS_ENDPOINT_URL is no address; write http://host:port or https://host") from None
    check_socks(client.meta.endpoint_url, "boto3", None)
    patience: Any = S3Patience()  # botocore's types know no event that is answered
    client.meta.events.register_last("needs-retry.s3", patience.choose_pause)
    return client


def size_of(place: Path) -> int | None:
    """Bytes of a file, None when there is none."""
    return place.stat().st_size if place.is_file() else None
