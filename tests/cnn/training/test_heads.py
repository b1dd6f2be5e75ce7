"""Heads fitted on features: chosen on held-out images, folded into layers exactly, the same bytes every time."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from feature_sets import draw_features, draw_sectors
from numpy.typing import NDArray

from cnn.dataset.normalization import Normalization
from cnn.errors import DatasetError
from cnn.evaluation.calibration import as_class_probabilities
from cnn.images.spec import ImageSpec
from cnn.models.architecture import ModelSpec, build_model
from cnn.models.head import FEATURES, HeadKind, set_head
from cnn.models.layers import ConvLayer, GlobalPoolLayer
from cnn.training import heads
from cnn.training.feature_space import measure_spread
from cnn.training.heads import (
    FeatureSet,
    HeadChoice,
    HeadPlan,
    fit_head,
    predict_head,
    predict_out_of_fold,
    weigh_labels,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LINEAR = HeadPlan(kernel=False)
SYMMETRIC = Normalization(method="symmetric", scale=1 / 127.5, offset=-1.0)


def force_kind(monkeypatch: pytest.MonkeyPatch, kind: HeadKind) -> None:
    """Let this kind of head win."""

    def compare(problem: Any, splits: Any) -> Any:
        gamma = heads.WIDTH / measure_spread(problem.sample) if kind == "kernel" else 0.0
        best, trials = problem.try_space(kind, gamma, splits)
        return best, tuple(trials)

    monkeypatch.setattr(heads, "_compare_kinds", compare)


def measure_accuracy(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_learns_from_few_images_and_says_what_it_tried(classes: int) -> None:
    train, validation, test = (draw_features(classes, count, seed) for count, seed in ((12, 1), (4, 2), (50, 3)))
    fit = fit_head(train, validation, classes, HeadPlan())
    assert fit.head.weights.shape[1] == (1 if classes == 2 else classes)
    assert measure_accuracy(predict_head(fit.head, test.features), test.labels) > 0.9
    assert len(fit.trials) == len(heads.VARIANCES)
    assert fit.chosen.log_loss == min(trial.log_loss for trial in fit.trials if trial.choice.kind == fit.choice.kind)
    assert (fit.folds, fit.images) == (5, 16 * classes)
    assert fit.held_out.labels.tolist() == [*train.labels, *validation.labels]
    assert measure_accuracy(fit.held_out.probabilities, fit.held_out.labels) == fit.chosen.accuracy


@pytest.mark.parametrize("kind", ["unit", "kernel"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_answers_as_the_model_it_was_folded_from(
    kind: HeadKind, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    force_kind(monkeypatch, kind)
    images = draw_sectors(classes, 30, 1)
    fit = fit_head(images, None, classes, HeadPlan())
    problem = heads._Problem(images, classes, HeadPlan())
    space = problem.find_space(fit.choice.gamma)
    views = heads._project_views(space, images.features)
    (model,) = problem.fit(views, np.ones(len(images), bool), (fit.choice.variance,))
    assert fit.head.kind == kind
    assert predict_head(fit.head, images.features) == pytest.approx(heads._answer(model, views), abs=1e-5)


def test_a_kernel_is_taken_where_no_line_divides_the_classes_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "KERNEL_IMAGES", 100)
    sectors, blobs = draw_sectors(3, 60, 1), draw_features(3, 60, 1)
    assert fit_head(sectors, None, 3, HeadPlan()).head.kind == "kernel"
    assert fit_head(blobs, None, 3, HeadPlan()).head.kind == "unit"
    assert fit_head(sectors, None, 3, LINEAR).head.kind == "unit"
    few = draw_sectors(3, 30, 1)
    assert fit_head(few, None, 3, HeadPlan()).head.kind == "unit"


def test_the_same_features_give_the_same_bytes() -> None:
    images = draw_sectors(3, 40, 1)
    one, two = (fit_head(images, None, 3, HeadPlan()) for _ in range(2))
    assert one.head.weights.tobytes() == two.head.weights.tobytes()
    assert one.trials == two.trials
    assert one.held_out.probabilities.tobytes() == two.held_out.probabilities.tobytes()


def test_with_many_images_those_for_validation_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "CROSS_VALIDATED", 59)
    train, validation = draw_features(3, 15, 1), draw_features(3, 5, 2)
    fit = fit_head(train, validation, 3, LINEAR)
    assert (fit.folds, fit.images) == (0, 60)
    assert fit.held_out.labels.tolist() == validation.labels.tolist()
    assert fit_head(train, None, 3, LINEAR).folds == 5


def test_without_refitting_the_head_has_not_seen_the_validation_images() -> None:
    train, validation = draw_features(3, 10, 1), draw_features(3, 10, 2)
    wrong = replace(validation, labels=(validation.labels + 1) % 3)
    plan = replace(LINEAR, refit=False)
    fit = fit_head(train, wrong, 3, plan)
    assert fit.images == 30
    (same,) = (trial for trial in fit_head(train, validation, 3, plan).trials if trial.choice == fit.choice)
    assert same.accuracy > fit.chosen.accuracy
    assert measure_accuracy(predict_head(fit.head, train.features), train.labels) > 0.9


def test_out_of_fold_answers_owe_nothing_to_the_image_itself() -> None:
    images = draw_features(3, 20, 1)
    labels = images.labels.copy()
    labels[7] = (labels[7] + 1) % 3
    planted = replace(images, labels=labels)
    choice = HeadChoice("unit", 0.0, 100.0)
    found = predict_out_of_fold(planted, 3, choice, HeadPlan())
    assert found.shape == (60, 3)
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert found[7].argmax() == images.labels[7]


def test_images_of_one_group_are_held_out_together() -> None:
    """Five pictures of each thing, whose label is drawn by lot: only its other pictures could tell it."""
    rng = np.random.default_rng(0)
    things = np.repeat(np.arange(24), 5)
    features = rng.normal(size=(24, 1, 40))[things].repeat(2, axis=1) + rng.normal(scale=0.05, size=(120, 2, 40))
    images = FeatureSet(features.astype(np.float16), rng.integers(0, 3, 24)[things])
    alone = fit_head(images, None, 3, LINEAR).chosen.accuracy
    grouped = fit_head(replace(images, groups=things), None, 3, LINEAR).chosen.accuracy
    assert alone > 0.9
    assert grouped < 0.6


def test_images_that_are_all_of_one_group_give_the_head_that_they_give_without_groups() -> None:
    images = draw_features(3, 20, 0)
    alone = fit_head(images, None, 3, LINEAR)
    grouped = fit_head(replace(images, groups=np.zeros(60, np.int64)), None, 3, LINEAR)
    assert grouped.folds == alone.folds
    assert grouped.chosen == alone.chosen


def test_weights_count_rare_classes_as_much_as_frequent_ones() -> None:
    labels = np.array([0] * 90 + [2] * 10)
    weights = weigh_labels(labels, 3, "weights")
    assert [weights[labels == label].sum() for label in (0, 2)] == pytest.approx([50.0, 50.0])
    assert weigh_labels(labels, 3, "sampling").tolist() == weights.tolist()
    assert weigh_labels(labels, 3, "none").tolist() == [1.0] * 100


def test_weights_raise_what_is_said_of_a_rare_class() -> None:
    frequent, rare = draw_features(2, 100, 1, spread=3.0), draw_features(2, 4, 2, spread=3.0)
    chosen = np.concatenate([np.flatnonzero(frequent.labels == 0), 200 + np.flatnonzero(rare.labels == 1)])
    features = np.concatenate([frequent.features, rare.features])[chosen]
    images = FeatureSet(features, np.concatenate([frequent.labels, rare.labels])[chosen])
    plain, weighted = (
        fit_head(images, None, 2, replace(LINEAR, imbalance=imbalance)) for imbalance in ("none", "weights")
    )
    test = draw_features(2, 100, 3, spread=3.0)
    means = [predict_head(fit.head, test.features)[:, 1].mean() for fit in (plain, weighted)]
    assert means[1] > means[0] + 0.05


def test_one_image_of_each_class_gives_a_head() -> None:
    images = draw_features(3, 1, 1)
    fit = fit_head(images, None, 3, HeadPlan())
    assert np.isfinite(predict_head(fit.head, images.features)).all()


def test_features_that_are_all_alike_give_a_head() -> None:
    images = FeatureSet(np.ones((12, 2, 8), np.float16), np.arange(12) % 3)
    fit = fit_head(images, None, 3, HeadPlan())
    assert predict_head(fit.head, images.features) == pytest.approx(1 / 3, abs=0.01)


def test_zeros_are_features_too() -> None:
    images = draw_features(3, 10, 1)
    features = images.features.copy()
    features[0] = 0
    fit = fit_head(replace(images, features=features), None, 3, HeadPlan())
    assert np.isfinite(predict_head(fit.head, features)).all()


def test_what_cannot_be_learnt_from_is_refused() -> None:
    images = draw_features(2, 5, 1)
    broken = images.features.copy()
    broken[3, 1, 2] = np.nan
    with pytest.raises(DatasetError, match="not numbers"):
        fit_head(replace(images, features=broken), None, 2, LINEAR)
    with pytest.raises(DatasetError, match="two training images"):
        fit_head(FeatureSet(images.features[:1], images.labels[:1]), None, 2, LINEAR)
    with pytest.raises(ValueError, match=r"\(n, 2, f\) for 10 labels"):
        fit_head(replace(images, features=images.features[:, 0]), None, 2, LINEAR)


@pytest.mark.parametrize(("kind", "classes"), [("unit", 2), ("unit", 3), ("kernel", 3)])
def test_a_network_with_the_head_answers_as_the_head(
    kind: HeadKind, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnn.backend import import_keras

    force_kind(monkeypatch, kind)
    image, names = ImageSpec(size=(8, 6)), tuple("abc"[:classes])
    layers = (ConvLayer(filters=24, padding="same"), GlobalPoolLayer())
    colors = np.random.default_rng(0).integers(0, 256, (60, 1, 1, 3))
    pixels = (colors // np.arange(1, 7)[:, None]).repeat(8, axis=1).astype(np.uint8)
    labels = colors[:, 0, 0, :classes].argmax(axis=1)
    import_keras().utils.set_random_seed(1)
    bare = build_model(ModelSpec(layers=layers), image, SYMMETRIC, names)
    views = np.stack([pixels, pixels[:, :, ::-1]], axis=1)
    extract = import_keras().Model(bare.input, bare.get_layer(FEATURES).output)
    features = np.stack([np.asarray(extract(views[:, view], training=False)) for view in (0, 1)], axis=1)
    fit = fit_head(FeatureSet(features, labels), None, classes, HeadPlan())
    landmarks = 0 if fit.head.landmarks is None else len(fit.head.landmarks)
    assert fit.head.kind == kind
    model = build_model(ModelSpec(layers=layers, head=fit.head.kind, landmarks=landmarks), image, SYMMETRIC, names)
    for layer, source in zip(model.layers, bare.layers, strict=False):
        if layer.name.startswith("conv"):
            layer.set_weights(source.get_weights())
    set_head(model, fit.head)
    answers = [as_class_probabilities(model(views[:, view], training=False)) for view in (0, 1)]
    rounding = 1e-4 if kind == "kernel" else 1e-5  # a kernel's weights are large and of both signs, its sums float32
    assert np.mean(answers, axis=0) == pytest.approx(predict_head(fit.head, features), abs=rounding)
    assert measure_accuracy(np.mean(answers, axis=0), labels) > 0.8


def test_a_head_to_go_on_from_is_no_surer_than_its_smoothed_labels() -> None:
    train, validation = draw_features(3, 40, 1, spread=0.3), draw_features(3, 10, 2, spread=0.3)
    sure = fit_head(train, validation, 3, replace(LINEAR, refit=False))
    soft = fit_head(train, validation, 3, replace(LINEAR, refit=False, label_smoothing=0.1))
    assert soft.choice.variance < sure.choice.variance
    assert np.linalg.norm(soft.head.weights) < np.linalg.norm(sure.head.weights)
    assert soft.held_out.probabilities.max(axis=1).mean() < sure.held_out.probabilities.max(axis=1).mean()
    assert soft.chosen.accuracy > 0.95


def test_smoothed_losses_are_those_of_smoothed_labels() -> None:
    answers = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    smoothed = 0.9 * np.eye(3)[[0, 2]] + 0.1 / 3
    expected = -(smoothed * np.log(answers)).sum(axis=1)
    np.testing.assert_allclose(heads.measure_losses(answers, np.array([0, 2]), 0.1), expected)
    np.testing.assert_allclose(heads.measure_losses(answers[None], np.array([0, 2]), 0.0)[0], -np.log([0.7, 0.5]))
