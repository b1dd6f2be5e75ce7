"""What `open_workers` does to its process ends with it."""

import gc

from infra.cluster.spec import ClusterSpec
from infra.cluster.workers import open_workers


def test_the_collector_looks_at_everything_again_when_the_crew_is_gone() -> None:
    gc.unfreeze()
    with open_workers(ClusterSpec(workers=0)):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_what_was_frozen_before_stays_frozen() -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with open_workers(ClusterSpec(workers=0)), open_workers(ClusterSpec(workers=0)):
            pass
        assert gc.get_freeze_count() > before / 2  # some of it is let go of
    finally:
        gc.unfreeze()
