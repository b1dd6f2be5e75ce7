"""Settled rows in, a published dataset version out: the manifest is written last and is the only commit point."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pydantic import Field, ValidationError

from cnn.dataset import SPLITS, LedgerRef, Manifest, ShardRef
from cnn.errors import BudgetError, DatasetError, IntegrityError, StorageError
from cnn.spec import Spec, canonical_json
from infra.storage import Store
from tasks.building import BuildSpec
from tasks.ledger import count_outcomes, from_parquet, to_parquet
from tasks.settling import measure_normalization
from tasks.shards import Thinning, records_of

NO_CLASS = "no_class_folder"
Shards = Mapping[str, Mapping[str, ShardRef]]  # chunk key → split → shard


class BudgetSpec(Spec):
    """How much may go wrong before nothing is published."""

    quarantined: float = Field(0.05, ge=0.0, le=1.0, description="largest share of files that may be unreadable")


@dataclass(frozen=True)
class Draft:
    """All that a version is made of, before it is written."""

    source: str
    spec: BuildSpec
    classes: tuple[str, ...]
    table: pa.Table
    chunks: Shards
    splits: Mapping[str, tuple[ShardRef, ...]]


def check_budget(table: pa.Table, budget: BudgetSpec) -> None:
    """Refuse a version that lost too much.

    Raises:
        BudgetError: more files are quarantined than the budget allows, or a class has lost all its images.
        DatasetError: no image is left to train on.
    """
    outcomes, reasons = table.column("outcome").to_pylist(), table.column("reason").to_pylist()
    labels = table.column("label").to_pylist()
    worst: Counter[str] = Counter()
    alive: dict[str, int] = defaultdict(int)
    for label, outcome, reason in zip(labels, outcomes, reasons, strict=True):
        if outcome == "quarantined" and reason != NO_CLASS:
            worst[str(reason).split(":")[0]] += 1
        if label is not None and outcome != "ignored":  # files beside the class folders were never asked to be images
            alive[label] += outcome == "ok"
    looked_at = len(outcomes) - outcomes.count("ignored") - reasons.count(NO_CLASS)
    told = ", ".join(f"{reason} {count}" for reason, count in worst.most_common(3)) or "duplicates or conflicts"
    if worst.total() > budget.quarantined * looked_at:
        raise BudgetError(
            f"{worst.total()} of {looked_at} files are unreadable ({told}), "
            f"over the budget of {budget.quarantined:.1%}; "
            "repair or remove them, or raise budget.quarantined; nothing was published"
        )
    emptied = sorted(label for label, count in alive.items() if not count)
    if emptied:
        raise BudgetError(
            f"class {emptied[0]!r} has no usable image left ({told}); "
            "repair its files or remove the folder; nothing was published"
        )
    if ("ok", "train") not in set(zip(outcomes, table.column("split").to_pylist(), strict=True)):
        raise DatasetError("no image is left to train on; lower split.validation and split.test, or add images")


def plan_thinning(table: pa.Table, chunks: Shards) -> list[Thinning]:
    """The shards that are to be rewritten without the records of rows that are not ok."""
    names = ("outcome", "chunk", "split", "record", "records")
    kept: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for outcome, chunk, split, record, records in zip(*(table.column(name).to_pylist() for name in names), strict=True):
        if outcome == "ok":
            kept[chunk, split].append((record, records))
    thinned = []
    for (chunk, split), rows in sorted(kept.items()):
        shard = chunks[chunk][split]
        keep = records_of(*zip(*rows, strict=True))
        if len(keep) != shard.rows:
            thinned.append(Thinning(chunk, split, shard, keep))
    return thinned


def place_rows(
    table: pa.Table, chunks: Shards, replaced: Mapping[tuple[str, str], ShardRef]
) -> tuple[pa.Table, dict[str, tuple[ShardRef, ...]]]:
    """(the table with each ok row's shard, the shards of each split in the order of their chunks)."""
    used: dict[str, dict[str, ShardRef]] = {split: {} for split in SPLITS}
    places: list[str | None] = []
    names = ("outcome", "chunk", "split")
    for outcome, chunk, split in zip(*(table.column(name).to_pylist() for name in names), strict=True):
        if outcome != "ok":
            places.append(None)
            continue
        shard = replaced.get((chunk, split), chunks[chunk][split])
        used[split][chunk] = shard
        places.append(shard.path)
    index = table.schema.get_field_index("shard")
    table = table.set_column(index, table.schema.field(index), pa.array(places, pa.string()))
    return table, {split: tuple(by_chunk[chunk] for chunk in sorted(by_chunk)) for split, by_chunk in used.items()}


def reconcile_shards(table: pa.Table, splits: Mapping[str, Sequence[ShardRef]]) -> None:
    """Check that the shards hold exactly the records of the rows that are ok, and that no shard is in two splits.

    Raises:
        StorageError: the sums do not come out; nothing may be published.
    """
    names = ("outcome", "split", "shard", "records")
    expected: Counter[tuple[str, str]] = Counter()
    for outcome, split, shard, records in zip(*(table.column(name).to_pylist() for name in names), strict=True):
        if outcome == "ok":
            expected[split, shard] += records
    found: Counter[tuple[str, str]] = Counter()
    for split, shards in splits.items():
        for ref in shards:
            found[split, ref.path] += ref.rows
    places = [shard for _, shard in found]
    if found != expected or len(places) != len(set(places)):
        raise StorageError(
            f"ledger and shards disagree ({expected.total()} records expected, {found.total()} found); "
            "nothing was published, please report this"
        )


def digest_dataset(table: pa.Table) -> str:
    """sha256 over the sorted (key, label, split, record digest) of all images: layout and history do not count."""
    names = ("outcome", "digest", "label", "split", "record_digest")
    rows = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    lines = sorted(canonical_json(row[1:]) for row in rows if row[0] == "ok")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def count_images(table: pa.Table) -> dict[str, int]:
    """Images that made it into each split, augmented copies left out."""
    rows = zip(table.column("outcome").to_pylist(), table.column("split").to_pylist(), strict=True)
    counts = Counter(split for outcome, split in rows if outcome == "ok")
    return {split: counts.get(split, 0) for split in SPLITS}


def publish_dataset(draft: Draft, store: Store) -> tuple[Manifest, str]:
    """Write the ledger, then the manifest, then the pointer; returns the manifest and its path."""
    body = to_parquet(draft.table)
    ledger = LedgerRef(path="", rows=draft.table.num_rows, sha256=hashlib.sha256(body).hexdigest())
    manifest = Manifest(
        dataset="",
        digest=digest_dataset(draft.table),
        source=draft.source,
        classes=draft.classes,
        image=draft.spec.image,
        augment=draft.spec.augment,
        split=draft.spec.split,
        normalization=measure_normalization(draft.table, draft.spec.image),
        ledger=ledger,
        splits=dict(draft.splits),
        images=count_images(draft.table),
        files=draft.table.num_rows,
        outcomes=count_outcomes(draft.table),
        build=draft.spec.salt(),
        chunks={key: dict(shards) for key, shards in draft.chunks.items()},
    )
    name = f"{slug_of(draft.source)}-{manifest.digest_of_content()[:12]}"
    ledger = ledger.model_copy(update={"path": f"datasets/{name}/ledger.parquet"})
    manifest = manifest.model_copy(update={"dataset": name, "ledger": ledger})
    store.write(ledger.path, body)
    store.write(manifest_path(name), manifest.to_json().encode())
    store.write(pointer_path(draft.source), canonical_json({"dataset": name}).encode())
    return manifest, manifest_path(name)


def manifest_path(dataset: str) -> str:
    """Where a version's manifest lies in the workspace."""
    return f"datasets/{dataset}/manifest.json"


def pointer_path(source: str) -> str:
    """Where the name of the latest version of a source lies."""
    return f"datasets/latest/{slug_of(source)}-{hashlib.sha256(source.encode()).hexdigest()[:12]}.json"


def slug_of(source: str) -> str:
    """The last part of an address in lower-case letters, digits and dashes."""
    last = source.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40] or "dataset"


def read_manifest(store: Store, dataset: str) -> Manifest:
    """The manifest of a dataset version.

    Raises:
        DatasetError: there is no such version in this workspace.
        IntegrityError: the manifest is damaged.
    """
    name = manifest_path(dataset)
    if not re.fullmatch(r"[a-z0-9-]+", dataset) or not store.exists(name):
        raise DatasetError(
            f"there is no dataset {dataset!r} in {store.uri}; `safelight prepare SOURCE` prints the name it makes"
        )
    try:
        manifest = Manifest.model_validate_json(store.read(name))
    except ValidationError as error:
        raise IntegrityError(f"{store.uri_of(name)} is damaged ({error.error_count()} errors); prepare again") from None
    if not manifest.dataset.endswith(manifest.digest_of_content()[:12]):
        raise IntegrityError(f"{store.uri_of(name)} is damaged (it does not match its name); prepare again")
    return manifest


def read_latest(store: Store, source: str) -> Manifest | None:
    """The manifest of the latest version of a source, or None where there is none to build on."""
    name = pointer_path(source)
    if not store.exists(name):
        return None
    try:
        return read_manifest(store, str(json.loads(store.read(name))["dataset"]))
    except (DatasetError, IntegrityError, ValueError, KeyError, TypeError):
        return None  # a version that is gone or damaged is no ground to stand on: everything is built anew


def read_ledger(store: Store, manifest: Manifest) -> pa.Table:
    """The ledger of a version, verified against the manifest.

    Raises:
        IntegrityError: the file is not the one that was published.
    """
    body = store.read(manifest.ledger.path)
    if hashlib.sha256(body).hexdigest() != manifest.ledger.sha256:
        raise IntegrityError(f"{store.uri_of(manifest.ledger.path)} is damaged; prepare the dataset again")
    return from_parquet(body, store.uri_of(manifest.ledger.path))
