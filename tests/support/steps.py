"""The steps of a preparation without a flow around them, for tests."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SplitSpec
from cnn.images.spec import AugmentSpec, ImageSpec
from infra.cluster.dask import Cluster, run_chunks
from infra.cluster.spec import ClusterSpec, Run, WorkEstimate
from infra.cluster.workers import open_workers
from infra.storage.store import open_store
from infra.storage.workspace import lock_workspace
from tasks.dataset.version import read_ledger
from tasks.files.source_checks import PREPARE, open_given
from tasks.prepare.changes import read_previous
from tasks.prepare.job import BuildPlan, Built, PrepareJob
from tasks.prepare.levels import DATASET, measure_levels, reuse_levels
from tasks.prepare.pipeline import build_chunks, finish_version
from tasks.prepare.plan import list_files, plan_build
from tasks.prepare.publish import PublishedDataset
from tasks.prepare.spec import BudgetSpec, BuildSpec


def write_image(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> None:
    """A picture of noise, of (height, width) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write_photos(folder: Path, count: int = 60) -> Path:
    """Small pictures in the class folders bat, cat and owl by turns; returns the folder."""
    for number in range(count):
        write_image(folder / ("bat", "cat", "owl")[number % 3] / f"{number:02}.png", number)
    return folder


def rows_of(workspace: Path, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """path → row of a version's ledger."""
    return {row["path"]: row for row in read_ledger(open_store(str(workspace)), manifest).to_pylist()}


@dataclass(frozen=True)
class Prepared:
    """The values of a preparation, in their order."""

    job: PrepareJob
    built: Built
    published: PublishedDataset

    @property
    def plan(self) -> BuildPlan:
        return self.built.plan

    @property
    def manifest(self) -> Manifest:
        return self.published.manifest


def make_job(
    source: Path | str, workspace: Path | str, files: int = 9, budget: float = 0.05, **changes: Any
) -> PrepareJob:
    """A preparation of small images; `changes` are sections of its specification, or fields of the job."""
    spec: dict[str, Any] = {
        "image": ImageSpec(size=(8, 8)),
        "augment": AugmentSpec(),
        "split": SplitSpec(validation=0.2, test=0.2),
    }
    spec |= {name: changes.pop(name) for name in spec if name in changes}
    limits = changes.pop("limits", BudgetSpec(quarantined=budget))
    opened = open_given(str(source), changes.get("command", PREPARE))
    return PrepareJob(opened, open_store(str(workspace)), BuildSpec(**spec), limits, files, **changes)


def plan_job(job: PrepareJob, run: Run | None = None) -> BuildPlan:
    """List and plan; `run` measures levels."""
    previous, files = read_previous(job.store, job.source.uri), list_files(job)
    if job.spec.image.levels == DATASET:
        files = reuse_levels(files, previous) or measure_levels(job, files, run or run_here, lambda files: None)
    return plan_build(job, files, previous)


def run_here(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    on_result: Callable[[Any], None],
    estimate: WorkEstimate,
    isolate: Callable[[Any], Any] | None = None,
) -> None:
    """Do the work in this process, one item after the other."""
    run_chunks(Cluster(0), function, items, on_result)


def run_job(job: PrepareJob, workers: int | None = 0) -> Prepared:
    """All steps of a job in this process, or on a cluster of so many workers (None: as many as pay for themselves)."""
    with lock_workspace(job.store), open_workers(ClusterSpec(workers=workers)) as crew:
        built = build_chunks(job, plan_job(job, crew.run), crew.run, lambda chunk: None)
        return Prepared(job, built, finish_version(job, built, crew.run))


def prepare(source: Path | str, workspace: Path, workers: int = 0, **changes: Any) -> tuple[Prepared, Manifest]:
    """A finished preparation and the version that it published."""
    done = run_job(make_job(source, workspace, **changes), workers)
    return done, done.manifest


def built_paths(plan: BuildPlan) -> set[str]:
    """The paths of the files that are to be decoded."""
    paths = (plan.rows.paths(plan.chunks.rows_of(number)) for number in plan.todo)
    return {path.decode() for part in paths for path in part}
