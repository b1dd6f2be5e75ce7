"""The champion and a new dataset in, what the champion answers on its test images out; compared by class name.

Where the dataset's pixels are the ones that the champion sees, its shards are scored. Otherwise the original files are
read again and decoded the champion's way, each held against the sha256 that the ledger keeps.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.loader import open_split
from cnn.dataset.manifest import Manifest
from cnn.errors import BadImage, IntegrityError, RegistryError, SafelightError
from cnn.evaluation.metrics import Paired, compare_paired
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec
from cnn.inference.scorer import Scorer, load_scorer
from infra.storage.store import Source, Store, open_source
from tasks.dataset.ledger import restore_path
from tasks.dataset.version import read_ledger

BATCH = 128
MISSING = 0.01  # share of the test images that may be gone before a comparison says nothing
Image = tuple[str, str, NDArray[np.uint8]]  # key, class name, pixels


@dataclass(frozen=True)
class ChampionScores:
    """By key of a test image, whether the champion has it right; or why it cannot be said."""

    correct: dict[str, bool]
    missing: int = 0
    refused: str | None = None


def score_champion(
    bundle: Path,
    manifest: Manifest,
    store: Store,
    open_files: Callable[[str], Source] = open_source,
    keys: Collection[str] | None = None,
) -> ChampionScores:
    """What the champion in the folder `bundle` answers on the test images of a dataset; only on `keys`, if given.

    A champion that does not load here, or test images of which more than 1 % are gone or changed, are no fault of the
    run: the judgement is refused with the reason.
    """
    try:
        scorer = load_scorer(bundle, threads=os.cpu_count() or 1)
    except (RegistryError, IntegrityError) as error:
        return ChampionScores({}, refused=str(error))
    if not manifest.rows("test"):
        return ChampionScores({})
    if sees_same_pixels(scorer.info.image, manifest.image):
        images = _read_shards(manifest, store)
        return ChampionScores(_score(scorer, (image for image in images if keys is None or image[0] in keys)))
    try:
        source = open_files(manifest.source)
    except SafelightError as error:
        return ChampionScores(
            {}, refused=f"it sees other pixels than the dataset's, and the source does not open: {error}"
        )
    rows = [row for row in _list_test_files(manifest, store) if keys is None or row[1] in keys]
    return _judge_files(scorer, rows, source)


def pair_answers(test: Path, judgement: ChampionScores) -> Paired:
    """The new version's answers, kept in test.npz by training, against the champion's on the same images."""
    with np.load(test, allow_pickle=False) as kept:
        answers = dict(zip((key.decode("ascii") for key in kept["keys"]), kept["correct"].tolist(), strict=True))
    keys = [key for key in answers if key in judgement.correct]
    return compare_paired([answers[key] for key in keys], [judgement.correct[key] for key in keys])


def sees_same_pixels(champion: ImageSpec, dataset: ImageSpec) -> bool:
    """Whether raw shards of the dataset hold exactly what the champion would decode from the files."""
    return dataset.encoding == "raw" and dataset.gives_same_pixels(champion)


def _judge_files(scorer: Scorer, rows: list[tuple[str, str, str]], source: Source) -> ChampionScores:
    correct = _score(scorer, _read_files(rows, source, scorer.info.image))
    missing = len(rows) - len(correct)
    if missing > MISSING * len(rows):
        reason = f"{missing} of {len(rows)} test images are gone from {source.uri} or have changed"
        return ChampionScores(correct, missing, reason)
    return ChampionScores(correct, missing)


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
        except (BadImage, SafelightError):
            continue


def _score(scorer: Scorer, images: Iterator[Image]) -> dict[str, bool]:
    """By key, whether the champion names the class; one it never learnt it cannot have right."""
    correct: dict[str, bool] = {}
    batch: list[Image] = []
    for image in images:
        batch.append(image)
        if len(batch) == BATCH:
            correct |= _score_batch(scorer, batch)
            batch = []
    return correct | (_score_batch(scorer, batch) if batch else {})


def _score_batch(scorer: Scorer, batch: list[Image]) -> dict[str, bool]:
    best = scorer.predict(np.stack([pixels for _, _, pixels in batch])).argmax(axis=1).tolist()
    classes = scorer.info.classes
    return {key: classes[place] == label for (key, label, _), place in zip(batch, best, strict=True)}
