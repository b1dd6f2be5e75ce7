"""Look at a sample of a source's images, where `image.size` is not set and has to suit them.

The sample is drawn by a hash of the paths, so that images that come or go hardly change it; what it showed stands in
the manifest, and holds for the next versions until the source has four times as many files, or a quarter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cnn.errors import BadImage
from cnn.images.spec import ImageSpec
from cnn.images.survey import ImageSurvey, looks_grey, sum_survey
from infra.cluster.spec import Run
from infra.storage.store import reuse_source
from tasks.files.chunks import Chunk, estimate_decoding, hash_paths, make_chunk
from tasks.files.decoding import choose_decoder
from tasks.files.listing import find_labelled
from tasks.files.reading import Files, computing
from tasks.prepare.job import PrepareJob, PreviousVersion, SourceFiles

SAMPLE = 96  # images
GROWTH = 4  # as many files as then, or a fraction of them, and the source is another one
SURVEY_SIZE = (32, 32)  # pixels to tell grey from colour


@dataclass(frozen=True)
class SurveyTask:
    """What a worker needs beside the chunk."""

    source: str
    max_pixels: int


def reuse_survey(files: SourceFiles, previous: PreviousVersion | None) -> ImageSurvey | None:
    """What the version before was chosen by, if it still holds for a source of so many files."""
    known = previous.manifest.survey if previous is not None and previous.manifest is not None else None
    if known is None or not known.files / GROWTH < files.table.num_rows < known.files * GROWTH:
        return None
    return known


def survey_source(
    job: PrepareJob, files: SourceFiles, rows: NDArray[np.int64], run: Run, on_files: Callable[[int], None]
) -> ImageSurvey | None:
    """What the images of a sample are like, given its rows; None where not one of them can be read.

    Raises:
        SourceError: the source as a whole does not answer.
    """
    chunk = make_chunk(files.table, rows, "survey")
    sizes: list[tuple[int, int]] = []
    grey: list[bool] = []

    def take(seen: list[tuple[int, int, bool]]) -> None:
        sizes.extend((height, width) for height, width, _ in seen)
        grey.extend(is_grey for _, _, is_grey in seen)
        on_files(len(rows))

    task = SurveyTask(job.source.uri, job.spec.image.max_pixels)
    total = int(pc.sum(files.table.column("size").take(pa.array(rows))).as_py() or 0)
    run(partial(survey_chunk, task=task), [chunk], take, estimate_decoding(1, len(rows), total), Chunk.isolate)
    return sum_survey(sizes, all(grey), files.table.num_rows)


def draw_sample(files: SourceFiles) -> NDArray[np.int64]:
    """int64 (at most `SAMPLE`,): rows of labelled files, by a hash of their paths."""
    labelled = find_labelled(files.table)
    order = np.argsort(hash_paths(files.table.column("path"), labelled), kind="stable")
    return np.asarray(labelled[order[:SAMPLE]])


def survey_chunk(chunk: Chunk, task: SurveyTask) -> list[tuple[int, int, bool]]:
    """(height, width, whether it is grey) of each image that can be read.

    Raises:
        SourceError: the source as a whole does not answer.
    """
    files = Files(reuse_source(task.source), chunk.entries)
    image = ImageSpec(size=SURVEY_SIZE, max_pixels=task.max_pixels, resize="stretch")
    seen: list[tuple[int, int, bool]] = []
    try:
        decode = choose_decoder(chunk.isolated)
        with computing():
            for _, _, data in files:
                try:
                    if isinstance(data, BadImage):
                        continue
                    decoded = decode(data, image)
                except BadImage:
                    continue  # its reason is found when it is built
                seen.append((decoded.height, decoded.width, looks_grey(decoded.pixels)))
    finally:
        files.close()
    return seen
