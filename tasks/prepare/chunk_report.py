"""What a chunk came to, in; a sealed file of the workspace out, and back: `chunks/KEY.arrow`.

A sealed file is the sha256 of its body and the body, so that one wrong bit anywhere is found.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from cnn.dataset.manifest import ShardRef
from cnn.digest import canonical_json, seal, unseal
from cnn.errors import IntegrityError
from infra.storage.layout import chunk_report_path
from infra.storage.store import Store
from tasks.prepare.table import Report

REPORT = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),  # as the file system holds it
        pa.field("outcome", pa.string(), nullable=False),  # ok or quarantined: the rest is settled later
        pa.field("reason", pa.string()),
        pa.field("digest", pa.binary(32)),  # sha256 of the file; null where it could not be read
        pa.field("image_key", pa.binary(16)),  # digest of the file without its metadata
        pa.field("thumbnail", pa.binary(1024)),  # grey means of the image on a 32 x 32 grid
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("group", pa.string()),
        pa.field("split", pa.string()),
        pa.field("record", pa.int32()),
        pa.field("record_label", pa.int32()),
        pa.field("pixels_crc32c", pa.uint32()),
        pa.field("low", pa.int64()),  # the levels of a picture of more than 8 bits, before the rule for them
        pa.field("high", pa.int64()),
        pa.field("preview", pa.bool_()),  # of a camera raw file
    ]
)
SEAL = 32


def write_report(store: Store, key: str, rows: Sequence[Mapping[str, Any]], shards: Mapping[str, ShardRef]) -> None:
    """Write a chunk's report: the chunk is done from then on."""
    facts = canonical_json({split: shard.model_dump() for split, shard in shards.items()})
    schema = REPORT.with_metadata({"shards": facts})
    table = pa.table({name: [row.get(name) for row in rows] for name in REPORT.names}, schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table)
    store.write(chunk_report_path(key), seal(sink.getvalue().to_pybytes()))


def read_report(store: Store, key: str) -> Report:
    """The report of a chunk that is done.

    Raises:
        IntegrityError: it is damaged.
    """
    name = chunk_report_path(key)
    try:
        table = pa.ipc.open_stream(pa.py_buffer(unseal(store.read(name)))).read_all()
        facts = json.loads(table.schema.metadata[b"shards"])
        if not table.schema.equals(REPORT):
            raise ValueError("its columns are others")
        return Report(key, table, {split: ShardRef(**shard) for split, shard in facts.items()})
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise IntegrityError(f"{store.uri_of(name)} is damaged ({error}); prepare again") from None
