"""Texts come back from their numbers, and equal texts have one number."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tasks.files.text_index import NONE, TextIndex

TEXTS = st.lists(st.none() | st.sampled_from(["", "a", "é", "\n"]), max_size=20)


@given(TEXTS, TEXTS)
def test_texts_come_back_and_numbers_stay(first: list[str | None], second: list[str | None]) -> None:
    index = TextIndex()
    numbers, others = index.encode(first), index.encode_column(pa.array(second, pa.string()))
    assert index.decode(numbers).to_pylist() == first
    assert index.decode(others).to_pylist() == second
    assert index.encode(first).tolist() == numbers.tolist()
    assert len(index.texts) == len(set(index.texts)) == len({*first, *second} - {None})
    assert all((number == NONE) == (text is None) for number, text in zip(numbers.tolist(), first, strict=True))
