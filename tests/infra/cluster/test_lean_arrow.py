"""Pyarrow converts as ever, and pandas is not imported for it."""

import subprocess
import sys

CODE = """
import sys
import pyarrow as pa
from infra.cluster.lean_arrow import leave_pandas_out
{before}
leave_pandas_out()
column = pa.array(["a", None, "b"])
assert column.to_pylist() == ["a", None, "b"], column
print("pandas" in sys.modules)
import pandas
print(pandas.Series([1, 2]).sum())
"""


def run(before: str) -> list[str]:
    code = CODE.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_pandas_is_not_imported_and_can_be_later() -> None:
    assert run("") == ["False", "3"]


def test_where_pandas_is_there_nothing_changes() -> None:
    series = "import pandas; leave_pandas_out(); assert pa.array(pandas.Series([1.0, float('nan')])).null_count == 1"
    assert run(series) == ["True", "3"]


def test_threads_that_import_something_else_meanwhile_notice_nothing() -> None:
    """A finder that was put in, and taken out again, had another thread skip the one that knew its module."""
    fixed = "class Fixed(list): insert = append = remove = pop = None\nsys.meta_path = Fixed(sys.meta_path)"
    assert run(fixed) == ["False", "3"]
