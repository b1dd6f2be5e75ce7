"""A version keeps what its training images look like to it, by which scoring finds the strange ones."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_dataset import write_dataset
from tiny_jobs import make_plan

import tasks.train.novelty
from cnn.inference.bundle import NOVELTY, read_bundle, write_info
from cnn.inference.novelty import NoveltyIndex, cross_novelty, read_novelty
from cnn.models.architecture import ModelSpec
from cnn.training.heads import HeadPlan
from infra.registry.bundles import upload_bundle
from infra.storage.store import open_store
from tasks.features.read import FeatureRows
from tasks.score.decision import DecisionRule
from tasks.score.novelty import add_unknown
from tasks.score.spec import ModelRef, ScoreSpec
from tasks.train.cached_head import CachedHead
from tasks.train.novelty import SplitFeatures, keep_novelty
from tasks.train.spec import TrainingResult, TrainJob
from tasks.train.train import train_dataset

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MODEL = ModelSpec.model_validate({"layers": [{"kind": "conv", "filters": 4, "kernel": 3}, {"kind": "global_pool"}]})


def train(folder: Path, validation: int) -> TrainingResult:
    per_class = {"train": 12, "validation": validation, "test": 3}
    manifest = write_dataset(folder / "workspace", folder / "source", per_class=per_class)
    job = TrainJob(
        workspace=str(folder / "workspace"),
        dataset=manifest.dataset,
        model=MODEL,
        plan=make_plan(36, epochs=1, batch_size=8, seed=1),
        folder=str(folder / "run"),
    )
    return train_dataset(job, lambda figures: None)


def test_a_version_keeps_what_scoring_needs_and_one_without_it_scores_on(tmp_path: Path) -> None:
    result = train(tmp_path, 8)
    bundle, store = Path(result.bundle), open_store(str(tmp_path / "workspace"))
    assert NOVELTY in result.info.files
    index = read_novelty(bundle, read_bundle(bundle))
    assert index is not None
    assert (len(index.rows), len(index.held_out)) == (36, 24)
    model = ModelRef(name="m", version="1", bundle=upload_bundle(store, bundle))
    rule, said = add_unknown(DecisionRule(), store, model, ScoreSpec(novelty=0.05))
    assert rule.unknown_from == pytest.approx(float(index.held_out[23] / index.usual))
    assert "marked unknown, above novelty" in said
    info = read_bundle(bundle)  # as a release before wrote it
    write_info(bundle, info.model_copy(update={"files": {k: v for k, v in info.files.items() if k != NOVELTY}}))
    (bundle / NOVELTY).unlink()
    model = ModelRef(name="m", version="1", bundle=upload_bundle(store, bundle))
    rule, said = add_unknown(DecisionRule(), store, model, ScoreSpec(novelty=0.05))
    assert rule == DecisionRule()
    assert "keeps no features of its training images" in said


def test_without_validation_images_nothing_is_kept(tmp_path: Path) -> None:
    assert NOVELTY not in train(tmp_path, 0).info.files


@dataclass(frozen=True)
class Kept:
    """The index that is added to a bundle, for a head on random features of 30 training and 10 validation images."""

    head: CachedHead
    network: SplitFeatures
    job: Any
    found: list[NoveltyIndex]

    def keep(self, validation: int = 10) -> int:
        manifest: Any = SimpleNamespace(rows=lambda split: validation if split == "validation" else 30)
        return keep_novelty(self.job, manifest, None, self.head)  # type: ignore[arg-type]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Kept]:
    def make(steps: int) -> Kept:
        rng, found = np.random.default_rng(0), list[NoveltyIndex]()

        def draw(images: int) -> FeatureRows:
            features = rng.normal(size=(images, 2, 6)).astype(np.float16)
            return FeatureRows([str(n) for n in range(images)], np.arange(images) % 3, features)

        splits = {"train": draw(30), "validation": draw(10), "test": draw(10)}
        ties = {
            split: np.arange(len(rows.keys)) // 2 + 100 * place for place, (split, rows) in enumerate(splits.items())
        }
        network = {size: SplitFeatures(rng.normal(size=(size, 6)), np.arange(size) % 3) for size in (30, 10)}
        monkeypatch.setattr(tasks.train.novelty, "add_novelty", lambda folder, index: found.append(index))
        by_split = {split: network[len(rows.keys)] for split, rows in splits.items()}
        monkeypatch.setattr(tasks.train.novelty, "_run_network", lambda *_: lambda split, most: by_split[split])
        job = SimpleNamespace(plan=SimpleNamespace(steps=steps, seed=0), folder=str(tmp_path))
        fit: Any = None
        return Kept(CachedHead(fit, HeadPlan(), splits, ties), network[30], job, found)

    return make


def test_of_a_network_that_was_trained_the_validation_images_alone_tell_what_is_usual(
    kept: Callable[[int], Kept],
) -> None:
    one = kept(36)
    assert one.keep() == 10
    [index] = one.found
    assert len(index.rows) == 30
    assert index.measure(one.network.features).max() < 0.05 * index.measure(one.network.features[::-1] + 3).min()
    assert kept(36).keep(validation=0) == 0


def test_of_a_network_that_stayed_as_it_was_all_images_tell_it_and_none_is_held_against_what_it_is_tied_to(
    kept: Callable[[int], Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, asked = kept(0), list[Any]()

    def note(*given: Any) -> NoveltyIndex | None:
        asked.append(given)
        return cross_novelty(*given)

    monkeypatch.setattr(tasks.train.novelty, "cross_novelty", note)
    assert one.keep() == 40  # training and validation images, no test image
    [index] = one.found
    own = one.head.splits["validation"].features[:, 0]
    assert index.measure(own).max() < 0.05 * index.measure(own[::-1] + 3).min()  # it is compared with them, too
    [(_, _, folds, _)] = asked
    assert (folds[0::2] == folds[1::2]).all()
    monkeypatch.setattr(tasks.train.novelty, "CROSS_VALIDATED", 39)
    assert one.keep() == 10  # of many images, the validation images do
    del one.head.splits["validation"]
    monkeypatch.setattr(tasks.train.novelty, "CROSS_VALIDATED", 24)
    assert one.keep() == 24  # without these, as many of them as may be crossed


def test_where_all_images_are_tied_to_each_other_none_is_held_against_its_own(kept: Callable[[int], Kept]) -> None:
    one = kept(0)
    for split in one.head.ties:
        one.head.ties[split][:] = 7
    assert one.keep() == 10
    del one.head.splits["validation"]
    assert one.keep() == 0
