"""One chunk becomes shards and rows, the same bytes every time."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cnn.dataset.split import SplitSpec, choose_split, find_group
from cnn.dataset.tfrecord import Record, decode_record, digest_shard, iterate_frames
from cnn.digest import seal, unseal
from cnn.errors import IntegrityError
from cnn.formats.content_digest import digest_image_data
from cnn.images.read import read_image
from cnn.images.spec import AugmentSpec, ImageSpec
from infra.storage.store import Store, open_source, open_store
from tasks.files.chunks import cut_by_hash, make_chunk
from tasks.files.listing import list_source
from tasks.prepare.build import BuildTask, build_chunk
from tasks.prepare.chunk_report import ChunkReport, read_chunk_report
from tasks.prepare.spec import BuildSpec
from tasks.prepare.table import make_rows


def write_image(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def make_spec(**changes: Any) -> BuildSpec:
    values: dict[str, Any] = {"image": ImageSpec(size=(8, 8)), "augment": AugmentSpec(), "split": SplitSpec()} | changes
    return BuildSpec(**values)


def build(source: Path, workspace: Path | str, spec: BuildSpec, files: int = 1000) -> list[ChunkReport]:
    """The reports of all chunks of the source, in the order of their keys."""
    inventory, classes = list_source(open_source(str(source))), ("cat", "owl")
    rows_of_all = make_rows(inventory, classes)
    cut, label_ids = cut_by_hash(inventory, rows_of_all.pending(), files), rows_of_all.label_id
    task, store = BuildTask(str(source), str(workspace), spec), open_store(str(workspace))
    chunks = [
        make_chunk(inventory, rows, spec.build_key(), label_ids[rows].tolist())
        for rows in map(cut.rows_of, range(len(cut)))
    ]
    return [read_chunk_report(store, build_chunk(chunk, task).key) for chunk in chunks]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(12):
        write_image(folder / ("cat" if number % 2 else "owl") / f"{number}.png", number)
    return folder


def read_records(store: Store, reports: Iterable[ChunkReport]) -> Iterator[tuple[str, Record]]:
    for report in reports:
        for split, shard in report.shards.items():
            data = store.read(shard.path)
            assert len(data) == shard.bytes
            assert digest_shard(data) == shard.digest
            for start, end in iterate_frames(data):
                yield split, decode_record(data[start:end])


def flip_bit(body: bytes, position: int) -> bytes:
    return body[:position] + bytes([body[position] ^ 1]) + body[position + 1 :]


def test_shards_hold_the_pixels_that_decoding_gives(source: Path, tmp_path: Path) -> None:
    spec, store = make_spec(), open_store(str(tmp_path / "work"))
    records = list(read_records(store, build(source, tmp_path / "work", spec)))
    assert len(records) == 12
    files = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in source.rglob("*.png")}
    for split, record in records:
        path = files[record.key]
        assert record.image == read_image(path.read_bytes(), spec.image).pixels.tobytes()
        assert record.label == ("cat", "owl").index(path.parent.name)
        key = digest_image_data(path.read_bytes(), record.key).hex()
        assert split == choose_split(key, None, spec.split)


def test_jpeg_shards_hold_jpegs(source: Path, tmp_path: Path) -> None:
    spec = make_spec(image=ImageSpec(size=(32, 32), encoding="jpeg"))
    store = open_store(str(tmp_path / "work"))
    for _, record in read_records(store, build(source, tmp_path / "work", spec)):
        assert Image.open(io.BytesIO(record.image)).size == (32, 32)


def test_the_same_files_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    spec = make_spec()
    first = build(source, tmp_path / "one", spec, files=5)
    again = build(source, tmp_path / "two", spec, files=5)
    assert len(first) > 1
    assert first == again


def test_bad_files_become_rows_and_cost_nothing_else(source: Path, tmp_path: Path) -> None:
    good = (source / "cat" / "1.png").read_bytes()
    (source / "cat" / "cut.png").write_bytes(good[: len(good) // 2])
    (source / "cat" / "empty.jpg").write_bytes(b"")
    (source / "owl" / "note.jpg").write_text("no picture")
    report = build(source, tmp_path / "work", make_spec())[0]
    rows = {row["path"].decode(): row for row in report.table.to_pylist()}
    assert [row["outcome"] for row in rows.values()].count("quarantined") == 3
    assert len(rows) == 15
    assert rows["cat/cut.png"]["reason"].startswith("truncated")
    assert rows["cat/empty.jpg"]["reason"] == "empty_file"
    assert rows["owl/note.jpg"]["reason"] == "not_an_image"
    assert rows["owl/note.jpg"]["digest"] == hashlib.sha256(b"no picture").digest()
    assert (rows["cat/1.png"]["width"], rows["cat/1.png"]["height"]) == (30, 40)


def test_a_damaged_report_is_found(source: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "work"))
    report = build(source, tmp_path / "work", make_spec())[0]
    place = tmp_path / "work" / "chunks" / f"{report.key}.arrow"
    body = place.read_bytes()
    for damaged in (body[:-9], b"", *(flip_bit(body, position) for position in range(0, len(body), 101))):
        place.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=report.key):
            read_chunk_report(store, report.key)


@given(st.integers(0, 10**6))
def test_splits_have_about_the_shares_asked_for(seed: int) -> None:
    spec = SplitSpec(validation=0.2, test=0.3, seed=seed)
    chosen = [choose_split(hashlib.sha256(bytes([n % 256, n // 256])).hexdigest(), None, spec) for n in range(400)]
    assert abs(chosen.count("test") / 400 - 0.3) < 0.15  # more than six standard deviations
    assert abs(chosen.count("validation") / 400 - 0.2) < 0.15


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_group_stays_in_one_split(one: str, two: str) -> None:
    spec = SplitSpec(validation=0.3, test=0.3)
    assert choose_split(one, "camera-7", spec) == choose_split(two, "camera-7", spec)


@pytest.mark.parametrize(
    ("pattern", "group"),
    [(None, None), (r"cam\d+", "cam7"), (r"cam(\d+)", "7"), (r"(x)?cam", "cam"), (r"dog", None)],
)
def test_groups_come_from_the_path(pattern: str | None, group: str | None) -> None:
    assert find_group("owl/cam7/a.jpg", pattern) == group


def test_normalization_and_augmentation_change_no_chunk() -> None:
    base = make_spec().build_key()
    assert make_spec(image=ImageSpec(size=(8, 8), normalize="unit")).build_key() == base
    assert make_spec(augment=AugmentSpec(rotate=45)).build_key() == base
    assert make_spec(augment=AugmentSpec(copies=1)).build_key() == base
    assert make_spec(image=ImageSpec(size=(8, 9))).build_key() != base
    assert make_spec(split=SplitSpec(seed=1)).build_key() != base


def test_a_photograph_row_says_when_and_with_what_it_was_taken(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271], exif[272], exif[306] = "Reconyx", "HP2X", "2024:05:31 06:32:09"
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "photos" / "cat" / "0.jpg", exif=exif)
    (report,) = build(tmp_path / "photos", tmp_path / "work", make_spec())
    (row,) = report.table.select(["captured", "camera"]).to_pylist()
    assert row == {"captured": 1_717_137_129, "camera": "Reconyx HP2X"}


def test_reports_of_older_releases_are_read_without_capture(source: Path, tmp_path: Path) -> None:
    (report,) = build(source, tmp_path / "work", make_spec())
    path = tmp_path / "work" / "chunks" / f"{report.key}.arrow"
    older = report.table.drop_columns(["captured", "camera"]).replace_schema_metadata(
        pa.ipc.open_stream(unseal(path.read_bytes())).schema.metadata
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, older.schema) as writer:
        writer.write_table(older)
    path.write_bytes(seal(sink.getvalue().to_pybytes()))
    found = read_chunk_report(open_store(str(tmp_path / "work")), report.key).table
    assert found.drop_columns(["captured", "camera"]).equals(older)
    assert found.column("camera").null_count == found.column("captured").null_count == len(found)
