"""Copies of pictures, found by their shapes and confirmed on their pixels."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted_copies import COPIES, Picture, draw_scene

from cnn.dataset import copy_search
from cnn.dataset.copy_check import confirm_copies
from cnn.dataset.copy_search import find_copy_candidates
from cnn.dataset.crop_descriptors import SHAPES, describe_pictures, order_vectors, turn_picture

SCENES = 50


def square(scene: Picture, side: int) -> NDArray[np.uint8]:
    """uint8 (side, side): the middle of a picture, in grey."""
    grey = cv2.cvtColor(scene, cv2.COLOR_BGR2GRAY)
    edge = min(grey.shape)
    top, left = ((length - edge) // 2 for length in grey.shape)
    middle = grey[top : top + edge, left : left + edge]
    return np.asarray(cv2.resize(middle, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def find_pairs(scenes: Sequence[Picture], new: NDArray[np.bool_] | None = None) -> set[tuple[int, int]]:
    """The pairs of scenes that are copies."""
    shown = {side: np.stack([square(scene, side) for scene in scenes]) for side in (16, 32, 64)}
    found = find_copy_candidates(shown[16].reshape(-1, 256), new)
    pairs = confirm_copies(found, lambda rows: shown[32][rows], lambda rows: shown[64][rows])
    return {(int(one), int(other)) for one, other in pairs}


@pytest.mark.parametrize("kind", list(COPIES))
def test_copies_are_found_and_nothing_else(kind: str) -> None:
    scenes = [draw_scene(seed) for seed in range(SCENES)]
    found = find_pairs([*scenes, *(COPIES[kind](scene, seed) for seed, scene in enumerate(scenes))])
    wanted = {(seed, seed + SCENES) for seed in range(SCENES)}
    assert len(found & wanted) >= SCENES - 2
    assert found <= wanted


def test_pairs_of_two_pictures_that_are_not_new_are_left_out() -> None:
    scenes = [draw_scene(1), draw_scene(1)[:, ::-1], draw_scene(2), draw_scene(2)[::-1], draw_scene(3)]
    scenes = [np.ascontiguousarray(scene) for scene in scenes]
    assert find_pairs(scenes) == {(0, 1), (2, 3)}
    assert find_pairs(scenes, np.array([False, False, True, False, False])) == {(2, 3)}
    assert find_pairs(scenes, np.array([False, False, False, True, False])) == {(2, 3)}
    assert find_pairs(scenes, np.zeros(5, np.bool_)) == set()


@pytest.mark.parametrize("are_scenes_new", [True, False])
def test_what_is_new_is_found_as_a_part_of_what_is_old_and_the_other_way_round(are_scenes_new: bool) -> None:
    scenes = [draw_scene(seed) for seed in range(20)]
    parts = [COPIES["cropped"](scene, seed) for seed, scene in enumerate(scenes)]
    new = np.repeat([are_scenes_new, not are_scenes_new], 20)
    found = find_pairs([*scenes, *parts], new)
    assert len(found) >= 18
    assert found == find_pairs([*scenes, *parts])


def test_pictures_that_show_nothing_are_no_copies() -> None:
    scenes = [np.full((60, 80, 3), level, np.uint8) for level in (0, 0, 7, 255)]
    assert find_pairs(scenes) == set()
    assert find_pairs([*scenes, draw_scene(1)], np.array([True, True, False, False, False])) == set()
    assert len(find_copy_candidates(np.empty((0, 256), np.uint8))) == 0


@given(seed=st.integers(0, 1000), turn=st.integers(0, 7))
def test_a_picture_has_one_descriptor_however_it_is_laid_down(seed: int, turn: int) -> None:
    picture = square(draw_scene(seed), 16)
    turned = turn_picture(picture, turn)
    one, other = (SHAPES.describe(each.reshape(1, 256), slice(0, 1)) for each in (picture, turned))
    np.testing.assert_allclose(SHAPES.turn(one, turn), other, atol=1e-5)
    variants, _ = describe_pictures(picture.reshape(1, 256))
    assert np.abs(variants - order_vectors(other)).max(axis=1).min() < 1e-4


def test_of_crowded_pictures_a_few_candidates_are_kept_and_they_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [draw_scene(1)] * 40 + [draw_scene(seed) for seed in range(2, 12)]
    greys = np.stack([square(scene, 16) for scene in scenes]).reshape(-1, 256)
    assert find_copy_candidates(greys).crowded == 0
    monkeypatch.setattr(copy_search, "MOST_IN_CELL", 8)
    found = find_copy_candidates(greys)
    assert found.crowded >= 40
    assert np.bincount(found.whole).max() <= copy_search.MOST_OF_CROWDED


def test_all_looks_together_are_limited_the_likeliest_of_each_picture_first(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = [draw_scene(seed // 4) for seed in range(40)]  # each picture has three copies
    greys = np.stack([square(scene, 16) for scene in scenes]).reshape(-1, 256)
    assert len(find_copy_candidates(greys)) >= 3 * len(scenes)
    monkeypatch.setattr(copy_search, "FEW_LOOKS", 1)
    monkeypatch.setattr(copy_search, "MOST_LOOKS", 1)
    found = find_copy_candidates(greys)
    assert len(found) == len(scenes) == len(np.unique(found.whole))
    assert found.crowded > 0


def test_a_mirrored_picture_that_is_nearly_its_own_mirror_image_is_laid_down_both_ways() -> None:
    half = square(draw_scene(3), 16)[:, :8]
    picture = np.concatenate([half, half[:, ::-1]], axis=1)
    picture[:4, :4] = np.clip(picture[:4, :4].astype(int) + 20, 0, 255)
    found = find_copy_candidates(np.stack([picture, picture[:, ::-1]]).reshape(2, 256))
    assert {0, 1} <= set(found.turn[found.whole == 0].tolist())
