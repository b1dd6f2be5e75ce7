"""The steps of a preparation without a flow around them, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SplitSpec
from cnn.images.spec import AugmentSpec, ImageSpec
from infra.cluster.spec import ClusterSpec
from infra.cluster.workers import open_workers
from infra.storage.store import open_store
from infra.storage.workspace import lock_workspace
from tasks.dataset.version import read_ledger
from tasks.prepare.finish import finish_version
from tasks.prepare.pipeline import Preparation, build_chunks, list_files
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


def make_job(
    source: Path | str, workspace: Path | str, files: int = 9, budget: float = 0.05, **changes: Any
) -> Preparation:
    """A preparation of small images; `changes` are sections of its specification."""
    values: dict[str, Any] = {
        "image": ImageSpec(size=(8, 8)),
        "augment": AugmentSpec(),
        "split": SplitSpec(validation=0.2, test=0.2),
    }
    verify = changes.pop("verify", False)
    spec, allowed = BuildSpec(**values | changes), BudgetSpec(quarantined=budget)
    return Preparation(str(source), str(workspace), spec, allowed, files, verify)


def run_job(job: Preparation, workers: int | None = 0) -> Manifest:
    """All steps of a job in this process, or on a cluster of so many workers (None: as many as it is worth)."""
    with lock_workspace(job.store), open_workers(ClusterSpec(workers=workers)) as crew:
        list_files(job)
        build_chunks(job, crew.run, lambda report: None)
        return finish_version(job, crew.run)[0]


def prepare(source: Path | str, workspace: Path, workers: int = 0, **changes: Any) -> tuple[Preparation, Manifest]:
    """A finished job and the version that it published."""
    job = make_job(source, workspace, **changes)
    return job, run_job(job, workers)


def built_paths(job: Preparation) -> set[str]:
    """The paths of the files that the job decoded."""
    paths = (job.rows.paths(job.cut.rows_of(number)) for number in job.todo)
    return {path.decode() for part in paths for path in part}
