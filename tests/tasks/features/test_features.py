"""Features: of the image and its mirror, the same bytes however they are computed, and nothing computed twice."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_steps import FEATURES, compute_tiny, describe_tiny, plan_tiny, put_backbone
from numpy.typing import NDArray
from steps import prepare, write_image, write_photos

from cnn.dataset.feature_block import decode_block, pack_keys
from cnn.dataset.loader import open_shard, open_split
from cnn.dataset.manifest import Manifest
from cnn.dataset.split import SPLITS
from cnn.errors import IntegrityError
from cnn.images.spec import AugmentSpec, ImageSpec
from cnn.inference.onnx import open_session, run_outputs
from infra.storage.layout import backbone_path, backbone_record_path
from infra.storage.store import Store, open_store
from tasks.features.backbone import find_backbone_record, load_backbone
from tasks.features.read import read_features


def make_dataset(folder: Path, **changes: Any) -> tuple[Store, Manifest]:
    """60 photographs in a prepared workspace with a tiny backbone."""
    _, manifest = prepare(write_photos(folder / "photos"), folder / "work", **changes)
    store = open_store(str(folder / "work"))
    put_backbone(store, manifest.image, folder)
    return store, manifest


def look_at_blocks(store: Store) -> dict[str, bytes]:
    return {entry.path: store.read(entry.path) for entry in store.list("features/")}


def see(store: Store, manifest: Manifest, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    record = find_backbone_record(store, describe_tiny(manifest.image))
    assert record is not None
    session = open_session(store.read(backbone_path(record.sha256)))
    return run_outputs(session, images, ("features",))["features"]


@pytest.mark.parametrize("changes", [{}, {"image": ImageSpec(size=(8, 8), encoding="jpeg")}], ids=["raw", "jpeg"])
def test_features_of_image_and_mirror_in_the_order_of_the_split(tmp_path: Path, changes: dict[str, object]) -> None:
    store, manifest = make_dataset(tmp_path, augment=AugmentSpec(copies=2), **changes)
    assert sum(block.images for block in compute_tiny(store, manifest)) == 60
    for split in SPLITS:
        shards = open_split(manifest, split, store.root)
        rows = np.flatnonzero(shards.copies == 0)
        images, labels = shards.batch(rows)
        found = read_features(store, manifest, split, describe_tiny(manifest.image))
        assert found.keys == [shards.keys()[row] for row in rows]
        assert np.array_equal(found.labels, labels)
        assert (found.features.dtype.name, found.features.shape) == ("float16", (len(rows), 2, FEATURES))
        assert found.features[:, 0] == pytest.approx(see(store, manifest, images), rel=2e-3, abs=1e-6)
        assert found.features[:, 1] == pytest.approx(see(store, manifest, images[:, :, ::-1]), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_bytes_are_the_same_for_threads_and_for_any_number_of_workers(tmp_path: Path, workers: int | None) -> None:
    store, manifest = make_dataset(tmp_path)
    compute_tiny(store, manifest)
    expected = look_at_blocks(store)
    assert len(expected) > 3
    for path in expected:
        store.delete(path)
    compute_tiny(store, manifest, workers)
    assert look_at_blocks(store) == expected


def test_only_what_is_new_is_computed(tmp_path: Path) -> None:
    store, manifest = make_dataset(tmp_path)
    compute_tiny(store, manifest)
    before = look_at_blocks(store)
    assert compute_tiny(store, manifest) == []
    write_image(tmp_path / "photos/cat/new.png", 1000)
    (tmp_path / "photos/bat/00.png").rename(tmp_path / "photos/bat/renamed.png")
    _, following = prepare(tmp_path / "photos", tmp_path / "work")
    assert following.dataset != manifest.dataset
    assert [block.images for block in compute_tiny(store, following)] == [1]
    after = look_at_blocks(store)
    assert {path: after[path] for path in before} == before
    for split in SPLITS:
        found = read_features(store, following, split, describe_tiny(following.image))
        images = open_split(following, split, store.root).batch(np.arange(len(found.keys)))[0]
        assert found.features[:, 0] == pytest.approx(see(store, following, images), rel=2e-3, abs=1e-6)


def test_other_pixels_have_other_features_and_settings_without_effect_have_not(tmp_path: Path) -> None:
    store, manifest = make_dataset(tmp_path)
    compute_tiny(store, manifest)
    same = ImageSpec(size=(8, 8), normalize="unit", max_pixels=10**6)
    assert plan_tiny(store, prepare(tmp_path / "photos", tmp_path / "work", image=same)[1]).images == 0
    other = ImageSpec(size=(8, 8), resize="stretch")
    assert plan_tiny(store, prepare(tmp_path / "photos", tmp_path / "work", image=other)[1]).images == 60


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_a_flipped_bit_is_found_and_that_block_computed_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, manifest = make_dataset(tmp_path)
    compute_tiny(store, manifest)
    expected = look_at_blocks(store)
    victim = sorted(expected)[1]
    flip_bit(store.root / victim)
    with caplog.at_level(logging.WARNING):
        done = compute_tiny(store, manifest)
    assert [block.path for block in done] == [victim]
    assert f"{victim} is damaged (its checksum does not match) and was removed" in caplog.text
    assert look_at_blocks(store) == expected


def test_a_training_that_meets_a_flipped_bit_says_what_to_do(tmp_path: Path) -> None:
    store, manifest = make_dataset(tmp_path)
    compute_tiny(store, manifest)
    for path in look_at_blocks(store):
        flip_bit(store.root / path)
    with pytest.raises(IntegrityError, match=r"images of .* have no features; run the command again") as caught:
        read_features(store, manifest, "train", describe_tiny(manifest.image))
    assert "\n" not in str(caught.value)
    assert look_at_blocks(store) == {}


def test_a_damaged_shard_is_named_and_no_block_is_made_of_it(tmp_path: Path) -> None:
    store, manifest = make_dataset(tmp_path)
    ref = manifest.splits["train"][0]
    lost = pack_keys(open_shard(ref, manifest.image, store.root).keys())
    flip_bit(store.root / ref.path)
    with pytest.raises(IntegrityError, match=ref.digest):
        compute_tiny(store, manifest)
    assert not (store.root / ref.path).exists()
    assert not any(np.isin(decode_block(data).keys, lost).any() for data in look_at_blocks(store).values())


def test_a_backbone_that_is_damaged_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, manifest = make_dataset(tmp_path)
    backbone = describe_tiny(manifest.image)
    record = find_backbone_record(store, backbone)
    assert record is not None
    flip_bit(store.root / backbone_path(record.sha256))
    with caplog.at_level(logging.WARNING):
        assert find_backbone_record(store, backbone) is None
    assert "is damaged or gone; the backbone is exported anew" in caplog.text
    with pytest.raises(IntegrityError, match="is damaged and was removed; run again"):
        load_backbone(store.uri, record.sha256)
    assert find_backbone_record(store, backbone) is None  # the file is gone
    store.write(backbone_record_path(backbone.compute_digest()), b"{")
    assert find_backbone_record(store, backbone) is None


@pytest.mark.integration
def test_a_workspace_on_s3_has_the_same_blocks(tmp_path: Path, s3_bucket: str) -> None:
    local, manifest = make_dataset(tmp_path)
    compute_tiny(local, manifest)
    store = open_store(f"{s3_bucket}/work")
    for entry in local.list():
        if not entry.path.startswith(("features/", "tmp/")):
            store.write(entry.path, local.read(entry.path))
    compute_tiny(store, manifest, workers=2)
    assert look_at_blocks(store) == look_at_blocks(local)
    found = read_features(store, manifest, "train", describe_tiny(manifest.image))
    assert np.array_equal(
        found.features, read_features(local, manifest, "train", describe_tiny(manifest.image)).features
    )
    assert plan_tiny(store, manifest).images == 0
