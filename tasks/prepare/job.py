"""The values of one preparation, each made once and handed on.

    PrepareJob → SourceFiles → Listing → BuildPlan → Built → DatasetDraft → PublishedDataset

The last two are in tasks/prepare/publish.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cnn.dataset.locked_sets import LockedSets, find_today
from cnn.dataset.manifest import Manifest, ShardRef
from cnn.errors import IntegrityError
from cnn.images.survey import ImageSurvey
from infra.cluster.spec import WorkEstimate
from infra.storage.layout import chunk_report_path
from infra.storage.store import Source, Store
from tasks.dataset.version import LatestVersion
from tasks.files.bit_depth import DeepCounts
from tasks.files.chunks import Chunk, ChunkPlan, estimate_decoding, make_chunk
from tasks.files.class_folders import OwnerSplit
from tasks.files.image_table import ImageTable, TableRequest
from tasks.files.source_checks import PREPARE
from tasks.prepare.build import BuiltChunk
from tasks.prepare.chunk_report import ChunkReport
from tasks.prepare.columns import ColumnValues, RecordedValues
from tasks.prepare.spec import BudgetSpec, BuildSpec
from tasks.prepare.table import Rows

MayRetire = Callable[[LockedSets], bool]
"""Whether, of two test sets that overlap, the one before is needed no more once its time is over."""


def retire_always(sets: LockedSets) -> bool:
    """A `MayRetire` that knows no model."""
    return True


@dataclass(frozen=True)
class PrepareJob:
    """One preparation: the source (read-only) and the workspace, opened, and the settings."""

    source: Source
    store: Store
    spec: BuildSpec
    budget: BudgetSpec
    chunk_files: int
    exclude: tuple[str, ...] = ()  # patterns of files of the source that are left out
    verify: bool = False  # whether files that look unchanged are read, too
    command: str = PREPARE  # what its user types, with {} for the source
    today: date = field(default_factory=find_today)  # by which test sets take turns (split.refresh)
    may_retire: MayRetire = retire_always
    locked_sets: LockedSets | None = None  # those of a version that is made again, whatever day it is
    table: TableRequest | None = None  # what is asked of the user's table about the images
    recorded: RecordedValues | None = None  # in its place, what it said for a version that is made again


@dataclass(frozen=True)
class SourceFiles:
    """What a source holds: `table` has a row for each file (of `tasks.files.listing.FILES`), labelled by its class."""

    table: pa.Table
    owner_split: OwnerSplit  # the folders that are a split which the source's owner made
    spec: BuildSpec  # what was asked for, with these folders, and with levels where they were to be measured
    measured: bool = False  # whether they were, now or for the version before
    survey: ImageSurvey | None = None  # what the size was chosen by, where none was set
    image_table: ImageTable | None = None  # the user's, where columns of it are used


@dataclass(frozen=True)
class Listing:
    """The files of a source with numbered classes; `digest` (sha256, hex) covers them and all that decides what comes
    of them."""

    files: SourceFiles
    classes: tuple[str, ...]
    build_key: str  # see `BuildSpec.build_key`
    digest: str
    locked_sets: LockedSets | None = None  # which test sets judge, where they are drawn anew


@dataclass(frozen=True)
class PreviousVersion:
    """What a source's pointer names, and what of it is whole: its manifest, and its ledger as a local file.

    `damaged`: one of the two is not what was published. Where one is gone, or of another release, it is None.
    """

    latest: LatestVersion
    ledger_uri: str = ""
    manifest: Manifest | None = None
    ledger: Path | None = None
    damaged: bool = False


@dataclass(frozen=True)
class ExistingFiles:
    """The shards and chunk reports that a workspace holds: path → size in bytes."""

    sizes: Mapping[str, int]

    def has_shard(self, shard: ShardRef) -> bool:
        """Whether the shard is there, as long as it should be."""
        return self.sizes.get(shard.path) == shard.bytes

    def has_report(self, key: str) -> bool:
        """Whether the report of a chunk is there."""
        return chunk_report_path(key) in self.sizes

    def has_reports(self) -> bool:
        """Whether any chunk was built here before."""
        return any(path.startswith("chunks/") for path in self.sizes)

    def has_all(self, manifest: Manifest) -> bool:
        """Whether all shards of a version are there."""
        return all(self.has_shard(shard) for split in manifest.splits.values() for shard in split)


@dataclass(frozen=True)
class BuildPlan:
    """What is known without decoding any file, and what has to be built.

    `rows` (files,) of files that are reused are filled in, others are pending; where the listing is `recognised`, the
    previous ledger was not gone through and all are.
    """

    listing: Listing
    previous: PreviousVersion | None  # the latest version of the source, whole or not
    base: Manifest | None  # its manifest, where rows are reused
    existing: ExistingFiles
    rows: Rows
    chunks: ChunkPlan  # of the files without a reused row
    values: ColumnValues | None = None  # what the user's table says
    todo: tuple[int, ...] = ()  # numbers of the chunks that no earlier run has built
    reused: int = 0  # images that are not decoded by this run
    moved: int = 0  # files that were found again under another path
    relabelled: Mapping[tuple[str, str], int] = field(default_factory=dict)  # of these, by the class before and now
    changed: int = 0  # files whose bytes have changed though size and time have not (`verify`)
    unchanged: bool = False  # nothing differs from the previous version
    recognised: bool = False  # nor does the listing
    deep: DeepCounts = field(default_factory=DeepCounts)  # of the chunks that an earlier run has built

    @property
    def files_to_build(self) -> int:
        """How many files the chunks to build hold."""
        return sum(len(self.chunks.rows_of(number)) for number in self.todo)

    @property
    def damaged(self) -> str | None:
        """The name of the latest version, where it was to be built upon and is not what was published."""
        previous = self.previous
        if previous is None or not previous.damaged:
            return None
        asked = previous.manifest is None or previous.manifest.build == self.listing.build_key
        return previous.latest.dataset if asked else None

    def estimate(self) -> WorkEstimate:
        """What the chunks to build take."""
        return estimate_decoding(len(self.todo), self.files_to_build, sum(map(self.bytes_of, self.todo)))

    def bytes_of(self, number: int) -> int:
        """How many bytes the files of a chunk have."""
        sizes = self.rows.files.column("size").take(pa.array(self.chunks.rows_of(number)))
        return int(pc.sum(sizes).as_py() or 0)

    def make_chunk(self, number: int) -> Chunk:
        """A chunk as a value that travels to a worker."""
        rows = self.chunks.rows_of(number)
        labels, doubted = self.rows.label_id[rows].tolist(), int(self.rows.doubted[rows].sum())
        return make_chunk(self.rows.files, rows, self.listing.build_key, labels, doubted)

    def check_report(self, number: int, report: ChunkReport, store: Store) -> ChunkReport:
        """The report of a chunk. Raises: IntegrityError when it is that of other files."""
        paths = self.rows.path_column(self.chunks.rows_of(number))
        if not report.table.column("path").cast(paths.type).equals(paths):
            place = store.uri_of(chunk_report_path(report.key))
            raise IntegrityError(f"{place} is the report of other files than its chunk's; prepare again")
        return report


@dataclass(frozen=True)
class Built:
    """What came of a plan: all `rows` (files,) filled in, and what came of each chunk that this run has built."""

    plan: BuildPlan
    rows: Rows
    chunks: tuple[BuiltChunk, ...]
    deep: DeepCounts
