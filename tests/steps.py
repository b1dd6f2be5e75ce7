"""The steps of a preparation without a flow around them, for tests."""

from pathlib import Path
from typing import Any

from cnn.augment import AugmentSpec
from cnn.dataset import Manifest, SplitSpec
from cnn.images import ImageSpec
from flows.crew import hire_crew
from infra.cluster import ClusterSpec
from tasks.building import BuildSpec
from tasks.preparing import (
    Preparation,
    arrange_shards,
    build_chunks,
    list_files,
    plan_arranging,
    publish_version,
    settle_files,
)
from tasks.reckoning import BudgetSpec


def make_job(source: Path, workspace: Path | str, files: int = 9, budget: float = 0.05, **changes: Any) -> Preparation:
    """A preparation of small images; `changes` are sections of its specification."""
    values: dict[str, Any] = {
        "image": ImageSpec(size=(8, 8)),
        "augment": AugmentSpec(),
        "split": SplitSpec(validation=0.2, test=0.2),
    }
    verify = changes.pop("verify", False)
    spec, allowed = BuildSpec(**values | changes), BudgetSpec(quarantined=budget)
    return Preparation(str(source), str(workspace), spec, allowed, files, verify)


def run_job(job: Preparation, workers: int = 0) -> Manifest:
    """All steps of a job in this process, or on a cluster of so many workers."""
    list_files(job)
    with hire_crew(ClusterSpec(workers=workers)) as crew:
        build_chunks(job, crew.run, lambda report: None)
        parts = settle_files(job)
        works, arranged = plan_arranging(job, parts)
        arranged |= arrange_shards(job, works, crew.run, lambda work: None)
        return publish_version(job, parts, arranged, crew.run)[0]


def prepare(source: Path, workspace: Path, workers: int = 0, **changes: Any) -> tuple[Preparation, Manifest]:
    """A finished job and the version that it published."""
    job = make_job(source, workspace, **changes)
    return job, run_job(job, workers)


def built_paths(job: Preparation) -> set[str]:
    """The paths of the files that the job decoded."""
    paths = (job.rows.paths(job.cut.rows_of(number)) for number in job.todo)
    return {path.decode() for part in paths for path in part}
