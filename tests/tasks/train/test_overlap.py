"""The champion is judged on images that it has not learnt from, however the split is drawn anew; or not at all."""

import hashlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from champions import write_champion
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from steps import prepare, rows_of, write_image, write_photos

from cnn.dataset.manifest import Manifest
from cnn.dataset.seen_images import SeenImages, UnseenImages, write_seen
from cnn.dataset.split import SplitSpec
from cnn.errors import IntegrityError
from cnn.evaluation.gate import Challenger, Verdict, decide_promotion
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import evaluate_probabilities
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import INFO, SEEN, BundleInfo, read_bundle
from infra.storage.store import Store, open_store
from tasks.train.answers import SplitPredictions, save_predictions
from tasks.train.champion import measure_champion
from tasks.train.comparison import ChampionScores
from tasks.train.overlap import choose_unseen, list_seen, recall_seen

CLASSES = ("bat", "cat", "owl")
IMAGE = ImageSpec(size=(8, 8))
SPLIT = SplitSpec(validation=0.1, test=0.3)


class Folder:
    """A source, its workspace and the version that the champion was trained on."""

    def __init__(self, root: Path, images: int) -> None:
        self.source, self.workspace = write_photos(root / "photos", images), root / "work"
        self.store: Store = open_store(str(self.workspace))
        self.first = self.prepare()
        self.seen = list_seen(self.store, self.first)

    def prepare(self, **changes: Any) -> Manifest:
        return prepare(self.source, self.workspace, split=changes.pop("split", SPLIT), **changes)[1]

    def keys(self, manifest: Manifest, *splits: str) -> set[str]:
        rows = rows_of(self.workspace, manifest).values()
        return {row["digest"] for row in rows if row["split"] in splits and row["outcome"] == "ok"}

    def unseen(self, manifest: Manifest, image: ImageSpec = IMAGE) -> UnseenImages:
        return choose_unseen(self.store, manifest, self.seen, image)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, 90)


def rewrite(path: Path) -> None:
    """Another sha256, the same pixels: what exiftool or Lightroom do to a whole folder in one go."""
    note = PngInfo()
    note.add_text("Comment", path.name)
    with Image.open(path) as image:
        image.save(path, pnginfo=note)


@pytest.mark.parametrize(
    "split",
    [
        SplitSpec(validation=0.1, test=0.3, seed=7),
        SplitSpec(validation=0.1, test=0.5),
        SplitSpec(validation=0.3, test=0.2),
        SplitSpec(validation=0.1, test=0.3),
    ],
)
def test_only_what_the_champion_has_not_learnt_from_is_left(folder: Folder, split: SplitSpec) -> None:
    second = folder.prepare(split=split)
    expected = folder.keys(second, "test") - folder.keys(folder.first, "train", "validation")
    unseen = folder.unseen(second)
    assert unseen.keys == expected
    assert unseen.images == len(folder.keys(second, "test"))


def test_files_with_new_metadata_are_known_by_their_pixels(folder: Folder) -> None:
    names = {path: row["split"] for path, row in rows_of(folder.workspace, folder.first).items()}
    for path in sorted(folder.source.rglob("*.png")):
        rewrite(path)
    second = folder.prepare()
    rows = rows_of(folder.workspace, second)
    assert not folder.keys(second, "train", "test") & folder.keys(folder.first, "train", "test")
    expected = {row["digest"] for path, row in rows.items() if row["split"] == "test" and names[path] == "test"}
    assert folder.unseen(second).keys == expected


def write_scene(path: Path, seed: int) -> None:
    """A picture of large soft spots, as photographs are at this size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((96, 64), Image.Resampling.BICUBIC).save(path)


def test_new_metadata_and_another_size_are_known_by_grey_means(tmp_path: Path) -> None:
    for number in range(90):
        write_scene(tmp_path / "photos" / CLASSES[number % 3] / f"{number:02}.png", number)
    folder = Folder(tmp_path, 0)
    names = {path: row["split"] for path, row in rows_of(folder.workspace, folder.first).items()}
    for path in sorted(folder.source.rglob("*.png")):
        rewrite(path)
    second = folder.prepare(image=ImageSpec(size=(32, 32)))
    rows = rows_of(folder.workspace, second)
    tested = {path: row["digest"] for path, row in rows.items() if row["split"] == "test"}
    expected = {digest for path, digest in tested.items() if names[path] == "test"}
    assert folder.unseen(second).keys == expected
    # In another frame they are known by their bytes without the metadata. Where these are not kept either (a champion
    # of an older release), nothing can be said of them: none counts as unseen.
    padded = folder.prepare(image=ImageSpec(size=(32, 32), resize="pad"))
    expected = {row["digest"] for path, row in rows_of(folder.workspace, padded).items() if row["split"] == "test"}
    assert folder.unseen(padded).keys == {digest for path, digest in tested.items() if names[path] == "test"} & expected
    folder.seen = replace(
        folder.seen, facts=replace(folder.seen.facts, images=np.zeros(len(folder.seen.facts), np.uint64))
    )
    assert folder.unseen(second).keys
    assert folder.unseen(padded).keys == frozenset()


def test_new_images_are_unseen_and_those_like_old_ones_are_not(folder: Folder) -> None:
    old = next(path for path, row in rows_of(folder.workspace, folder.first).items() if row["split"] == "train")
    with Image.open(folder.source / old) as image:
        pixels = np.clip(np.asarray(image).astype(np.int16) + 1, 0, 255).astype(np.uint8)
    for number in range(40):
        write_image(folder.source / "owl" / f"new-{number}.png", 1000 + number)
        pixels[0, 0, 0] = number  # forty files, forty digests
        Image.fromarray(pixels).save(folder.source / old.split("/")[0] / f"like-{number}.png")
    second = folder.prepare(split=SPLIT.model_copy(update={"leak_distance": -1}))
    rows = rows_of(folder.workspace, second)
    tested = {path: row["digest"] for path, row in rows.items() if row["split"] == "test"}
    keys = folder.unseen(second).keys
    assert {digest for path, digest in tested.items() if "new-" in path} <= keys
    assert not {digest for path, digest in tested.items() if "like-" in path} & keys
    assert any("like-" in path for path in tested)


def test_with_groups_an_image_whose_group_was_learnt_from_judges_nobody(folder: Folder) -> None:
    for number, path in enumerate(sorted(folder.source.rglob("*.png"))):
        path.rename(path.with_name(f"site-{number // 6}-{path.name}"))
    second = folder.prepare(split=SplitSpec(validation=0.1, test=0.4, group=r"site-(\d+)"))
    learnt = folder.keys(folder.first, "train", "validation")
    rows = rows_of(folder.workspace, second).values()
    familiar = {row["group"] for row in rows if row["digest"] in learnt}
    expected = {row["digest"] for row in rows if row["split"] == "test" and row["group"] not in familiar}
    unseen = folder.unseen(second)
    assert unseen.keys == expected
    assert unseen.related == len(folder.keys(second, "test") - learnt - expected) > 0


def test_what_was_learnt_survives_the_bundle_and_gc(folder: Folder, tmp_path: Path) -> None:
    bundle = seal_champion(folder, tmp_path / "champion", folder.seen)
    shutil.rmtree(folder.workspace / "datasets")
    recalled = recall_seen(bundle, read_bundle(bundle), folder.store)
    assert recalled is not None
    assert recalled.judged == CLASSES
    assert recalled.has_learnt(folder.seen.facts).tolist() == folder.seen.learnt.tolist()
    (bundle / SEEN).write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match=r"seen\.npz"):
        recall_seen(bundle, BundleInfo.model_validate_json((bundle / INFO).read_bytes()), folder.store)


def test_an_older_champion_is_known_by_the_ledger_of_its_dataset(folder: Folder, tmp_path: Path) -> None:
    bundle = seal_champion(folder, tmp_path / "champion", None)
    recalled = recall_seen(bundle, read_bundle(bundle), folder.store)
    assert recalled is not None
    assert recalled.learnt.tolist() == folder.seen.learnt.tolist()
    before = rows_of(folder.workspace, folder.first)
    assert sorted(recalled.has_learnt(folder.seen.facts)) == sorted(row["split"] != "test" for row in before.values())
    shutil.rmtree(folder.workspace / "datasets" / folder.first.dataset)
    assert recall_seen(bundle, read_bundle(bundle), folder.store) is None


def test_the_ledger_of_an_older_release_is_read_though_its_columns_are_others(folder: Folder) -> None:
    path = folder.workspace / folder.first.ledger.path
    older = pq.read_table(path).drop_columns(["image_key", "split_origin", "pixels_crc32c"])
    pq.write_table(older.append_column("other", older.column("size")), path)
    ledger = folder.first.ledger.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    recalled = list_seen(folder.store, folder.first.model_copy(update={"ledger": ledger}))
    assert recalled.facts.keys.tolist() == folder.seen.facts.keys.tolist()
    assert recalled.learnt.tolist() == folder.seen.learnt.tolist()


def seal_champion(folder: Folder, path: Path, seen: SeenImages | None) -> Path:
    """A bundle that says it came from the folder's first version."""
    bundle = write_champion(path, CLASSES, IMAGE)
    info = BundleInfo.model_validate_json((bundle / INFO).read_bytes())
    changes: dict[str, Any] = {"dataset": folder.first.dataset, "dataset_digest": folder.first.digest}
    if seen is not None:
        write_seen(seen, bundle / SEEN)
        changes["files"] = info.files | {SEEN: hashlib.sha256((bundle / SEEN).read_bytes()).hexdigest()}
    (bundle / INFO).write_text(info.model_copy(update=changes).to_json())
    return bundle


Gate = Callable[[Manifest], Verdict]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Folder, Path, Gate]:
    """A champion that knows by heart what it learnt from and has six in ten right of the rest; a new one with nine."""
    folder = Folder(tmp_path, 600)
    bundle = seal_champion(folder, tmp_path / "champion", folder.seen)
    by_heart = folder.keys(folder.first, "train", "validation")

    def answer(_bundle: Path, _manifest: Manifest, _store: Store, keys: Collection[str]) -> ChampionScores:
        return ChampionScores({key: key in by_heart or int(key[:8], 16) % 10 < 6 for key in keys})

    monkeypatch.setattr("tasks.train.champion.score_champion", answer)

    def judge(manifest: Manifest) -> Verdict:
        rows = rows_of(folder.workspace, manifest).values()
        tested = [row for row in rows if row["split"] == "test" and row["outcome"] == "ok"]
        keys, labels = [row["digest"] for row in tested], np.array([CLASSES.index(row["label"]) for row in tested])
        right = np.array([int(key[8:16], 16) % 10 < 9 for key in keys])
        answers = np.eye(3, dtype=np.float32)[np.where(right, labels, (labels + 1) % 3)]
        test = tmp_path / "test.npz"
        save_predictions(test, SplitPredictions(keys, labels, answers))
        challenger = Challenger("birds", 2, evaluate_probabilities(answers, labels, CLASSES))
        champion = measure_champion(1, bundle, challenger, test, manifest, folder.store)
        return decide_promotion(challenger, champion, GateSpec())

    return folder, bundle, judge


def test_an_honest_version_wins_though_the_split_was_drawn_anew(gate: tuple[Folder, Path, Gate]) -> None:
    folder, _, judge = gate
    verdict = judge(folder.prepare(split=SplitSpec(validation=0.1, test=0.3, seed=7)))
    assert verdict.verdict == "promote", verdict.reasons
    assert "more accurate than the champion" in verdict.reasons[0]
    assert "test images that the champion was not trained on" in verdict.reasons[1]


def test_too_few_unseen_images_are_told_with_the_way_out(gate: tuple[Folder, Path, Gate]) -> None:
    folder, _, judge = gate
    verdict = judge(folder.prepare(split=SplitSpec(validation=0.1, test=0.05, seed=7)))
    assert verdict.verdict == "hold"
    assert "are among those that it was trained on" in verdict.reasons[0]
    assert "are left, too few" in verdict.reasons[0]


def test_a_champion_of_which_nobody_knows_what_it_learnt_from_is_not_compared(gate: tuple[Folder, Path, Gate]) -> None:
    folder, bundle, judge = gate
    info = read_bundle(bundle)
    elsewhere = {"dataset": "elsewhere-1", "files": {name: info.files[name] for name in info.files if name != SEEN}}
    (bundle / INFO).write_text(info.model_copy(update=elsewhere).to_json())
    verdict = judge(folder.first)
    assert verdict.verdict == "hold"
    assert "nobody knows which images version 1 was trained on: its dataset elsewhere-1" in verdict.reasons[0]


def test_a_class_that_is_no_longer_judged_holds_the_version(gate: tuple[Folder, Path, Gate]) -> None:
    folder, bundle, judge = gate
    shutil.rmtree(bundle)
    seal_champion(folder, bundle, replace(folder.seen, judged=(*CLASSES, "yak")))
    verdict = judge(folder.first)
    assert verdict.verdict == "hold"
    assert verdict.reasons[0] == "there are no test images of 'yak', on which the champion was tested"
