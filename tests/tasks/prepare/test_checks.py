"""The sums that must come out before anything is published."""

import numpy as np
import pytest
from listings import make_decoded, make_listing

from cnn.dataset.manifest import ShardRef
from cnn.dataset.normalization import set_normalization
from cnn.errors import BudgetError, StorageError
from cnn.images.pixels import sum_levels
from cnn.images.spec import ImageSpec
from tasks.prepare.checks import (
    check_all_listed,
    check_budget,
    count_outcomes,
    describe_ignored,
    describe_quarantine,
    digest_dataset,
)
from tasks.prepare.derive import DerivedShard, ShardSelection
from tasks.prepare.placement import place_rows, select_rows
from tasks.prepare.spec import BudgetSpec
from tasks.prepare.table import DUPLICATE, IGNORED, OK, QUARANTINED, RowsDraft, make_rows


def make_four() -> RowsDraft:
    """Two chunks of the same two pictures, each with one of them left."""
    rows, _ = make_decoded(("owl", "yak"), {f"owl/{name}": (name, "train", None) for name in "abcd"})
    shard = ShardRef(path="shards/x.tfrecord", rows=2, bytes=2, digest="x")
    rows.chunk[:] = [rows.chunks[key] for key in ("two", "two", "one", "one")]
    rows.record[:], rows.record_label[:] = [0, 1, 0, 1], 0
    rows.shards.update({"one": {"train": shard}, "two": {"train": shard}})
    rows.outcome[[1, 2]] = DUPLICATE
    return rows


def test_a_shard_that_two_chunks_share_is_thinned_for_each() -> None:
    rows = make_four()
    parts = select_rows(rows)
    assert [(part.work.chunk, part.work.records, part.as_it_is) for part in parts] == [
        ("one", (1,), False),
        ("two", (0,), False),
    ]
    thin = {
        part.work: DerivedShard(ShardRef(path=f"shards/{part.work.chunk}", rows=1, bytes=1, digest="y"))
        for part in parts
    }
    placed = place_rows(rows, parts, thin, ["key"])
    assert [placed.names.texts[number] if number >= 0 else None for number in placed.shards] == [
        "shards/two",
        None,
        None,
        "shards/one",
    ]
    assert [shard.path for shard in placed.splits["train"]] == ["shards/one", "shards/two"]
    short = {work: DerivedShard(derived.shard.model_copy(update={"rows": 2})) for work, derived in thin.items()}
    same = {work: DerivedShard(ShardRef(path="shards/z", rows=1, bytes=1, digest="z")) for work in thin}
    for wrong in (short, same):
        with pytest.raises(StorageError, match="ledger and shards disagree"):
            place_rows(rows, parts, wrong, [])


def test_another_label_or_copies_ask_for_work() -> None:
    rows = make_four()
    rows.outcome[:] = OK
    assert [part.as_it_is for part in select_rows(rows)] == [True, True]
    rows.record_label[0] = 1
    one, two = select_rows(rows)
    assert (one.as_it_is, two.as_it_is) == (True, False)
    assert one.copies() == ShardSelection("one", "train", one.work.shard, (0, 1), (0, 0), copies=True)


def test_a_file_without_an_outcome_or_listed_twice_is_refused() -> None:
    rows = make_four()
    check_all_listed(rows)
    with pytest.raises(StorageError, match="1 without an outcome"):
        check_all_listed(make_rows(make_listing(["owl/a"]), ("owl",)))
    twice = make_rows(make_listing(["a", "a"]), ())
    with pytest.raises(StorageError, match="1 listed twice"):
        check_all_listed(twice)


def test_every_outcome_is_counted_and_what_is_beside_the_classes_does_not_count_as_lost() -> None:
    inventory = make_listing(["owl/a", "owl/b", "yak/a", "notes.txt", "owl/.x"], {"owl/.x": "hidden"})
    rows = make_rows(inventory, ("owl", "yak")).draft()
    for path, outcome in (("owl/a", OK), ("owl/b", QUARANTINED), ("yak/a", OK)):
        rows.outcome[inventory.column("path").to_pylist().index(path.encode())] = outcome
    rows.split[:] = 0
    rows.reason[inventory.column("path").to_pylist().index(b"owl/b")] = rows.reasons["truncated: oh"]
    assert count_outcomes(rows) == {
        "ok": 2,
        "quarantined": 2,
        "duplicate": 0,
        "conflict": 0,
        "leak": 0,
        "ignored": 1,
    }
    check_budget(rows, ("owl", "yak"), BudgetSpec(quarantined=0.34))
    with pytest.raises(BudgetError, match=r"1 of 3 files are unreadable \(truncated 1\)"):
        check_budget(rows, ("owl", "yak"), BudgetSpec(quarantined=0.33))


def test_reasons_and_rules_are_counted_by_what_the_files_are_and_by_class() -> None:
    paths = ["owl/a", "owl/b", "owl/c", "yak/a", "yak/b", "yak/.c", "owl/.x", "owl/.y", "owl/Thumbs.db", ".git/x"]
    ignored = {
        name: "system" if "Thumbs" in name else "hidden"
        for name in paths
        if "/." in name or name[0] == "." or "Th" in name
    }
    inventory = make_listing(paths, ignored)
    rows = make_rows(inventory, ("owl", "yak")).draft()
    at = {path.decode(): number for number, path in enumerate(inventory.column("path").to_pylist())}
    reasons = {
        "owl/a": "not_an_image: AVI video",
        "owl/b": "not_an_image: git-lfs pointer",
        "owl/c": "not_an_image: git-lfs pointer",
        "yak/a": "unsupported_mode: 13 bands of uint16",
        "yak/b": "unsupported_format: raw (NEF), see image.raw",
    }
    for path, reason in reasons.items():
        rows.outcome[at[path]], rows.reason[at[path]] = QUARANTINED, rows.reasons[reason]
    assert describe_quarantine(rows) == (
        "2 not_an_image: git-lfs pointer, 1 not_an_image: AVI video, "
        "1 unsupported_mode: 13 bands of uint16, "
        "1 unsupported_format: raw (NEF), see image.raw"
    )
    assert describe_ignored(rows, ("owl", "yak")) == (
        "4 hidden ('owl' 2, no class folder 1, 'yak' 1), 1 system ('owl' 1)"
    )
    with pytest.raises(BudgetError, match=r"5 of 5 files are unreadable \(not_an_image: git-lfs pointer 2, "):
        check_budget(rows, ("owl", "yak"), BudgetSpec(quarantined=0.33))
    rows.outcome[rows.outcome == IGNORED] = OK
    assert describe_ignored(rows, ("owl", "yak")) == ""


def test_the_digest_knows_what_was_learnt_from_and_no_history() -> None:
    facts = {f"{label}/{name}": (f"{label}{name}", "train", None) for label in ("owl", "yak") for name in "ab"}
    rows, _ = make_decoded(("owl", "yak"), facts)
    base = digest_dataset(rows, ("owl", "yak"))
    turned, _ = make_decoded(("yak", "owl"), facts)
    assert digest_dataset(turned, ("yak", "owl")) == base
    for name, value in (("split", 1), ("label_id", 1), ("pixels", 5), ("copies", 5), ("digest", 5), ("outcome", 2)):
        other, _ = make_decoded(("owl", "yak"), facts)
        getattr(other, name)[0] = value
        assert digest_dataset(other, ("owl", "yak")) != base


@pytest.mark.parametrize("channels", [1, 3])
def test_standardize_measures_mean_and_deviation(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, channels)).astype(np.uint8)
    spec = ImageSpec(size=(5, 4), channels=3 if channels == 3 else 1, normalize="standardize")
    normalization = set_normalization(spec, [sum_levels(image) for image in images], len(images))
    levels = images.reshape(-1, channels).astype(float)
    assert normalization.mean == pytest.approx(levels.mean(axis=0))
    assert normalization.deviation == pytest.approx(levels.std(axis=0))


def test_symmetric_and_unit_reach_the_ends_of_their_ranges() -> None:
    ends = np.array([[0, 255]], np.uint8)
    for method, low, high in (("symmetric", -1.0, 1.0), ("unit", 0.0, 1.0)):
        normalization = set_normalization(ImageSpec(normalize=method), [], 0)
        assert normalization.apply(ends).tolist() == [[low, high]]
