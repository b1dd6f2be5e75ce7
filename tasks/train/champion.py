"""Score the champion on the test images of a new dataset, for the gate; classes are compared by name.

Where the dataset's pixels are the ones that the champion sees, its shards are scored. Otherwise the original files are
read again and decoded the champion's way, each held against the sha256 that the ledger keeps.
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.errors import BadImage, IntegrityError, OutageError, RegistryError, SafelightError
from cnn.evaluation.gate import Challenger, Champion, find_obstacle
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import read_bundle
from cnn.inference.scorer import Scorer, load_scorer
from infra.storage.store import Source, Store, open_source
from tasks.dataset.version import read_ledger
from tasks.files.paths import restore_path
from tasks.train.answers import read_predictions
from tasks.train.comparison import ChampionScores, compare_answers, read_slices
from tasks.train.overlap import choose_unseen, recall_seen

BATCH = 128
MISSING = 0.01  # share of the test images that may be gone before a comparison says nothing
Image = tuple[str, str, NDArray[np.uint8]]  # key, class name, pixels


def measure_champion(
    version: int, bundle: Path | None, challenger: Challenger, test: Path, manifest: Manifest, store: Store
) -> Champion:
    """What the gate has to know of the champion, as far as it changes anything: it is scored on the challenger's test
    images, except those that it has learnt from.

    `bundle` is its folder, None where it is not one of ours; `test` is the file of the challenger's own predictions.

    Raises:
        IntegrityError: the bundle is damaged.
        OutageError: the source, or the workspace, does not answer now.
    """
    if bundle is None:
        return Champion(version)
    info = read_bundle(bundle)
    champion = Champion(version, info.classes)
    if find_obstacle(challenger, champion):
        return champion
    if (seen := recall_seen(bundle, info, store)) is None:
        unknown = (
            f"nobody knows which images version {version} was trained on: its dataset {info.dataset} is not in this "
            "workspace, and the release that made it did not keep them with it"
        )
        return replace(champion, unscored=unknown)
    unseen = choose_unseen(store, manifest, seen, info.image)
    champion = replace(champion, tested=seen.judged, unseen=unseen)
    if find_obstacle(challenger, champion):
        return champion
    scores = score_champion(bundle, manifest, store, unseen.keys)
    if scores.refused is not None:
        return replace(champion, unscored=scores.refused)
    return compare_answers(champion, manifest.classes, read_predictions(test), scores, read_slices(store, manifest))


def score_champion(bundle: Path, manifest: Manifest, store: Store, keys: Collection[str]) -> ChampionScores:
    """What the champion in the folder `bundle` answers on those test images of a dataset that have these keys.

    A champion that does not load here, or test images of which more than 1 % are gone or changed, are no fault of the
    run: the comparison is refused with the reason.

    Raises:
        OutageError: the source, or the workspace, does not answer now: that says nothing of its files.
    """
    try:
        scorer = load_scorer(bundle, threads=os.cpu_count() or 1)
    except (RegistryError, IntegrityError) as error:
        return ChampionScores({}, str(error))
    if sees_same_pixels(scorer.info.image, manifest.image):
        return _score(scorer, (image for image in _read_shards(manifest, store) if image[0] in keys))
    try:
        source = open_source(manifest.source)
    except OutageError:
        raise
    except SafelightError as error:
        return ChampionScores({}, f"it sees other pixels than the dataset's, and the source does not open: {error}")
    rows = [row for row in _list_test_files(manifest, store) if row[1] in keys]
    scores = _score(scorer, _read_files(rows, source, scorer.info.image))
    missing = len(rows) - len(scores.correct)
    if missing > MISSING * len(rows):
        gone = f"{missing} of {len(rows)} test images are gone from {source.uri} or have changed"
        return replace(scores, refused=gone)
    return scores


def sees_same_pixels(champion: ImageSpec, dataset: ImageSpec) -> bool:
    """Whether raw shards of the dataset hold exactly what the champion would decode from the files."""
    return dataset.encoding == "raw" and dataset.gives_same_pixels(champion)


def _read_shards(manifest: Manifest, store: Store) -> Iterator[Image]:
    for ref in manifest.splits["test"]:
        store.fetch(ref.path)
    shards = open_split(manifest, "test", store.root)
    keys, rows = shards.keys(), np.flatnonzero(shards.copies == 0)
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        images, labels = shards.batch(part)
        for row, image, label in zip(part.tolist(), images, labels.tolist(), strict=True):
            yield keys[row], manifest.classes[label], image


def _list_test_files(manifest: Manifest, store: Store) -> Iterator[tuple[str, str, str]]:
    """(path, digest, class name) of every test image in the ledger."""
    names = ["path", "path_raw", "digest", "label", "split", "outcome"]
    for row in read_ledger(store, manifest, names).to_pylist():
        if row["split"] == "test" and row["outcome"] == "ok":
            yield restore_path(row["path"], row["path_raw"]), row["digest"], row["label"]


def _read_files(rows: list[tuple[str, str, str]], source: Source, image: ImageSpec) -> Iterator[Image]:
    """The test images whose file is still what it was; the others are left out."""
    for path, digest, label in rows:
        try:
            data = source.read(path)
            if hashlib.sha256(data).hexdigest() == digest:
                yield digest, label, read_image(data, image).pixels
        except OutageError:
            raise
        except (BadImage, SafelightError):
            continue


def _score(scorer: Scorer, images: Iterator[Image]) -> ChampionScores:
    """By key, whether the champion names the class, and how sure it is; one it never learnt it cannot have right."""
    scores = ChampionScores({})
    batch: list[Image] = []
    for image in images:
        batch.append(image)
        if len(batch) == BATCH:
            _add_scores(scores, scorer, batch)
            batch = []
    if batch:
        _add_scores(scores, scorer, batch)
    return scores


def _add_scores(scores: ChampionScores, scorer: Scorer, batch: list[Image]) -> None:
    probabilities = scorer.predict(np.stack([pixels for _, _, pixels in batch]))
    classes = scorer.info.classes
    answers = zip(batch, probabilities.argmax(axis=1).tolist(), probabilities.max(axis=1).tolist(), strict=True)
    for (key, label, _), place, sure in answers:
        scores.correct[key], scores.confidences[key] = classes[place] == label, sure
