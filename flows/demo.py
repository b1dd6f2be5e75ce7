"""The whole loop on 1,797 handwritten digits: retrain on most of them, score the rest with the champion."""

import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.images.pixels import encode_png
from flows.config import Config
from flows.progress import log_message

NAME = "digits"
HELD_OUT = 180  # a tenth, which training never sees
DEMO_SETTINGS = ("split.test=0.2",)  # all else follows from the images: small and grey, ten classes


def run_demo(workspace: str, config: Config) -> dict[str, Any]:
    """Write the digits as PNG files, retrain on the class folders, and score the inbox with the champion.

    The workspace is an absolute path, or an address.
    """
    started = time.monotonic()
    from flows.retrain import retrain
    from flows.score import score

    folder, truth = write_digits(_demo_folder(workspace))
    log_message(f"digits: {len(truth):,} of 1,797 pictures are held back in {folder / 'inbox'}")
    trained = retrain(str(folder / "digits"), NAME, workspace, config)
    scored = score(str(folder / "inbox"), NAME, workspace, config)
    return {
        "model": f"{NAME} version {trained['version']} ({trained['alias']})",
        "test_accuracy": trained["metrics"]["accuracy"],
        "test_images": int(trained["metrics"].get("test_images", 0)) or None,  # a version of an older release
        "judged_on": trained["judged_on"],
        "gate": trained["gate"]["verdict"],
        "training_report": trained["report"],
        "scored": scored["scored"] + scored["reused"],
        "inbox_accuracy": measure_inbox(workspace, scored["batch"], truth),
        "predictions": scored["predictions"],
        "report": scored["report"],
        "seconds": round(time.monotonic() - started, 1),
    }


def write_digits(folder: Path) -> tuple[Path, dict[str, str]]:
    """(the folder, the true label of each picture in its `inbox`); `digits` has one folder per digit.

    Pictures that are there already are left alone, so that a second demo finds nothing changed.
    """
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(labels))
    truth: dict[str, str] = {}
    for number in range(10):
        (folder / "digits" / str(number)).mkdir(parents=True, exist_ok=True)
    (folder / "inbox").mkdir(exist_ok=True)
    for position, row in enumerate(order):
        label, name = str(labels[row]), f"digit-{row:04d}.png"
        if position < HELD_OUT:
            truth[name] = label
        path = folder / "inbox" / name if position < HELD_OUT else folder / "digits" / label / name
        if not path.exists():
            pixels = np.rint(images[row] * (255 / 16)).astype(np.uint8)
            path.write_bytes(encode_png(pixels[..., None]))
    return folder, truth


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(images (1797, 8, 8) from 0 to 16, labels (1797,)): E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten
    Digits, 1998, https://doi.org/10.24432/C50P49, under CC BY 4.0; its test part, as scikit-learn has it."""
    with files("flows").joinpath("digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as digits:
        return digits["images"], digits["labels"]


def measure_inbox(workspace: str, batch: str, truth: dict[str, str]) -> float:
    """Share of the inbox whose prediction is right; a file without one counts as wrong."""
    import pyarrow.parquet as pq

    from infra.storage.layout import batch_path
    from infra.storage.store import open_store

    table = pq.read_table(open_store(workspace).fetch(batch_path(batch, "predictions.parquet")))
    given = dict(zip(table.column("path").to_pylist(), table.column("label").to_pylist(), strict=True))
    right = sum(given.get(name) == label for name, label in truth.items())
    return float(round(right / len(truth), 4))


def _demo_folder(workspace: str) -> Path:
    from infra.machine.user_dirs import cache_dir

    return (cache_dir() if "://" in workspace else Path(workspace)) / "demo"
