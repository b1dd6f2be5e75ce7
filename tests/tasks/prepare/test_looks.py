"""Copies by their look stay in one split, from night to night."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listings import make_decoded
from numpy.typing import NDArray
from planted_copies import crop_scene, draw_scene, write_scene
from steps import prepare, rows_of

from cnn.dataset.copy_search import CopyCandidates, find_copy_candidates
from cnn.dataset.split import SPLITS, SplitSettings, SplitSpec
from cnn.images.spec import ImageSpec
from infra.storage.store import open_store
from tasks.prepare import looks
from tasks.prepare.keep_splits import draw_splits
from tasks.prepare.looks import describe_looks, mark_looks, tie_together
from tasks.prepare.spec import BudgetSpec
from tasks.prepare.table import LEAK, OK, Rows

IMAGE, SPLIT = ImageSpec(size=(64, 64)), SplitSpec(validation=0.2, test=0.3, copies="together")
UNASKED = SplitSettings(validation=0.2, test=0.3).resolve()
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


def test_copies_are_kept_together_where_nothing_is_set(tmp_path: Path) -> None:
    rows = build(write_source(tmp_path / "photos"), tmp_path / "work", split=UNASKED)
    pairs = [(rows[path], rows[path.replace(".png", "-mirrored.png")]) for path in rows if "mirrored" not in path]
    assert all(one["split"] == other["split"] and other["reason"] for one, other in pairs)


def test_an_image_that_has_its_split_stays_there_where_nothing_is_set(tmp_path: Path) -> None:
    """As in a workspace of a release that did not look for copies: its test images are not learnt from all at once."""
    source, work = write_source(tmp_path / "photos", mirrored=8), tmp_path / "work"
    before = build(source, work, split=SplitSettings(validation=0.2, test=0.3, copies="ignore").resolve())
    assert {row["reason"] for row in before.values()} == {None}
    for seed in range(8, SCENES):
        write_scene(source / ("cat", "owl")[seed % 2] / f"{seed:02}-mirrored.png", draw_scene(seed)[:, ::-1])
    after = build(source, work, split=UNASKED)
    assert {path: after[path]["split"] for path in before} == {path: row["split"] for path, row in before.items()}
    assert {row["outcome"] for row in after.values()} == {"ok"}
    new = [path for path in after if path not in before]
    assert all(after[path]["split"] == after[path.replace("-mirrored", "")]["split"] for path in new)
    apart = [path for path in before if "mirrored" in path and "training" in str(after[path]["reason"])]
    assert any(before[path]["split"] != "train" for path in apart)  # they are named, for the leak certificate


def test_among_very_many_nobody_looks_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(looks, "MOST_UNASKED", 10)
    source = write_source(tmp_path / "photos", mirrored=4)
    rows = build(source, tmp_path / "work", split=UNASKED)
    assert {row["reason"] for row in rows.values()} == {None}
    assert "not looked for among 20 images" in caplog.text
    rows = build(source, tmp_path / "other")
    assert sum(row["reason"] is not None for row in rows.values()) == 8


@pytest.mark.parametrize("copies", ["auto", "together", "leave_out", "ignore"])
def test_a_rule_reaches_the_dataset(copies: Literal["auto", "together", "leave_out", "ignore"]) -> None:
    kept = SplitSettings(copies=copies).resolve()
    assert kept.copies == (None if copies == "ignore" else copies)
    assert SplitSpec.model_validate(kept.model_dump()) == kept
    assert SplitSettings.model_validate(SplitSettings(copies=copies).model_dump()).copies == copies


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


def make_frames(count: int) -> tuple[Rows, NDArray[np.int64]]:
    """100 images of each of two classes, of which the first `count` are frames of a camera that stands still."""
    paths = [f"{label}/{number:03}" for label in ("cat", "owl") for number in range(100)]
    draft, _ = make_decoded(("cat", "owl"), {path: (path, "train", None) for path in paths})
    draft.split[::3] = SPLITS.index("test")
    return draft.finish(), np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)


def test_frames_of_a_still_camera_neither_fill_a_split_nor_go_out_where_nothing_is_set() -> None:
    rows, pairs = make_frames(60)
    assert (tie_together(rows, pairs, UNASKED) == -1).all()
    marked = mark_looks(rows, pairs, "auto")
    assert (marked.outcome == OK).all()
    kept, lost = describe_looks(marked)
    assert "images have a copy by their look, and are in one split with it" in kept
    assert "images have a copy by their look in another split" in lost
    assert "too many of their class" in lost
    asked = mark_looks(rows, pairs, "together")
    assert (asked.outcome == LEAK).sum() == 20
    assert set(asked.split[asked.outcome == LEAK]) == {SPLITS.index("test")}


def test_up_to_eight_copies_or_a_twentieth_of_a_class_stay_together_where_nothing_is_set() -> None:
    for count, tied in ((8, 8), (9, 0)):
        rows, pairs = make_frames(count)
        assert (tie_together(rows, pairs, UNASKED) >= 0).sum() == tied
    rows, pairs = make_frames(25)
    assert (tie_together(rows, pairs, SPLIT) >= 0).sum() == 25
    assert (tie_together(rows, pairs, SplitSpec()) == -1).all()


def test_a_pair_of_copies_is_named_once_and_not_where_their_owner_divided_them() -> None:
    draft, _ = make_decoded(("cat",), {f"cat/{name}": (name, "train", None) for name in "abcd"})
    rows = mark_looks(draft.finish(), np.array([[0, 1], [2, 3]]), "auto")
    (line,) = describe_looks(rows)
    assert line.startswith("4 images have a copy by their look, and are in one split with it: ")
    assert line.endswith(": 'cat/a' and 'cat/b', 'cat/c' and 'cat/d'")
    draft = rows.draft("split", "given")
    draft.split[:2], draft.given[:2] = SPLITS.index("test"), SPLITS.index("test")
    draft.given[2:] = SPLITS.index("train")
    divided = mark_looks(draft.finish(), np.array([[0, 2], [1, 3]]), "auto")
    assert describe_looks(divided) == []


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
    rows = mark_looks(draw_splits(alone, SPLIT, {}, tied), looks_found, "together")
    assert (rows.outcome == 0).all()
    assert all(rows.split[one] == rows.split[other] for one, other in looks_found)
    assert Counter(SPLITS[split] for split in rows.split)["train"] > 0
