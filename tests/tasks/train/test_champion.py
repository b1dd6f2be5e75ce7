"""A champion (a network of three lines, written by hand) on the test images of a new dataset."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from champions import write_champion
from small_dataset import IMAGE, PER_CLASS, write_dataset

from cnn.dataset.manifest import Manifest
from cnn.errors import SourceError, SourceOutageError
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import ONNX
from infra.storage.store import Source, open_store
from tasks.dataset.version import read_ledger
from tasks.train.champion import score_champion, sees_same_pixels
from tasks.train.comparison import ChampionScores

SMALLER = ImageSpec(size=(6, 6), channels=3, normalize="unit")


def score(tmp_path: Path, champion: Path, per_class: Mapping[str, int] = PER_CLASS) -> ChampionScores:
    return score_on(write_dataset(tmp_path / "w", tmp_path / "s", per_class=per_class), champion)


def score_on(manifest: Manifest, champion: Path, keys: set[str] | None = None) -> ChampionScores:
    """What the champion has right, of all test images or of those with these keys."""
    workspace = Path(manifest.source).parent / "w"
    store = open_store(str(workspace))
    rows = read_ledger(store, manifest).to_pylist()
    return score_champion(champion, manifest, store, {row["digest"] for row in rows} if keys is None else keys)


def no_source(uri: str) -> Source:
    raise SourceError(f"{uri} is gone")


def by_class(scores: ChampionScores, manifest: Manifest) -> dict[str, float]:
    """Share of each class that the champion has right."""
    shares: dict[str, list[bool]] = {}
    for path in Path(manifest.source).glob("*/test-*.png"):
        key = hashlib.sha256(path.read_bytes()).hexdigest()
        shares.setdefault(path.parent.name, []).append(scores.correct[key])
    return {name: float(np.mean(answers)) for name, answers in shares.items()}


def test_the_shards_serve_a_champion_that_sees_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    monkeypatch.setattr("tasks.train.champion.open_source", no_source)
    scores = score_on(manifest, write_champion(tmp_path / "champion"))
    assert scores.refused is None
    assert all(0.34 < sure <= 1 for sure in scores.confidences.values())
    assert scores.confidences.keys() == scores.correct.keys()
    assert by_class(scores, manifest) == {"blue": 1.0, "green": 1.0, "red": 1.0}


def test_another_size_is_decoded_again_from_the_source(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    champion = write_champion(tmp_path / "champion", image=SMALLER)
    scores = score_on(manifest, champion)
    assert scores == ChampionScores(scores.correct)
    assert by_class(scores, manifest) == {"blue": 1.0, "green": 1.0, "red": 1.0}


@pytest.mark.parametrize("image", [IMAGE, SMALLER])
@pytest.mark.parametrize(
    ("classes", "right"),
    [
        (("blue", "green", "yellow"), {"blue": 1.0, "green": 1.0, "red": 0.0}),  # one class it never learnt
        (("red", "green", "blue"), {"blue": 0.0, "green": 1.0, "red": 0.0}),  # same numbers, other names
    ],
)
def test_classes_are_compared_by_name(
    tmp_path: Path, image: ImageSpec, classes: tuple[str, ...], right: dict[str, float]
) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    champion = write_champion(tmp_path / "champion", classes, image)
    assert by_class(score_on(manifest, champion), manifest) == right


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_too_many_missing_files_refuse_the_comparison(tmp_path: Path, change: str) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    path = tmp_path / "s/red/test-0.png"
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes((tmp_path / "s/blue/test-0.png").read_bytes())
    champion = write_champion(tmp_path / "champion", image=SMALLER)
    scores = score_on(manifest, champion)
    assert scores.refused == f"1 of 18 test images are gone from {tmp_path}/s or have changed"


def test_one_missing_in_a_hundred_is_left_out(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s", per_class={"test": 34})
    (tmp_path / "s/red/test-7.png").unlink()
    champion = write_champion(tmp_path / "champion", image=SMALLER)
    scores = score_on(manifest, champion)
    assert (scores.refused, len(scores.correct)) == (None, 101)


def test_a_source_that_does_not_open_refuses_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.train.champion.open_source", no_source)
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    champion = write_champion(tmp_path / "champion", image=SMALLER)
    scores = score_on(manifest, champion)
    assert scores.refused is not None
    assert "the source does not open" in scores.refused


@pytest.mark.parametrize("step", ["open", "read"])
def test_a_source_that_does_not_answer_now_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A version that was held since its source was away for a minute would not be judged again."""

    def stay_away(*_: object) -> None:
        raise SourceOutageError("the store does not answer")

    away: Any = SimpleNamespace(uri="s3://photos", read=stay_away)
    monkeypatch.setattr("tasks.train.champion.open_source", stay_away if step == "open" else lambda _: away)
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    champion = write_champion(tmp_path / "champion", image=SMALLER)
    with pytest.raises(SourceOutageError):
        score_on(manifest, champion)


def test_a_damaged_champion_refuses_the_comparison(tmp_path: Path) -> None:
    champion = write_champion(tmp_path / "champion")
    (champion / ONNX).write_bytes(b"damaged")
    refused = score(tmp_path, champion).refused
    assert refused is not None
    assert ONNX in refused


@pytest.mark.parametrize("image", [IMAGE, SMALLER])
def test_only_the_images_that_are_asked_for_are_answered(tmp_path: Path, image: ImageSpec) -> None:
    manifest = write_dataset(tmp_path / "w", tmp_path / "s")
    keys = {hashlib.sha256((tmp_path / f"s/red/test-{number}.png").read_bytes()).hexdigest() for number in (1, 4)}
    champion = write_champion(tmp_path / "champion", image=image)
    (tmp_path / "s/blue/test-0.png").unlink()  # not asked for, not missed
    scores = score_on(manifest, champion, keys)
    assert scores == ChampionScores(dict.fromkeys(sorted(keys), True))


def test_without_test_images_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert score(tmp_path, write_champion(tmp_path / "champion"), {"train": 3}) == ChampionScores({})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"normalize": "symmetric"}, True),  # happens inside the network
        ({"max_pixels": 7}, True),
        ({"size": (6, 6)}, False),
        ({"channels": 1}, False),
        ({"resize": "pad"}, False),
        ({"filter": "lanczos"}, False),
        ({"background": (0, 0, 0)}, False),
    ],
)
def test_only_what_changes_pixels_counts(changes: dict[str, object], same: bool) -> None:
    assert sees_same_pixels(IMAGE.model_copy(update=changes), IMAGE) is same
    jpeg = IMAGE.model_copy(update={"encoding": "jpeg"})
    assert sees_same_pixels(IMAGE, jpeg) is False
