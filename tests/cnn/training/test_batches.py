"""Batches as Keras takes them: targets, weights, and a batch for each step that depends on the step alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_jobs import make_job

from cnn.dataset.loader import ShardSet, open_split
from cnn.images.spec import AugmentSpec
from cnn.training.batches import (
    choose_evaluation_batch,
    iterate_evaluation,
    iterate_training,
    make_targets,
    mix_batch,
    smooth_targets,
    weigh_classes,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    job = make_job(tmp_path_factory.mktemp("batches"))
    return open_split(job.manifest, "train", job.root)


def list_batches(folder: Path, shards: ShardSet, steps: range, **changes: Any) -> list[tuple[Any, ...]]:
    plan = make_job(folder).plan.model_copy(update={"imbalance": "none", **changes})
    return list(iterate_training(shards, plan, 3, steps))


def test_two_classes_have_one_target_and_more_have_one_each() -> None:
    labels = np.array([1, 0])
    np.testing.assert_array_equal(make_targets(labels, 2), [[1], [0]])
    np.testing.assert_array_equal(make_targets(labels, 3), [[0, 1, 0], [1, 0, 0]])


def test_smoothing_spreads_a_share_over_all_classes() -> None:
    labels = np.array([1, 0])
    np.testing.assert_allclose(smooth_targets(make_targets(labels, 2), 0.1), [[0.95], [0.05]])
    smooth = smooth_targets(make_targets(labels, 4), 0.1)
    np.testing.assert_allclose(smooth[0], [0.025, 0.925, 0.025, 0.025])
    np.testing.assert_allclose(smooth.sum(axis=1), 1.0, rtol=1e-6)


def test_rare_classes_weigh_more() -> None:
    np.testing.assert_allclose(weigh_classes(np.array([0, 0, 0, 1]), 2), [2 / 3, 2.0])
    np.testing.assert_allclose(weigh_classes(np.array([0, 0, 2, 2]), 3), [1.0, 0.0, 1.0])


@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=200))
def test_weights_are_one_on_average(labels: list[int]) -> None:
    rows = np.array(labels)
    assert weigh_classes(rows, 7)[rows].mean() == pytest.approx(1.0, rel=1e-5)


def test_mixup_blends_images_targets_and_weights_by_one_share() -> None:
    images = np.full((4, 2, 2, 1), 0, np.uint8)
    images[2:] = 200
    targets = make_targets(np.array([0, 0, 1, 1]), 2)
    mixed: Any = mix_batch((images, targets, targets[:, 0]), 1.0, np.random.default_rng(1))
    assert mixed[0].dtype == np.uint8
    assert mixed[1].dtype == np.float32
    np.testing.assert_allclose(mixed[0][:, 0, 0, 0] / 200, mixed[1][:, 0], atol=0.005)
    np.testing.assert_array_equal(mixed[1][:, 0], mixed[2])
    assert len(np.unique(mixed[1])) > 2


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_a_step_has_the_same_batch_wherever_training_began(tmp_path: Path, shards: ShardSet, mixup: float) -> None:
    changes = {"mixup": mixup, "augment": AugmentSpec(shift=0.2, mirror=0.5), "label_smoothing": 0.1}
    whole = list_batches(tmp_path, shards, range(14), **changes)
    later = list_batches(tmp_path, shards, range(9, 14), **changes)
    for mine, theirs in zip(whole[9:], later, strict=True):
        for left, right in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(left, right)
    assert all(len(images) == 16 for images, _ in whole)


def test_weights_go_with_their_rows(tmp_path: Path, shards: ShardSet) -> None:
    (images, targets, weights), *_ = list_batches(tmp_path, shards, range(1), imbalance="weights")
    expected = weigh_classes(shards.labels, 3).astype(np.float32)
    np.testing.assert_array_equal(weights, expected[targets.argmax(axis=1)])
    assert len(images) == len(weights)


def test_sampling_draws_classes_equally_often(tmp_path: Path, shards: ShardSet) -> None:
    labels = [t.argmax(axis=1) for _, t in list_batches(tmp_path, shards, range(6), imbalance="sampling")]
    counts = np.bincount(np.concatenate(labels), minlength=3)
    assert counts.max() - counts.min() <= 1


def test_evaluation_sees_every_row_once_in_order(shards: ShardSet) -> None:
    labels = np.concatenate([targets.argmax(axis=1) for _, targets in iterate_evaluation(shards, 3)])
    np.testing.assert_array_equal(labels, shards.labels)


def test_large_images_are_evaluated_few_at_a_time() -> None:
    assert choose_evaluation_batch((8, 8, 1)) == 256
    assert choose_evaluation_batch((224, 224, 3)) == 47
    assert choose_evaluation_batch((4000, 4000, 3)) == 8
