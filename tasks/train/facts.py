"""What a dataset version is like, for the choice of a recipe: sizes of the files, and training images of each class."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnn.dataset.manifest import Manifest
from cnn.images.survey import ImageSurvey
from cnn.training.recipes import DatasetFacts
from infra.storage.store import Store
from tasks.dataset.version import read_ledger


def read_dataset_facts(store: Store, manifest: Manifest, gpus: int) -> DatasetFacts:
    """The facts of a version, from its ledger; the files' sizes are medians over its images.

    Raises:
        IntegrityError, StorageError: the ledger is damaged or gone.
    """
    table = read_ledger(store, manifest, ["width", "height", "label_id", "split", "outcome"])
    images = table.filter(pc.equal(table.column("outcome"), "ok"))
    height, width = (_find_median(images.column(name), side) for name, side in _sides(manifest))
    train = images.filter(pc.equal(images.column("split"), "train")).column("label_id")
    counts = np.bincount(train.drop_null().to_numpy(), minlength=len(manifest.classes))
    is_grey = manifest.image.channels == 1
    survey = ImageSurvey(height=height, width=width, is_grey=is_grey, files=images.num_rows)
    return DatasetFacts(survey, manifest.image, tuple(counts.tolist()), gpus)


def _sides(manifest: Manifest) -> list[tuple[str, int]]:
    return list(zip(("height", "width"), manifest.image.size, strict=True))


def _find_median(column: pa.ChunkedArray, otherwise: int) -> int:
    values = column.drop_null().to_numpy()
    return int(np.median(values)) if len(values) else otherwise
