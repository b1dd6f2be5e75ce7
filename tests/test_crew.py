"""flows/crew.py: what a crew does to its process ends with it."""

import gc

from flows.crew import hire_crew
from infra.cluster import ClusterSpec


def test_the_collector_looks_at_everything_again_when_the_crew_is_gone() -> None:
    with hire_crew(ClusterSpec(workers=0)):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0
