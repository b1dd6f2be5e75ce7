"""Rows are handed on closed; a draft of some columns leaves the rows that it was made of as they are."""

import numpy as np
import pytest
from listings import make_listing

from tasks.prepare.table import COLUMNS, IGNORED, NO_CLASS, OK, PENDING, QUARANTINED, make_rows


def test_rows_begin_pending_but_for_files_that_are_not_read() -> None:
    rows = make_rows(make_listing(["owl/a", "owl/.b", "c", "owl/.d"], {"owl/.b": "hidden"}), ("owl",))
    at = {path.decode(): number for number, path in enumerate(rows.paths(np.arange(len(rows))))}
    assert rows.outcome[at["owl/a"]] == rows.outcome[at["owl/.d"]] == PENDING
    assert (rows.outcome[at["owl/.b"]], rows.reasons.texts[rows.reason[at["owl/.b"]]]) == (IGNORED, "hidden")
    assert (rows.outcome[at["c"]], rows.reasons.texts[rows.reason[at["c"]]]) == (QUARANTINED, NO_CLASS)
    assert {getattr(rows, name).shape[0] for name in COLUMNS} == {4}


@pytest.mark.parametrize("name", COLUMNS)
def test_what_was_handed_on_cannot_be_written_to(name: str) -> None:
    rows = make_rows(make_listing(["owl/a", "owl/b"]), ("owl",))
    with pytest.raises(ValueError, match="read-only"):
        getattr(rows, name)[0] = 1


def test_a_draft_has_its_own_copies_of_the_columns_that_it_names() -> None:
    rows = make_rows(make_listing(["owl/a", "owl/b"]), ("owl",))
    draft = rows.draft("outcome")
    draft.outcome[0] = OK
    with pytest.raises(ValueError, match="read-only"):
        draft.split[0] = 1
    done = draft.finish()
    assert (rows.outcome.tolist(), done.outcome.tolist()) == ([PENDING, PENDING], [OK, PENDING])
    assert done.split is rows.split
    with pytest.raises(ValueError, match="read-only"):
        draft.outcome[1] = OK
