"""Remove old batches, and the bundles that none of the others needs."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from infra.storage.layout import BATCH_POINTERS, BATCHES, BUNDLES
from infra.storage.store import Store
from infra.storage.workspace import StoredFile, list_stored_files, remove_empty_folder
from tasks.score.batch import BatchRecord, read_batch, read_latest_ids


@dataclass(frozen=True)
class RemovedFiles:
    """What was removed, or would be: names, files and their bytes."""

    names: tuple[str, ...]
    files: int
    bytes: int

    def __add__(self, other: "RemovedFiles") -> "RemovedFiles":
        return RemovedFiles(self.names + other.names, self.files + other.files, self.bytes + other.bytes)


def collect_batches(
    store: Store, keep: int, before: float, needed_bundles: Collection[str], dry_run: bool
) -> RemovedFiles:
    """Remove all but the `keep` newest batches of each inbox and model, the latest and those written after `before`
    (seconds since 1970), and the bundles that only removed ones were scored with; `needed_bundles` stay.

    A batch goes record first: without one it does not exist, so no reader ever sees half of one.

    Raises:
        StorageError: a pointer or a record is damaged; nothing is removed.
    """
    folders = group_files(store, BATCHES, skip=BATCH_POINTERS)
    records = {batch: record for batch in folders if (record := read_batch(store, batch)) is not None}
    written = {batch: max(file.written for file in files) for batch, files in folders.items()}
    kept = choose_kept(records, written, keep, before) | read_latest_ids(store)
    old = [batch for batch in folders if batch not in kept and written[batch] <= before]
    bundles = {records[batch].model.bundle for batch in records if batch not in old} | set(needed_bundles)
    stored = group_files(store, BUNDLES)
    unused = [digest for digest, files in stored.items() if digest not in bundles and is_old(files, before)]
    removed = remove_folders(store, {batch: folders[batch] for batch in old}, "batch.json", dry_run)
    return removed + remove_folders(store, {each: stored[each] for each in unused}, "bundle.json", dry_run)


def choose_kept(records: Mapping[str, BatchRecord], written: Mapping[str, float], keep: int, before: float) -> set[str]:
    """The newest published batches of each inbox and model, and all that are young, published or not."""
    kept = {batch for batch, at in written.items() if at > before}
    by_inbox: dict[tuple[str, str], list[str]] = defaultdict(list)
    for batch, record in records.items():
        by_inbox[record.source, record.model.name].append(batch)
    for batches in by_inbox.values():
        kept.update(sorted(batches, key=lambda batch: (records[batch].scored_at, batch))[-keep:] if keep else ())
    return kept


def group_files(store: Store, prefix: str, skip: str = "\0") -> dict[str, list[StoredFile]]:
    """The files below a folder by the folders in it."""
    grouped: dict[str, list[StoredFile]] = defaultdict(list)
    for file in list_stored_files(store, prefix):
        name, slash, _ = file.path.removeprefix(prefix).partition("/")
        if slash and not file.path.startswith(skip):
            grouped[name].append(file)
    return dict(grouped)


def is_old(files: Iterable[StoredFile], before: float) -> bool:
    """Whether nothing of them was written after a time."""
    return all(file.written <= before for file in files)


def remove_folders(
    store: Store, folders: Mapping[str, Sequence[StoredFile]], first: str, dry_run: bool
) -> RemovedFiles:
    """Remove whole folders, in each the file that makes it count `first`."""
    for files in () if dry_run else folders.values():
        for file in sorted(files, key=lambda file: not file.path.endswith(f"/{first}")):
            store.delete(file.path)
        remove_empty_folder(store, "/".join(files[0].path.split("/")[:2]))
    every = [file for files in folders.values() for file in files]
    return RemovedFiles(tuple(sorted(folders)), len(every), sum(file.size for file in every))
