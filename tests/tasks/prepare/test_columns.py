"""Columns of a user's table in a dataset version: groups that stay together, values that are kept, nothing decoded."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import Prepared, make_job, prepare, rows_of, run_job, write_photos

from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SplitSpec
from cnn.errors import SourceError
from infra.storage.store import open_store
from tasks.dataset.rebuild import read_recorded
from tasks.files.image_table import TableRequest
from tasks.prepare.spec import BuildSpec

SPLIT = SplitSpec(validation=0.2, test=0.2, group="column:site")
SITE = TableRequest("images.csv", None, ("site",))


def name_site(path: str) -> str:
    return f"s{int(Path(path).stem) % 12:02}"


def write_table(source: Path, name: Callable[[str], str | None] = name_site) -> None:
    """A row with a site for each photo; None leaves the row out."""
    paths = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    sites = {path: name(path) for path in paths}
    lines = [f"{path},{site}" for path, site in sites.items() if site is not None]
    (source / "images.csv").write_text("\n".join(["path,site", *lines]) + "\n")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_photos(tmp_path / "photos")
    write_table(folder)
    return folder


def list_splits(workspace: Path, manifest: Manifest) -> dict[str, set[str]]:
    """group → the splits of its images."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows_of(workspace, manifest).values():
        if row["group"] is not None:
            found[row["group"]].add(row["split"])
    return found


def list_decoded(done: Prepared) -> int:
    return sum(chunk.files for chunk in done.built.chunks)


def test_images_of_one_value_stay_in_one_split(source: Path, tmp_path: Path) -> None:
    done, manifest = prepare(source, tmp_path / "work", split=SPLIT, table=SITE)
    groups = list_splits(tmp_path / "work", manifest)
    assert set(groups) == {f"s{number:02}" for number in range(12)}
    assert all(len(splits) == 1 for splits in groups.values())
    assert set().union(*groups.values()) == {"train", "validation", "test"}
    rows = rows_of(tmp_path / "work", manifest)
    assert json.loads(rows["bat/00.png"]["table_values"]) == {"site": "s00"}
    assert "images.csv" in rows
    assert rows["images.csv"]["table_values"] is None
    assert done.plan.values is not None
    assert done.plan.values.notes == (f"60 of 60 images have a row in {source}/images.csv (by path, column 'path')",)


def test_nothing_changes_for_those_without_a_table(source: Path, tmp_path: Path) -> None:
    _, manifest = prepare(source, tmp_path / "work")
    import pyarrow.parquet as pq

    names = pq.read_schema(tmp_path / "work" / manifest.ledger.path).names
    assert "table_values" not in names
    spec = make_job(source, tmp_path / "work").spec
    assert spec.build_key() == manifest.build


def test_a_column_that_is_named_or_changed_decodes_nothing(source: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    _, plain = prepare(source, workspace)
    (source / "bat" / "00.png").rename(source / "bat" / "60.png")
    write_table(source)
    done, grouped = prepare(source, workspace, split=SPLIT, table=SITE)
    assert (list_decoded(done), grouped.dataset == plain.dataset) == (0, False)
    fresh = prepare(source, tmp_path / "fresh", split=SPLIT, table=SITE)[1]
    assert (fresh.digest, fresh.images) == (grouped.digest, grouped.images)  # the version before leaves no trace

    again, same = prepare(source, workspace, split=SPLIT, table=SITE)
    assert (again.plan.recognised, same.dataset) == (True, grouped.dataset)

    write_table(source, lambda path: "new" if path == "bat/60.png" else name_site(path))
    done, changed = prepare(source, workspace, split=SPLIT, table=SITE)
    assert (list_decoded(done), changed.dataset == grouped.dataset) == (0, False)
    groups, before = list_splits(workspace, changed), list_splits(workspace, grouped)
    assert all(len(splits) == 1 for splits in groups.values())
    assert {name: splits for name, splits in groups.items() if name != "new"} == before  # no old group has moved

    (source / "images.csv").write_text((source / "images.csv").read_text() + "cat/99.png,far away\n")
    done, same = prepare(source, workspace, split=SPLIT, table=SITE)
    assert (done.plan.unchanged, same) == (True, changed)  # a row about no image of the source is no change


def test_the_table_taken_away_takes_its_values_along(source: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    _, plain = prepare(source, workspace)
    prepare(source, workspace, split=SPLIT, table=SITE)
    done, after = prepare(source, workspace)
    assert list_decoded(done) == 0
    assert (after.digest, after.build) == (plain.digest, plain.build)
    assert all(row["group"] is None for row in rows_of(workspace, after).values())


def test_values_of_slices_are_kept_and_move_nothing(source: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    _, plain = prepare(source, workspace)
    done, sliced = prepare(source, workspace, table=SITE)
    assert (list_decoded(done), sliced.digest) == (0, plain.digest)
    rows = rows_of(workspace, sliced).values()
    assert all(row["group"] is None and row["table_values"] for row in rows if row["outcome"] == "ok")


def test_images_without_a_value_are_told_and_drawn_one_by_one(source: Path, tmp_path: Path) -> None:
    write_table(source, lambda path: None if path < "bat/10" else "" if path.startswith("owl/0") else name_site(path))
    done, manifest = prepare(source, tmp_path / "work", split=SPLIT, table=SITE)
    assert done.plan.values is not None
    _, missing, empty, way_out = done.plan.values.notes
    assert missing == "4 images have no row in it, such as 'bat/00.png', 'bat/03.png', 'bat/06.png'"
    assert empty == "3 images have nothing in column 'site': 'owl/02.png', 'owl/05.png', 'owl/08.png'"
    assert way_out == "an image without a value is a group of its own (split.group)"
    rows = rows_of(tmp_path / "work", manifest)
    assert (rows["bat/00.png"]["group"], rows["owl/02.png"]["group"]) == (None, None)
    assert all(len(splits) == 1 for splits in list_splits(tmp_path / "work", manifest).values())


def test_a_version_is_made_again_with_what_the_table_said(source: Path, tmp_path: Path) -> None:
    _, manifest = prepare(source, tmp_path / "work", split=SPLIT, table=SITE)
    recorded = read_recorded(open_store(str(tmp_path / "work")), manifest)
    write_table(source, lambda path: f"t{int(Path(path).stem) % 7}")
    job = make_job(source, tmp_path / "again", split=SPLIT, table=SITE)
    again = run_job(replace(job, recorded=recorded)).manifest
    assert again.digest == manifest.digest
    assert list_splits(tmp_path / "again", again) == list_splits(tmp_path / "work", manifest)


def test_a_table_about_other_images_publishes_nothing(source: Path, tmp_path: Path) -> None:
    (source / "images.csv").write_text("path,site\nelsewhere/x.png,A\n")
    with pytest.raises(SourceError, match=r"no row of .*images\.csv names an image of the source"):
        prepare(source, tmp_path / "work", split=SPLIT, table=SITE)
    assert not (tmp_path / "work" / "datasets").exists()


@settings(max_examples=15, deadline=None)
@given(group=st.sampled_from(["column:site", "column: site ", "column:x"]), seed=st.integers(0, 3))
def test_chunks_do_not_hang_on_the_column(group: str, seed: int) -> None:
    def make(**split: Any) -> str:
        from cnn.images.spec import AugmentSpec, ImageSpec

        spec = SplitSpec(seed=seed, **split)
        return BuildSpec(image=ImageSpec(size=(8, 8)), augment=AugmentSpec(), split=spec).build_key()

    assert make(group=group) == make()
    assert make(group="site") != make()


@pytest.mark.integration
def test_a_table_on_s3_is_read_and_never_written(source: Path, tmp_path: Path, s3_bucket: str) -> None:
    store = open_store(f"{s3_bucket}/photos")
    for path in filter(Path.is_file, source.rglob("*")):
        store.write(path.relative_to(source).as_posix(), path.read_bytes())
    before = {entry.path: entry.modified for entry in store.list()}
    _, near = prepare(source, tmp_path / "near", split=SPLIT, table=SITE)
    _, far = prepare(store.uri, tmp_path / "far", split=SPLIT, table=SITE)
    assert far.digest == near.digest
    assert list_splits(tmp_path / "far", far) == list_splits(tmp_path / "near", near)
    address = replace(SITE, address=f"{s3_bucket}/photos/images.csv")
    _, beside = prepare(source, tmp_path / "near", split=SPLIT, table=address)
    assert beside == near
    assert {entry.path: entry.modified for entry in store.list()} == before
    with pytest.raises(SourceError, match=rf"source.table cannot be read: {s3_bucket}/none.csv \("):
        prepare(source, tmp_path / "near", split=SPLIT, table=replace(SITE, address=f"{s3_bucket}/none.csv"))
