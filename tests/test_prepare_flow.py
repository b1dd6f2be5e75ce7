"""flows/prepare.py: what is told of a version."""

from hypothesis import given
from hypothesis import strategies as st

from flows.prepare import in_order

NAMES = ("train", "validation", "test")


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0)))
def test_counts_come_in_the_order_of_their_names_and_none_is_lost(counts: dict[str, int]) -> None:
    told = in_order(dict(sorted(counts.items())), NAMES)
    assert told == counts
    assert list(told) == [name for name in NAMES if name in counts]
