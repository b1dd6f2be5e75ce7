"""What the gate weighs beside the answers: calibration, speed, size, dataset, leaks, wear of the test images."""

import time
from pathlib import Path

from cnn.dataset.manifest import Manifest
from cnn.evaluation.gate import Champion
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.weighed import (
    Weighed,
    weigh_calibration,
    weigh_dataset,
    weigh_leaks,
    weigh_size,
    weigh_speed,
)
from cnn.inference.bundle import ONNX, read_bundle, read_golden
from cnn.inference.scorer import load_scorer
from infra.storage.store import Store
from tasks.train.copies import count_test_copies
from tasks.train.spec import TrainingResult

ROUNDS = 3  # of scoring the golden images: the fastest counts, which other work on the machine disturbs least


def weigh_version(
    result: TrainingResult, manifest: Manifest, champion: Champion | None, bundle: Path | None, spec: GateSpec
) -> tuple[Weighed, ...]:
    """Each thing with its threshold; `bundle` is the champion's folder, None where there is none of ours that loads.

    Raises:
        IntegrityError: a bundle is damaged.
    """
    own = Path(result.bundle)
    theirs = bundle if champion is not None and champion.paired is not None else None
    eces = champion.eces if champion is not None else None
    mine, other = eces if eces is not None else (result.evaluation.ece, None)
    compared = champion.tested_pair if champion is not None and eces is not None else None
    images = result.evaluation.images if compared is None else compared.images
    digest = read_bundle(theirs).dataset_digest if theirs is not None else None
    return (
        weigh_calibration(mine, other, images, spec.calibration),
        *_weigh_speed(own, theirs, spec),
        weigh_size(_measure_size(own), None if theirs is None else _measure_size(theirs), spec.larger),
        weigh_dataset(result.info.dataset_digest, manifest.digest, digest),
    )


def weigh_best_calibration(best: Champion | None, spec: GateSpec) -> tuple[Weighed, ...]:
    """The calibration beside that of the best version, where it is another one than the champion: a confidence that
    gets a little worse with each champion adds up, too."""
    if best is None or best.eces is None or best.tested_pair is None:
        return ()
    mine, other = best.eces
    return (weigh_calibration(mine, other, best.tested_pair.images, spec.calibration, f"version {best.version}"),)


def weigh_looks(looks: int) -> Weighed:
    """The wear of the test images: what they say of the next version is worth a little less after every look."""
    others = {1: "no version", 2: "1 version"}.get(looks, f"{looks - 1:,} versions")
    return Weighed("looks", float(looks), None, None, True, f"these test images have judged {others} before this one")


def weigh_copies(judged_on: str, manifest: Manifest, store: Store, spec: GateSpec) -> tuple[Weighed, ...]:
    """The leak certificate of the test images; () where no test images judged the version."""
    if judged_on != "test":
        return ()
    found = count_test_copies(store, manifest)
    return (weigh_leaks(found.images, found.copied, found.kinds, spec.leaks),)


def _weigh_speed(own: Path, theirs: Path | None, spec: GateSpec) -> tuple[Weighed, ...]:
    """Nothing where no threshold asks for it: golden images of two networks take seconds each night."""
    if spec.slower is None:
        return ()
    return (weigh_speed(measure_speed(own), None if theirs is None else measure_speed(theirs), spec.slower),)


def measure_speed(bundle: Path) -> float:
    """Seconds for an image, of the network in a bundle on its golden images, on this machine and one thread."""
    scorer = load_scorer(bundle)
    images = read_golden(bundle, scorer.info).images
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        scorer.predict(images)
        taken.append(time.perf_counter() - began)
    return min(taken) / len(images)


def _measure_size(bundle: Path) -> float:
    return (bundle / ONNX).stat().st_size / 1e6
