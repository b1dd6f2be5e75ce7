"""Any name of a file is shown as text and comes back."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tasks.files.paths import restore_path, show_path, show_paths

RAW_NAMES = st.binary(min_size=1, max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@given(RAW_NAMES)
def test_any_name_comes_back(path: str) -> None:
    shown, raw = show_path(path)
    assert restore_path(shown, raw) == path
    shown.encode("utf-8")


@given(st.lists(RAW_NAMES, unique=True, max_size=8))
def test_paths_show_in_columns_as_they_do_one_by_one(paths: list[str]) -> None:
    shown, raw = show_paths(pa.array([path.encode("utf-8", "surrogateescape") for path in paths], pa.binary()))
    assert list(zip(shown.to_pylist(), raw.to_pylist(), strict=True)) == [show_path(path) for path in paths]
