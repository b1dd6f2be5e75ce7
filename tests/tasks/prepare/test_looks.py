"""Copies by their look stay in one split, from night to night."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listings import make_decoded
from numpy.typing import NDArray
from planted_copies import crop_scene, draw_scene, write_scene
from steps import prepare, rows_of

from cnn.dataset.copy_search import CopyCandidates, find_copy_candidates
from cnn.dataset.split import SPLITS, SplitSpec
from cnn.images.spec import ImageSpec
from infra.storage.store import open_store
from tasks.prepare import looks
from tasks.prepare.keep_splits import draw_splits
from tasks.prepare.looks import mark_looks, tie_together
from tasks.prepare.spec import BudgetSpec

IMAGE, SPLIT = ImageSpec(size=(64, 64)), SplitSpec(validation=0.2, test=0.3, copies="together")
SCENES = 16


def write_source(folder: Path, mirrored: int = SCENES) -> Path:
    """Scenes of two classes, and as many of them as asked for once more, mirrored."""
    for seed in range(SCENES):
        scene, label = draw_scene(seed), ("cat", "owl")[seed % 2]
        write_scene(folder / label / f"{seed:02}.png", scene)
        if seed < mirrored:
            write_scene(folder / label / f"{seed:02}-mirrored.png", scene[:, ::-1])
    return folder


def build(source: Path, work: Path, split: SplitSpec = SPLIT) -> dict[str, dict[str, Any]]:
    """path → row of the ledger."""
    _, manifest = prepare(source, work, image=IMAGE, split=split, files=64, limits=BudgetSpec(leaks=1.0))
    return rows_of(work, manifest)


def test_mirrored_copies_are_kept_in_the_split_of_their_pictures(tmp_path: Path) -> None:
    rows = build(write_source(tmp_path / "photos"), tmp_path / "work")
    assert {row["outcome"] for row in rows.values()} == {"ok"}
    pairs = [(rows[path], rows[path.replace(".png", "-mirrored.png")]) for path in rows if "mirrored" not in path]
    assert all(one["split"] == other["split"] for one, other in pairs)
    assert len({one["split"] for one, _ in pairs}) == 3
    words = {"train": "training", "validation": "validation", "test": "test"}
    for one, other in pairs:
        assert other["reason"] == f"nearly the same picture as '{one['path']}' in {words[one['split']]}"


def test_a_copy_that_comes_later_follows_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, work = write_source(tmp_path / "photos", mirrored=4), tmp_path / "work"
    before = build(source, work)
    seen: list[int] = []

    def search(greys: NDArray[np.uint8], new: NDArray[np.bool_]) -> CopyCandidates:
        seen.append(int(new.sum()))
        return find_copy_candidates(greys, new)

    monkeypatch.setattr(looks, "find_copy_candidates", search)
    for seed in range(4, SCENES):
        write_scene(source / ("cat", "owl")[seed % 2] / f"{seed:02}-part.png", crop_scene(draw_scene(seed), seed, 0.9))
    after = build(source, work)
    assert seen == [SCENES - 4]  # only what is new is compared with all
    assert {path: row["split"] for path, row in after.items() if path in before} == {
        path: row["split"] for path, row in before.items()
    }
    found = [path for path in after if "part" in path and after[path]["reason"]]
    assert len(found) >= SCENES - 5
    assert all(after[path]["split"] == after[path.replace("-part", "")]["split"] for path in found)
    assert after["cat/00-mirrored.png"]["reason"] == before["cat/00-mirrored.png"]["reason"]


def test_where_the_memory_is_lost_all_is_compared_again(tmp_path: Path) -> None:
    source, work = write_source(tmp_path / "photos"), tmp_path / "work"
    before = build(source, work)
    remembered = [entry.path for entry in open_store(str(work)).list("derived/") if entry.path.endswith("-looks.json")]
    assert len(remembered) == 1
    (work / remembered[0]).write_bytes(b"damaged")
    write_scene(source / "cat" / "new.png", draw_scene(99))
    after = build(source, work)
    assert {path: after[path] for path in before} == before


def test_copies_are_left_out_of_the_test_where_that_is_asked_for(tmp_path: Path) -> None:
    split = SPLIT.model_copy(update={"copies": "leave_out"})
    rows = build(write_source(tmp_path / "photos"), tmp_path / "work", split=split)
    leaks = [row for row in rows.values() if row["outcome"] == "leak"]
    assert leaks
    assert all(row["reason"].endswith("in training") and row["split"] != "train" for row in leaks)
    pairs = [(rows[path], rows[path.replace(".png", "-mirrored.png")]) for path in rows if "mirrored" not in path]
    assert not [1 for pair in pairs if {"train"} < {row["split"] for row in pair if row["outcome"] == "ok"}]


def test_nobody_looks_where_that_is_not_asked_for(tmp_path: Path) -> None:
    split = SPLIT.model_copy(update={"copies": None})
    rows = build(write_source(tmp_path / "photos"), tmp_path / "work", split=split)
    assert {row["reason"] for row in rows.values()} == {None}


def test_a_burst_stays_in_one_split_where_that_is_asked_for() -> None:
    paths = [f"cat/{number:02}" for number in range(40)]
    draft, _ = make_decoded(("cat",), {path: (path, "train", None) for path in paths})
    draft.captured[:], draft.camera[:] = np.arange(40) // 8 * 1000 + np.arange(40) % 8, draft.cameras["A"]
    none = np.empty((0, 2), np.int64)
    rows = draft.finish()
    assert set(tie_together(rows, none, SplitSpec()).tolist()) == {-1}
    spec = SplitSpec(validation=0.3, test=0.3, burst=60)
    splits = draw_splits(rows, spec, {}, tie_together(rows, none, spec)).split.reshape(5, 8)
    assert (splits == splits[:, :1]).all()
    assert len(set(splits[:, 0].tolist())) == 3


@given(st.data())
def test_after_drawing_no_copy_of_a_training_image_is_judged_on(data: st.DataObject) -> None:
    paths = [f"{label}/{number}" for label in ("cat", "owl") for number in range(6)]
    draft, _ = make_decoded(("cat", "owl"), {path: (path, "train", None) for path in paths})
    number = st.integers(0, len(paths) - 1)
    pairs = data.draw(
        st.lists(st.tuples(number, number).filter(lambda pair: pair[0] != pair[1]), max_size=7)
    )  # more would be a crowd
    looks_found = np.sort(np.array(pairs, np.int64).reshape(-1, 2), axis=1)
    draft.known[:] = data.draw(st.lists(st.booleans(), min_size=len(paths), max_size=len(paths)))
    draft.split[:] = data.draw(st.lists(st.integers(0, 2), min_size=len(paths), max_size=len(paths)))
    alone = draft.finish()
    tied = tie_together(alone, looks_found, SPLIT)
    rows = mark_looks(draw_splits(alone, SPLIT, {}, tied), looks_found)
    assert (rows.outcome == 0).all()
    assert all(rows.split[one] == rows.split[other] for one, other in looks_found)
    assert Counter(SPLITS[split] for split in rows.split)["train"] > 0
