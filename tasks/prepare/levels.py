"""Measure which levels the training images of more than 8 bits use, where `image.levels = "dataset"` asks for that.

It is resolved before anything is built: the training images are read once, and what they use stands in the manifest's
image settings, and so in the model, in place of "dataset". The next version of the same source keeps the levels of the
version before as long as all other settings that decide pixels are the same, whatever images come and go: chunks stay
built, and versions stay comparable. Where there were none of more than 8 bits there is nothing to keep, and the next
run looks again.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from cnn.errors import BadImage
from cnn.formats.content_digest import digest_image_data
from cnn.formats.file_kinds import may_be_deep
from cnn.formats.levels import LevelSpan, combine_spans
from cnn.images.spec import ImageSpec
from infra.cluster.spec import Run
from infra.storage.store import reuse_source
from tasks.files.chunks import Chunk, ChunkPlan, cut_by_hash, estimate_decoding, make_chunk
from tasks.files.decoding import choose_decoder
from tasks.files.listing import find_labelled
from tasks.files.reading import Files, computing
from tasks.prepare.build import BuildTask
from tasks.prepare.job import PrepareJob, PreviousVersion, SourceFiles

DATASET = "dataset"


def reuse_levels(files: SourceFiles, previous: PreviousVersion | None) -> SourceFiles | None:
    """The files with the levels that were measured for the previous version; None where they have to be measured.

    They decide as much as they did then where all other settings that decide pixels are the same.
    """
    manifest = None if previous is None else previous.manifest
    if manifest is None or not manifest.measured_levels:
        return None
    found = with_levels(files, manifest.image.levels)
    return found if manifest.build == found.spec.build_key() else None


def measure_levels(job: PrepareJob, files: SourceFiles, run: Run, on_files: Callable[[int], None]) -> SourceFiles:
    """The files with the levels that the training images use; `on_files` is given numbers of files that were read.

    Raises:
        SourceError: the source as a whole does not answer.
    """
    plan = cut_labelled(files.table, job.chunk_files)
    chunks = (make_chunk(files.table, plan.rows_of(number), DATASET) for number in range(len(plan)))
    spans: list[LevelSpan] = []

    def take(result: tuple[int, list[LevelSpan]]) -> None:
        spans.extend(result[1])
        on_files(result[0])

    task = BuildTask(job.source.uri, job.store.uri, files.spec)
    size = files.table.column("size").take(pa.array(plan.rows))
    estimate = estimate_decoding(len(plan), len(plan.rows), int(pc.sum(size).as_py() or 0))
    run(partial(measure_chunk, task=task), chunks, take, estimate, Chunk.isolate)
    found = combine_spans(spans)
    return with_levels(files, found) if found is not None else replace(with_levels(files, "full"), measured=False)


def with_levels(files: SourceFiles, levels: str | LevelSpan) -> SourceFiles:
    """The files with these measured levels in place of `image.levels = "dataset"`."""
    image = files.spec.image.model_copy(update={"levels": levels})
    return replace(files, spec=files.spec.model_copy(update={"image": image}), measured=True)


def cut_labelled(files: pa.Table, size: int) -> ChunkPlan:
    """Chunks of all files that are read for a dataset."""
    return cut_by_hash(files, find_labelled(files), size)


def measure_chunk(chunk: Chunk, task: BuildTask) -> tuple[int, list[LevelSpan]]:
    """(how many files, the levels of each training image of more than 8 bits).

    Raises:
        SourceError: the source as a whole does not answer.
    """
    files = Files(reuse_source(task.source), chunk.entries)
    image = ImageSpec(size=(1, 1), filter="area", max_pixels=task.spec.image.max_pixels, levels=DATASET)
    spans: list[LevelSpan] = []
    try:
        decode = choose_decoder(chunk.isolated)
        with computing():
            for entry, digest, data in files:
                if digest is None or isinstance(data, BadImage) or not may_be_deep(data):
                    continue
                if task.spec.place_image(entry.path, digest_image_data(data, digest).hex())[0] != "train":
                    continue
                try:
                    seen = decode(data, image).seen
                except BadImage:
                    continue  # its reason is found when it is built
                spans.extend([seen] if seen else [])
    finally:
        files.close()
    return len(chunk.entries), spans
