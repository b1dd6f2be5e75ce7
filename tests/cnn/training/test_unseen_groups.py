"""Accuracy at groups that a model knows and at a new one: planted differences come out, and no others."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn.training.heads import FeatureSet, HeadChoice, HeadPlan
from cnn.training.unseen_groups import NO_GROUP, assign_group_folds, bound_by_groups, measure_unseen_groups

HEAD = (HeadChoice("unit", 0.0, 10.0), HeadPlan())
CLASSES, FEATURES = 3, 24


def make_images(groups: NDArray[np.int64], shift: float, seed: int = 0) -> FeatureSet:
    """Images of three classes; with `shift`, every group shows each class in a direction of its own as well, which who
    knows the group can learn, and which misleads who does not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, len(groups))
    own = rng.normal(size=(int(groups.max()) + 1, CLASSES, FEATURES)) * shift
    looks = np.eye(CLASSES, FEATURES)[labels] * 2.0 + np.where(groups[:, None] >= 0, own[groups, labels], 0.0)
    views = looks[:, None] + rng.normal(size=(len(groups), 2, FEATURES))
    return FeatureSet(views.astype(np.float32), labels, groups)


def name_groups(count: int) -> list[str]:
    return [f"site {number}" for number in range(count)]


def test_a_difference_between_known_and_new_groups_comes_out() -> None:
    found = measure_unseen_groups("camera", make_images(np.arange(600) % 6, 1.5), name_groups(6), CLASSES, HEAD)
    assert found is not None
    print(found.describe())
    assert found.known > 0.8
    assert found.unseen < found.known - 0.2
    assert found.is_gap
    assert (found.groups, found.images, found.left_out) == (6, 600, 0)
    assert found.interval is not None
    assert found.interval[0] < found.unseen < found.interval[1]
    assert [row.unseen for row in found.worst] == sorted(row.unseen for row in found.worst)
    assert sum(row.images * row.known for row in found.worst) == pytest.approx(600 * found.known)


def test_groups_that_make_no_difference_give_no_warning_95_times_in_100() -> None:
    warned = 0
    for seed in range(40):
        images = make_images(np.random.default_rng(1_000 + seed).integers(0, 4, 160), 0.0, seed)
        found = measure_unseen_groups("group", images, name_groups(4), CLASSES, HEAD)
        assert found is not None
        warned += found.is_gap
    print(f"40 sets whose groups do not differ: {warned} warnings")
    assert warned <= 4  # more than 4 would come 1 time in 30 at 5 %


def test_copies_do_not_look_like_knowing_the_group() -> None:
    """Groups make no difference, but each image has a copy in its group, which who knows the group learns from."""
    images = make_images(np.arange(200) % 4, 0.0)
    labels = np.random.default_rng(5).integers(0, CLASSES, 200)  # what the images show tells nothing of the class
    twice = FeatureSet(images.features, labels, images.groups).take(np.arange(400) % 200)
    found = measure_unseen_groups("group", twice, name_groups(4), CLASSES, HEAD, np.arange(400) % 200)
    assert found is not None
    assert (found.images, found.is_gap) == (400, False)
    untied = measure_unseen_groups("group", twice, name_groups(4), CLASSES, HEAD)
    assert untied is not None
    assert untied.is_gap


def test_both_models_learn_from_equally_many_images() -> None:
    """One group has most of the images: what is left to who does not know it is little, and no more is given to the
    other; else the lack of images would be taken for one of the group."""
    groups = np.where(np.arange(400) < 340, 0, 1)
    found = measure_unseen_groups("group", make_images(groups, 0.0), name_groups(2), CLASSES, HEAD)
    assert found is not None
    assert not found.is_gap
    assert found.interval is None


def test_images_of_a_class_that_one_group_has_alone_are_not_counted() -> None:
    images = make_images(np.arange(300) % 3, 0.0)
    labels = np.where(images.groups == 0, 2, images.labels % 2)
    found = measure_unseen_groups(
        "group", FeatureSet(images.features, labels, images.groups), name_groups(3), CLASSES, HEAD
    )
    assert found is not None
    assert (found.groups, found.images, found.left_out) == (2, 200, 100)


def test_a_class_for_each_group_says_nothing() -> None:
    images = make_images(np.arange(90) % 3, 0.0)
    alone = FeatureSet(images.features, np.arange(90) % 3, images.groups)
    assert measure_unseen_groups("group", alone, name_groups(3), CLASSES, HEAD) is None


def test_images_without_a_group_are_learnt_from_alone() -> None:
    groups = np.where(np.arange(200) < 100, np.arange(200) % 2, NO_GROUP)
    found = measure_unseen_groups("group", make_images(groups, 0.0), name_groups(2), CLASSES, HEAD)
    assert found is not None
    assert (found.images, found.left_out) == (100, 0)


def test_many_groups_are_left_out_in_ten_parts_of_about_equal_size() -> None:
    groups = np.random.default_rng(0).integers(0, 80, 4_000)
    folds = assign_group_folds(groups)
    sizes = np.bincount(folds)
    assert len(sizes) == 10
    assert sizes.max() - sizes.min() < np.bincount(groups).max()
    assert all(len(np.unique(folds[groups == number])) == 1 for number in range(80))


def test_the_interval_is_that_of_the_groups_and_needs_three() -> None:
    counts = np.array([100, 100, 100, 100])
    wide, narrow = (bound_by_groups(np.array(hits), counts) for hits in ([95, 20, 90, 30], [60, 58, 59, 58]))
    assert wide is not None
    assert narrow is not None
    assert wide[0] < 0.05
    assert wide[1] > 0.99
    assert narrow[0] == pytest.approx(0.539, abs=0.005)  # no narrower than 235 of 400 images
    assert bound_by_groups(np.array([1, 2]), np.array([4, 4])) is None
