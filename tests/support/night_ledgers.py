"""Whether what was published adds up: ledgers of dataset versions, predictions of batches, in a workspace on S3."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import boto3
import pyarrow.parquet as pq
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

BUCKET, PREFIX = "bucket", "work/"


class NightLedgers:
    """What has been looked at; each is looked at once."""

    def __init__(self) -> None:
        patient = BotoConfig(retries={"max_attempts": 10, "mode": "standard"}, s3={"addressing_style": "path"})
        self._client = boto3.session.Session().client("s3", config=patient)
        self.files: dict[str, int] = {}  # of dataset versions and batches

    def make_bucket(self) -> None:
        """The workspace's."""
        self._client.create_bucket(Bucket=BUCKET)

    def look(self, counts: set[int]) -> list[str]:
        """What does not add up in what is new. `counts`: how many files there were at any moment."""
        try:
            return [fault for record in self._list_new() for fault in self._look_at(record, counts)]
        except (BotoCoreError, ClientError) as error:  # the store is away, or gc took it meanwhile; asked again later
            return [] if "NoSuchKey" in str(error) or "connect" in str(error).lower() else [f"S3: {error}"]

    def _list_new(self) -> list[str]:
        names = [entry["Key"] for entry in self._list()]
        ends = ("/manifest.json", "/batch.json")
        return [name for name in names if name.endswith(ends) and name not in self.files]

    def _list(self) -> Iterator[Any]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=PREFIX):
            yield from page.get("Contents", [])

    def _look_at(self, name: str, counts: set[int]) -> Iterator[str]:
        record = json.loads(self._read(name))
        kind = "ledger" if name.endswith("manifest.json") else "predictions"
        rows = pq.read_table(io.BytesIO(self._read(PREFIX + record[kind]["path"])))
        paths, number = rows["path"].to_pylist(), record["files"]
        if len(paths) != len(set(paths)) or len(paths) != number:
            yield f"{name}: {len(paths)} rows, {len(set(paths))} of them different, for {number} files"
        if kind == "ledger" and Counter(rows["outcome"].to_pylist()) != Counter(record["outcomes"]):
            yield f"{name}: the outcomes of the rows are not those of the manifest"
        if number not in counts:
            yield f"{name}: {number} files, and the folder never had so many"
        self.files[name] = number

    def _read(self, name: str) -> bytes:
        return bytes(self._client.get_object(Bucket=BUCKET, Key=name)["Body"].read())
