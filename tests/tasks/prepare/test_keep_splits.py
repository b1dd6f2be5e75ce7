"""Few images a class, groups, and what the version before says."""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from listings import make_decoded
from steps import prepare, rows_of, write_image, write_photos

from cnn.dataset.manifest import LedgerRef, Manifest
from cnn.dataset.split import SPLITS, SplitSpec, choose_split
from infra.storage.layout import manifest_path
from infra.storage.store import open_store
from tasks.dataset.ledger import ADDED
from tasks.dataset.version import LatestVersion, point_to_version, read_ledger
from tasks.prepare.keep_splits import draw_splits
from tasks.prepare.table import Rows

SPEC = SplitSpec()


def draw(paths: list[str], spec: SplitSpec = SPEC, before: dict[str, str] | None = None) -> dict[str, str]:
    """path → split of files, each a picture of its own, where `before` says in which split some were."""
    drawn = make_drawn(paths, spec, before or {})
    names = [drawn.groups.texts[group] if group >= 0 else None for group in drawn.group.tolist()]
    memory = {
        name: split
        for name, split, known in zip(names, drawn.split.tolist(), drawn.known, strict=True)
        if name and known
    }
    rows = draw_splits(drawn, spec, memory)
    return {path: SPLITS[split] for path, split in zip(sorted(paths), rows.split.tolist(), strict=True)}


def make_drawn(paths: list[str], spec: SplitSpec, before: dict[str, str]) -> Rows:
    classes = sorted({path.split("/")[0] for path in paths})
    rows, _ = make_decoded(classes, {path: (path, "train", None) for path in paths})
    for row, path in enumerate(sorted(paths)):
        group = re.search(spec.group, path) if spec.group else None
        rows.group[row] = rows.groups[group[0]] if group else -1
        drawn = choose_split(rows.image_key[row].tobytes().hex(), group[0] if group else None, spec)
        rows.split[row] = SPLITS.index(before.get(path, drawn))
        rows.known[row] = path in before
    return rows.finish()


def name_files(counts: list[int]) -> list[str]:
    return [f"{label:03}/{number}" for label, count in enumerate(counts) for number in range(count)]


def count_splits(drawn: dict[str, str]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for path, split in drawn.items():
        counts.setdefault(path.split("/")[0], Counter())[split] += 1
    return counts


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(0, 1000))
def test_each_class_has_a_training_then_a_test_then_a_validation_image(counts: list[int], seed: int) -> None:
    spec = SplitSpec(validation=0.1, test=0.1, seed=seed)
    found = count_splits(draw(name_files(counts), spec))
    for label, count in enumerate(counts):
        have = found[f"{label:03}"]
        assert (have["train"] > 0, have["test"] > 0, have["validation"] > 0) == (True, count > 1, count > 2)


def test_a_split_that_was_not_asked_for_stays_empty() -> None:
    found = count_splits(draw(name_files([3] * 50), SplitSpec(validation=0.0, test=0.2)))
    assert all(have["train"] and have["test"] and not have["validation"] for have in found.values())


@settings(max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_as_data_grow_no_image_moves(counts: list[int], added: list[int]) -> None:
    """Not even one: what the version before says stays, unless the class had to do without that split."""
    before = draw(name_files(counts))
    for label in added:
        if label < len(counts):
            counts[label] += 1
            after = draw(name_files(counts), before=before)
            have = count_splits(before)[f"{label:03}"]
            moved = {path for path, split in before.items() if after[path] != split}
            assert not moved or min(have["train"], have["test"], have["validation"]) == 0
            assert not [path for path in moved if before[path] == "test"]
            before = after


def test_what_was_trained_on_is_tested_on_only_where_nothing_else_is_there() -> None:
    before = {f"a/{number}": "train" for number in range(5)}
    grown = draw([*before, "a/new"], before=before)
    assert grown == before | {"a/new": "test", grown_validation(grown): "validation"}
    assert Counter(draw(list(before), before=before).values()) == Counter(train=3, test=1, validation=1)


def grown_validation(drawn: dict[str, str]) -> str:
    return next(path for path, split in drawn.items() if split == "validation")


@given(st.integers(0, 300), st.integers(2, 6), st.integers(1, 4))
def test_groups_stay_whole(seed: int, groups: int, size: int) -> None:
    """Those of one class move as a whole; those of several are not moved for a test image's sake."""
    spec = SplitSpec(seed=seed, group=r"g\d+")
    own = [f"a/g{group}-{number}" for group in range(groups) for number in range(size)]
    shared = [f"{label}/g{10 + group}-{number}" for label in "bc" for group in range(groups) for number in range(size)]
    drawn = draw(own + shared, spec)
    split_of: dict[str, set[str]] = {}
    for path, split in drawn.items():
        split_of.setdefault(path.split("/")[1].split("-")[0], set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())
    have = count_splits(drawn)
    assert (have["a"]["train"] > 0, have["a"]["test"] > 0, have["a"]["validation"] > 0) == (True, True, groups > 2)
    assert have["b"]["train"] > 0
    assert have["c"]["train"] > 0


@given(st.integers(0, 300), st.integers(3, 6))
def test_few_groups_of_all_classes_leave_none_of_the_splits_empty_and_training_the_most(seed: int, groups: int) -> None:
    paths = [f"{label}/g{group}-{number}" for label in "abc" for group in range(groups) for number in range(4)]
    spec = SplitSpec(seed=seed, group=r"g\d+")
    drawn = draw(paths, spec)
    have = Counter(drawn.values())
    assert have["test"] > 0
    assert have["train"] >= 0.5 * len(paths)
    assert groups < 5 or have["test"] > 12 or have["validation"] > 0
    more = [f"a/g{10 + group}-0" for group in range(3)]
    grown = draw([*paths, *more], spec, before=drawn)
    assert {path: grown[path] for path in paths} == drawn


def test_of_five_hundred_classes_of_three_images_each_is_in_every_split() -> None:
    found = count_splits(draw(name_files([3] * 500)))
    assert all(have == Counter(train=1, validation=1, test=1) for have in found.values())


def test_classes_of_three_images_are_prepared_whole(tmp_path: Path) -> None:
    for label in range(60):
        for number in range(3):
            write_image(tmp_path / "photos" / f"{label:03}" / f"{number}.png", label * 3 + number, (8, 8))
    _, manifest = prepare(tmp_path / "photos", tmp_path / "work", files=64)
    assert manifest.images == {"train": 60, "validation": 60, "test": 60}
    assert manifest.outcomes["ok"] == 180
    rows = rows_of(tmp_path / "work", manifest)
    assert set(count_splits({path: row["split"] for path, row in rows.items()})["007"].values()) == {1}
    moved = [row for row in rows.values() if row["split"] != row["record_split"]]
    assert moved
    assert np.unique([row["shard"] for row in moved]).size <= len(manifest.chunks) * 9


def publish_older(workspace: Path, manifest: Manifest, splits: dict[str, str]) -> None:
    """Put a version of an older release in place of one: without image keys, and with these splits."""
    store = open_store(str(workspace))
    table = read_ledger(store, manifest)
    told = pa.array([splits[path] for path in table.column("path").to_pylist()])
    table = table.set_column(table.column_names.index("split"), "split", told).drop_columns(list(ADDED))
    pq.write_table(table, workspace / "older.parquet", write_page_checksum=True)
    body = (workspace / "older.parquet").read_bytes()
    facts: dict[str, Any] = {"build": "older", "dataset": "", "chunks": {}}
    facts["ledger"] = LedgerRef(path="", rows=len(table), sha256=hashlib.sha256(body).hexdigest())
    older = manifest.model_copy(update=facts)
    name = f"photos-{older.digest_of_content()[:12]}"
    path = f"datasets/{name}/ledger.parquet"
    older = older.model_copy(update={"dataset": name, "ledger": older.ledger.model_copy(update={"path": path})})
    store.write(path, body)
    store.write(manifest_path(name), older.to_json().encode())
    point_to_version(store, manifest.source, LatestVersion(name))


def test_files_stay_in_the_split_that_an_older_release_gave_them(tmp_path: Path) -> None:
    source = write_photos(tmp_path / "photos")
    _, first = prepare(source, tmp_path / "work")
    before = {path: row["split"] for path, row in rows_of(tmp_path / "work", first).items()}
    turned = {path: {"train": "test", "test": "train"}.get(split, split) for path, split in before.items()}
    publish_older(tmp_path / "work", first, turned)
    done, second = prepare(source, tmp_path / "work")
    assert not done.plan.unchanged
    assert {path: row["split"] for path, row in rows_of(tmp_path / "work", second).items()} == turned
    publish_older(tmp_path / "work", first, turned)
    seed = SplitSpec(validation=0.2, test=0.2, seed=1)
    _, third = prepare(source, tmp_path / "work", split=seed)
    _, fresh = prepare(source, tmp_path / "fresh", split=seed)
    assert third.digest == fresh.digest  # asked for differently: nothing is recalled


def test_a_new_file_of_a_known_group_follows_the_group(tmp_path: Path) -> None:
    """Whose split the hash did not choose: it was moved, as the only one that its class could spare."""
    source = write_photos(tmp_path / "photos", 30)
    for number, path in enumerate(sorted((source / "bat").iterdir())):
        path.rename(path.with_name(f"site-{number % 2}-{path.name}"))
    spec = next(spec for spec in map(make_grouped, range(99)) if drawn_alike(spec))
    _, first = prepare(source, tmp_path / "work", split=spec)
    rows = rows_of(tmp_path / "work", first)
    moved = next(row["group"] for row in rows.values() if row["split"] == "test" != row["record_split"])
    write_image(source / "bat" / f"{moved}-new.png", 999)
    _, second = prepare(source, tmp_path / "work", split=spec)
    after = rows_of(tmp_path / "work", second)
    assert after[f"bat/{moved}-new.png"]["split"] == "test"
    assert all(after[path]["split"] == row["split"] for path, row in rows.items())


def test_a_copy_in_another_group_does_not_take_its_group_along(tmp_path: Path) -> None:
    """A copy has the split of the file that it is a copy of: that says nothing of where its own group is."""
    source, spec = tmp_path / "photos", SplitSpec(validation=0.2, test=0.2, group=r"site-\d\d")
    for number in range(60):
        write_image(source / ("bat", "owl")[number % 2] / f"site-{number % 30:02}-{number:02}.png", number)
    _, first = prepare(source, tmp_path / "work", split=spec)
    before = {path: row["split"] for path, row in rows_of(tmp_path / "work", first).items()}
    tested = next(path for path, split in before.items() if split == "test")
    trained = [path for path, split in before.items() if split == "train" and path > tested]
    copies = {f"{path.rpartition('-')[0]}-z.png" for path in trained if path.startswith(tested.split("/")[0])}
    for copy in copies:  # the last file of each group
        (source / copy).write_bytes((source / tested).read_bytes())
    _, second = prepare(source, tmp_path / "work", split=spec)
    assert second.outcomes["duplicate"] == len(copies) > 0
    write_image(source / "bat" / "site-00-new.png", 999)
    _, third = prepare(source, tmp_path / "work", split=spec)
    after = rows_of(tmp_path / "work", third)
    assert {path: after[path]["split"] for path in before} == before


def test_a_group_that_lies_in_a_folder_for_validation_too_stays_where_its_training_images_were_drawn(
    tmp_path: Path,
) -> None:
    """Also where the hash draws another split than the one that it came to for want of test images."""
    source = tmp_path / "photos"
    for number in range(12):
        label, site = ("bat", "owl")[number % 2], number // 4
        write_image(source / "train" / label / f"site-{site}-{number:02}.png", number)
        write_image(source / "val" / label / f"site-{site}-{number + 50:02}.png", number + 50)
    for label in ("bat", "owl"):  # a group of one class alone can be moved
        write_image(source / "train" / label / f"site-{label}-1.png", len(label) + ord(label[0]))
        write_image(source / "val" / label / f"site-{label}-2.png", len(label) + ord(label[1]) + 200)
    spec = SplitSpec(validation=0.2, test=0.01, group=r"site-\w+", seed=0)
    _, first = prepare(source, tmp_path / "work", split=spec)
    rows = rows_of(tmp_path / "work", first)
    moved = {path for path, row in rows.items() if row["split"] == "test" != row["record_split"]}
    assert moved
    write_image(source / "train" / "bat" / "alone.png", 999)
    _, second = prepare(source, tmp_path / "work", split=spec)
    after = rows_of(tmp_path / "work", second)
    assert {path for path, row in after.items() if row["split"] == "test"} >= moved


def make_grouped(seed: int) -> SplitSpec:
    return SplitSpec(validation=0.2, test=0.2, group=r"site-\d", seed=seed)


def drawn_alike(spec: SplitSpec) -> bool:
    return all(choose_split("", f"site-{number}", spec) == "train" for number in range(2))
