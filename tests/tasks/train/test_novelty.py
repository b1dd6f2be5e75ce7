"""A version keeps what its training images look like to it, by which scoring finds the strange ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_dataset import write_dataset
from tiny_jobs import make_plan

import tasks.train.novelty
from cnn.inference.bundle import NOVELTY, read_bundle, write_info
from cnn.inference.novelty import read_novelty
from cnn.models.architecture import ModelSpec
from infra.registry.bundles import upload_bundle
from infra.storage.store import open_store
from tasks.score.decision import DecisionRule
from tasks.score.novelty import add_unknown
from tasks.score.spec import ModelRef, ScoreSpec
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


@pytest.mark.parametrize("steps", [0, 36])
def test_cached_features_serve_where_the_network_is_still_the_one_that_made_them(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, kept = np.random.default_rng(0), list[Any]()
    rows = SimpleNamespace(features=rng.normal(size=(30, 2, 6)).astype(np.float16), labels=np.arange(30) % 3)
    network = SplitFeatures(rng.normal(size=(30, 6)), np.arange(30) % 3)
    monkeypatch.setattr(tasks.train.novelty, "add_novelty", lambda folder, index: kept.append(index))
    monkeypatch.setattr(tasks.train.novelty, "_run_network", lambda *_: lambda split, most: network)
    plan = SimpleNamespace(steps=steps, seed=0)
    job, manifest = SimpleNamespace(plan=plan, folder=str(tmp_path)), SimpleNamespace(rows=lambda split: 30)
    keep_novelty(job, manifest, None, SimpleNamespace(splits={"train": rows, "validation": rows}))  # type: ignore[arg-type]
    [index] = kept
    own = network.features if steps else rows.features[:, 0]
    assert index.measure(own).max() < 0.05 * index.measure(own[::-1] + 3).min()
