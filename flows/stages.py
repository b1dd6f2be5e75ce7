"""A piece of work in, the same piece run as one Prefect task out. One task per stage: chunks go through Dask.

The work takes no arguments: Prefect looks into every argument of a task for futures, and a listing of a million files
must not be walked for that. Nothing is cached or persisted by Prefect: the workspace is the record.
"""

from collections.abc import Callable
from typing import TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.cluster import ClusterSpec

T = TypeVar("T")


def run_stage(name: str, work: Callable[[], T]) -> T:
    """What `work` returns; Prefect's UI shows the stage under this name."""
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(work)()


def choose_cluster(spec: ClusterSpec, chunks: int) -> ClusterSpec:
    """The cluster for so many chunks: one chunk is done in this process before a local cluster would have started."""
    return spec if chunks > 1 or spec.address else spec.model_copy(update={"workers": 0})
