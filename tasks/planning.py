"""A listing, the previous version and the configuration in; chunks to build and rows to keep out. Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from cnn.spec import Spec, canonical_json
from infra.storage import Entry
from tasks.listing import Listed


class ChunkSpec(Spec):
    """How much work is one task of the cluster."""

    files: int = Field(
        256, ge=1, le=100_000, description="files per chunk; a chunk is one task and at most three shards"
    )


@dataclass(frozen=True)
class Item:
    """One file to read: its entry, its label, and the label's id in the shards (-1 where there is no label)."""

    entry: Entry
    label: str
    label_id: int


@dataclass(frozen=True)
class Chunk:
    """Files that are worked on together; the key is a digest of them and of everything that decides the result."""

    key: str
    items: tuple[Item, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The files alone."""
        return tuple(item.entry for item in self.items)


@dataclass(frozen=True)
class Plan:
    """`chunks` are to be built; `kept` maps the paths whose rows of the previous version stand to their row numbers."""

    chunks: tuple[Chunk, ...]
    kept: Mapping[str, int]


@dataclass(frozen=True)
class KnownRow:
    """What the previous version knows of a path: its row, what the file looked like, and whether the row can stand."""

    row: int
    size: int
    modified: str
    label_id: int
    usable: bool


def plan_build(
    listed: Sequence[Listed], classes: Sequence[str], known: Mapping[str, KnownRow], files: int, salt: str
) -> Plan:
    """The plan of one dataset version.

    A path whose size, modification stamp and label are those of a usable known row keeps that row; the rest is cut into
    chunks. `salt` is the digest of the specification that shards depend on.
    """
    ids = {name: number for number, name in enumerate(classes)}
    kept: dict[str, int] = {}
    fresh: list[Item] = []
    for item in listed:
        if item.ignored is not None or item.entry.problem is not None or item.label is None:
            continue
        candidate = Item(item.entry, item.label, ids[item.label])
        row = known.get(item.entry.path)
        if row is not None and _stands(row, candidate):
            kept[item.entry.path] = row.row
        else:
            fresh.append(candidate)
    return Plan(tuple(cut_chunks(fresh, files, salt)), kept)


def cut_chunks(items: Iterable[Item], files: int, salt: str) -> list[Chunk]:
    """Chunks of at most `files` items, ordered by a hash of the path, so that each is a random mix of classes."""
    ordered = sorted(items, key=lambda item: (hash_path(item.entry.path), item.entry.path))
    groups = [tuple(ordered[start : start + files]) for start in range(0, len(ordered), files)]
    return [Chunk(chunk_key(group, salt), group) for group in groups]


def plan_chunks(entries: Iterable[Entry], files: int, salt: str) -> list[Chunk]:
    """Chunks of unlabelled files, for scoring."""
    return cut_chunks((Item(entry, "", -1) for entry in entries), files, salt)


def hash_path(path: str) -> bytes:
    """16 bytes that order paths at random, the same way everywhere."""
    return hashlib.sha256(encode_path(path)).digest()[:16]


def encode_path(path: str) -> bytes:
    """The bytes of a path as the file system holds them."""
    return path.encode("utf-8", "surrogateescape")


def chunk_key(items: Sequence[Item], salt: str) -> str:
    """40 hex digits over the salt and all that is known of the files before they are read."""
    digest = hashlib.sha256(salt.encode())
    for item in items:
        entry = item.entry
        facts = canonical_json([encode_path(entry.path).hex(), entry.size, entry.modified, item.label_id])
        digest.update(facts.encode())
    return digest.hexdigest()[:40]


def _stands(row: KnownRow, item: Item) -> bool:
    return (
        row.usable
        and row.size == item.entry.size
        and row.modified == item.entry.modified
        and row.label_id == item.label_id
    )
