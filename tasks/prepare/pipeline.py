"""The steps of one preparation in their order, free of any orchestrator: list, build, publish.

`Preparation` holds what the steps hand to each other, so that no orchestrator has to carry a million rows.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.dataset.manifest import Manifest
from cnn.digest import canonical_json
from cnn.errors import TRANSIENT_REASONS, IntegrityError, SafelightError, SourceError
from cnn.formats.levels import LevelSpan, combine_spans
from infra.cluster.spec import WorkEstimate
from infra.storage.layout import chunk_report_path
from infra.storage.scratch import remove_stale_scratch
from infra.storage.store import Source, Store, open_store
from tasks.dataset.ledger import DECODED
from tasks.dataset.version import LatestVersion, fetch_ledger, find_latest_version, read_manifest
from tasks.files.changes import has_reason_code
from tasks.files.chunks import Chunk, ChunkPlan, cut_by_hash, estimate_decoding, make_chunk
from tasks.files.class_folders import OwnerSplit, apply_owner_split, find_owner_split
from tasks.files.listing import class_names, digest_listing, list_source
from tasks.files.source_checks import (
    PREPARE,
    describe_classes,
    open_given,
    refuse_lost_folders,
    refuse_outside_links,
    refuse_workspace_inside,
)
from tasks.prepare.bit_depth import (
    DATASET,
    DeepCounts,
    count_report,
    cut_labelled,
    measure_chunk,
    with_levels,
)
from tasks.prepare.build import BuildTask, ChunkReport, build_chunk
from tasks.prepare.changes import Previous, keep_moved, keep_unchanged, verify_kept
from tasks.prepare.chunk_report import read_report
from tasks.prepare.spec import BudgetSpec, BuildSpec
from tasks.prepare.table import OK, QUARANTINED, Filled, Report, Rows

LISTING_RULES = 2  # raise it when a version that stands may have to be looked through though its source lists the same
FILL_ROWS = 4_096  # whose reports are taken over together: each time costs as much as some hundred rows


class Run(Protocol):
    """How pieces of work are done; `infra.cluster.workers.Workers.run` is one."""

    def __call__(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        on_result: Callable[[Any], None],
        estimate: WorkEstimate,
        isolate: Callable[[Any], Any] | None = None,
    ) -> None:
        """Call `on_result` with `function(item)` for each item; `isolate` makes of an item one that ends no process."""


@dataclass
class Preparation:
    """One run of `prepare`: what was asked for, and what is known so far."""

    source_uri: str
    workspace_uri: str
    spec: BuildSpec
    budget: BudgetSpec
    chunk_files: int
    verify: bool = False
    exclude: tuple[str, ...] = ()  # patterns of files of the source that are left out
    command: str = PREPARE  # what its user types, with {} for the source
    layout: OwnerSplit = field(
        default_factory=OwnerSplit
    )  # which folders of the source are a split that its owner made
    classes: tuple[str, ...] = ()
    todo: list[int] = field(default_factory=list)  # numbers of the chunks that are to be built
    done: list[ChunkReport] = field(default_factory=list)
    standing: dict[str, int] = field(
        default_factory=dict
    )  # shards and reports that were there before, with their sizes
    previous: Previous | None = None
    latest: LatestVersion | None = None  # what the source's pointer says
    damaged: str | None = None  # name of the latest version, where its manifest or ledger is not what was published
    unchanged: bool = False  # nothing differs from the previous version
    recognised: bool = False  # nor does the listing: the previous ledger was not gone through, no row is filled
    moved: int = 0  # files that were found again under another path
    measured: bool = False  # whether the spec's levels were measured over training images, by this run or before
    deep: DeepCounts = field(default_factory=DeepCounts)  # pictures of more than 8 bits among those that are built
    changed: int = 0  # files whose bytes have changed though size and time have not (`verify`)
    kept: int = 0  # files that are not decoded by this run
    started: float = field(default_factory=time.monotonic)
    submitted: float | None = None

    @cached_property
    def source(self) -> Source:
        """The source, opened read-only."""
        return open_given(self.source_uri, self.command)

    @cached_property
    def store(self) -> Store:
        """The workspace."""
        return open_store(self.workspace_uri)

    @cached_property
    def inventory(self) -> pa.Table:
        """Every file of the source; the first use lists them, and finds the folders that are a split of their owner."""
        inventory = list_source(self.source, self.exclude)
        refuse_outside_links(self.source, inventory, self.command)
        refuse_lost_folders(self.source, inventory)
        self.layout = find_owner_split(inventory, self.spec.split.folders, self.source_uri)
        self.spec = self.spec.model_copy(update={"folders": dict(self.layout.folders)})
        return apply_owner_split(inventory, self.layout)

    @cached_property
    def rows(self) -> Rows:
        """One row for each file listed."""
        inventory = self.inventory
        self.previous = find_previous(self)
        self.classes = class_names(inventory, self.previous.manifest.classes if self.previous else ())
        if len(self.classes) < 2:
            raise SourceError(describe_classes(self.source, inventory, self.classes, self.command))
        return Rows(inventory, self.classes, self.spec.folders)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """int64 (rows,): the size of each file."""
        return np.asarray(self.rows.inventory.column("size").to_numpy(), np.int64)

    @cached_property
    def cut(self) -> ChunkPlan:
        """The chunks of all files that no row stands for; made when unchanged and moved files are known."""
        return cut_by_hash(self.rows.inventory, self.rows.pending(), self.chunk_files)

    @cached_property
    def listing(self) -> str:
        """sha256 (hex) of what the source listed and of all that decides what comes of it."""
        inventory = self.rows.inventory  # with which the specification is known
        facts = [self.spec.model_dump(mode="json"), self.budget.model_dump(mode="json"), self.chunk_files, self.classes]
        facts += [LISTING_RULES, self.measured]
        return hashlib.sha256(f"{canonical_json(facts)}{digest_listing(inventory)}".encode()).hexdigest()

    @property
    def files_to_build(self) -> int:
        """How many files the chunks to build hold."""
        return sum(len(self.cut.rows_of(number)) for number in self.todo)

    @property
    def estimate(self) -> WorkEstimate:
        """What the chunks to build take."""
        return estimate_decoding(len(self.todo), self.files_to_build, sum(map(self.bytes_of, self.todo)))

    def bytes_of(self, number: int) -> int:
        """How many bytes the files of a chunk have."""
        return int(self.sizes[self.cut.rows_of(number)].sum())


def list_files(job: Preparation) -> None:
    """List the source, compare with the previous version, and plan what must be built.

    Raises:
        SourceError: there is nothing to learn from, or only one class.
    """
    refuse_workspace_inside(job.source, job.store)
    remove_stale_scratch(job.store.root)
    if job.spec.image.levels == DATASET and not keep_levels(job):
        measure_levels(job, run_here, lambda files: None)
    job.standing = {entry.path: entry.size for kind in ("shards/", "chunks/") for entry in job.store.list(kind)}
    rows = job.rows
    if recognise_listing(job):
        return
    if job.previous is not None:
        try:
            same, left = keep_unchanged(rows, job.previous)
        except IntegrityError:  # a damaged ledger is no ground to stand on: everything is built anew
            job.previous, job.rows = None, Rows(rows.inventory, job.classes, job.spec.folders)
        else:
            rows.shards.update(job.previous.manifest.chunks)
            job.changed = verify_kept(rows, job.source) if job.verify else 0
            job.moved = keep_moved(rows, job.source, left, job.spec)
            job.unchanged = same == len(rows) and not job.changed and _is_same(job, job.previous.manifest)
    known = sorted(_find_finished(job))
    job.todo = [number for number in range(len(job.cut)) if number not in set(known)]
    job.kept = int((rows.outcome == OK).sum())


def run_here(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    on_result: Callable[[Any], None],
    estimate: WorkEstimate,
    isolate: Callable[[Any], Any] | None = None,
) -> None:
    """A `Run` in this process, one item after the other."""
    for item in items:
        on_result(function(item))


def keep_levels(job: Preparation) -> bool:
    """Put the levels of the latest version in place of `image.levels = "dataset"`, where they were measured and decide
    as much as they did then; False where they have to be measured. See `tasks.prepare.bit_depth`."""
    latest = find_latest_version(job.store, job.source.uri)
    try:
        manifest = None if latest is None else read_manifest(job.store, latest.dataset)
    except SafelightError:
        return False  # `find_previous` has more to say about it
    if manifest is None or not manifest.measured_levels or manifest.source != job.source.uri:
        return False
    _ = job.inventory  # with which the specification is whole
    spec = with_levels(job.spec, manifest.image.levels)
    if manifest.build != spec.salt():
        return False
    job.spec, job.measured = spec, True
    return True


def measure_levels(job: Preparation, run: Run, on_files: Callable[[int], None]) -> None:
    """Put the levels that the training images use in place of `image.levels = "dataset"`; `on_files` is told how many
    files were looked at.

    Raises:
        SourceError: the source as a whole does not answer.
    """
    cut = cut_labelled(job.inventory, job.chunk_files)
    sizes = job.inventory.column("size").to_numpy()
    chunks = (make_chunk(job.inventory, cut.rows_of(number), DATASET) for number in range(len(cut)))
    spans: list[LevelSpan] = []

    def take(result: tuple[int, list[LevelSpan]]) -> None:
        spans.extend(result[1])
        on_files(result[0])

    task = BuildTask(job.source.uri, job.store.uri, job.spec)
    estimate = estimate_decoding(len(cut), len(cut.rows), int(sizes[cut.rows].sum()))
    run(partial(measure_chunk, task=task), chunks, take, estimate, Chunk.isolate)
    found = combine_spans(spans)
    job.spec, job.measured = with_levels(job.spec, found or "full"), found is not None


def recognise_listing(job: Preparation) -> bool:
    """Whether the source lists what it did when the latest version was made, all of which stands; takes it over."""
    if job.previous is None or job.latest is None or job.verify or job.latest.listing_digest != job.listing:
        return False
    manifest = job.previous.manifest
    reports = all(chunk_report_path(key) in job.standing for key in manifest.chunks)
    shards = (shard for chunk in manifest.chunks.values() for shard in chunk.values())
    stands = reports and all(job.standing.get(shard.path) == shard.bytes for shard in shards)
    if stands and _is_same(job, manifest):
        job.recognised = job.unchanged = True
        job.kept = sum(manifest.outcomes.get(outcome, 0) for outcome in DECODED)
    return job.recognised


def build_chunks(job: Preparation, run: Run, on_report: Callable[[ChunkReport], None]) -> None:
    """Build every chunk that is not done yet; each that ends is kept, whatever happens to the others."""
    job.submitted = time.monotonic()
    numbers: dict[str, int] = {}
    waiting: list[Filled] = []
    salt = job.spec.salt()

    def make() -> Iterator[Chunk]:
        for number in sorted(job.todo, key=job.bytes_of, reverse=True):  # the small ones last: workers end together
            rows = job.cut.rows_of(number)
            labels, doubted = job.rows.label_id[rows].tolist(), int(job.rows.doubted[rows].sum())
            chunk = make_chunk(job.rows.inventory, rows, salt, labels, doubted)
            numbers[chunk.key] = number
            yield chunk

    def keep(done: ChunkReport) -> None:
        waiting.append(match_report(job, numbers.pop(done.key), read_report(job.store, done.key)))
        if sum(len(rows) for rows, _ in waiting) >= FILL_ROWS:
            job.rows.fill(waiting)
            waiting.clear()
        job.done.append(done)
        on_report(done)

    task = BuildTask(job.source.uri, job.store.uri, job.spec)
    run(partial(build_chunk, task=task), make(), keep, job.estimate, Chunk.isolate)
    job.rows.fill(waiting)


def match_report(job: Preparation, number: int, report: Report) -> Filled:
    """A chunk's rows and its report. Raises: IntegrityError when it is that of other files."""
    rows = job.cut.rows_of(number)
    paths = job.rows.path_column(rows)
    if not report.table.column("path").cast(paths.type).equals(paths):
        raise IntegrityError(f"{job.store.uri_of(chunk_report_path(report.key))} is not of its chunk; prepare again")
    job.deep += count_report(report.table, job.spec.image.levels)
    return rows, report


def find_previous(job: Preparation) -> Previous | None:
    """The latest version of the source, when its chunks are what this specification asks for."""
    job.latest = find_latest_version(job.store, job.source.uri)
    name = None if job.latest is None else job.latest.dataset
    try:
        manifest = None if name is None else read_manifest(job.store, name)
        if manifest is None or manifest.source != job.source.uri or manifest.build != job.spec.salt():
            return None
        ledger = fetch_ledger(job.store, manifest)
    except IntegrityError:
        job.damaged = name
        return None  # a damaged version is no ground to stand on: everything is built anew
    except SafelightError:
        return None  # nor is one that is gone
    return Previous(manifest, ledger, job.store.uri_of(manifest.ledger.path), job.standing)


def has_missing(rows: Rows) -> bool:
    """Whether a file that was asked for gave no bytes, or its decoder no answer: the next preparation asks again."""
    return bool(((rows.outcome == QUARANTINED) & (rows.chunk >= 0) & ~rows.is_read).any())


def has_unread(report: Report) -> bool:
    """Whether a file gave no bytes, or its decoder no answer: that may pass, so the chunk is done again."""
    passing = pc.any(has_reason_code(report.table.column("reason"), TRANSIENT_REASONS)).as_py()
    return bool(report.table.column("digest").null_count or passing)


def _is_same(job: Preparation, manifest: Manifest) -> bool:
    """Whether the previous version is what would come out again: the same settings, and all its shards stand."""
    settings = (manifest.classes, manifest.image, manifest.augment, manifest.split, manifest.split_folders)
    asked = (job.classes, job.spec.image, job.spec.augment, job.spec.split, job.spec.folders)
    if manifest.measured_levels != job.measured:
        return False
    shards = [shard for split in manifest.splits.values() for shard in split]
    return (
        settings == asked
        and manifest.files == len(job.rows)
        and all(job.standing.get(shard.path) == shard.bytes for shard in shards)
    )


def _find_finished(job: Preparation) -> Iterator[int]:
    """Take over the reports that an earlier run left, when their shards stand; yields the numbers of their chunks."""
    if not any(path.startswith("chunks/") for path in job.standing):
        return
    salt = job.spec.salt()
    for number in range(len(job.cut)):
        chunk = make_chunk(job.rows.inventory, job.cut.rows_of(number), salt)
        if chunk_report_path(chunk.key) not in job.standing:
            continue
        try:
            report = read_report(job.store, chunk.key)
            if has_unread(report):
                continue
            if all(job.standing.get(shard.path) == shard.bytes for shard in report.shards.values()):
                job.rows.fill([match_report(job, number, report)])
                yield number
        except IntegrityError:
            continue  # it is built anew
