"""Plan and publish a batch of very many files that nobody decodes; the answer is the peak memory of each part.

    python listed_batch.py FILES CHANGED WORKSPACE

The files come from a made-up listing; `CHANGED` of them are new in each run, the others have rows of the run before.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import flows.score  # noqa: F401 - what the command has imported when it begins
from infra.storage.entry import Entry
from infra.storage.layout import score_part_path
from infra.storage.store import Store, open_store
from tasks.files.chunks import Chunk
from tasks.files.listing import list_source
from tasks.score.batch import find_previous_batch
from tasks.score.chunk import ChunkScores, KnownPredictions
from tasks.score.plan import ScorePlan, plan_scoring
from tasks.score.predictions import FileOutcome, Guess, Prediction, encode_part, make_predictions_table
from tasks.score.publish import publish_batch
from tasks.score.spec import ModelRef, ScoreJob, ScoreSpec

NIGHT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
MODEL = ModelRef(name="levels", version="3", bundle="ab" * 32, classes=("dark", "bright"))
TOP = (Guess("dark", 0.9), Guess("bright", 0.1))


class MadeUpSource:
    """A hundred cameras with a folder for each night; the first `changed` files were written after the others."""

    uri, is_local = "made-up", True

    def __init__(self, files: int, changed: int) -> None:
        self.files, self.changed = files, changed

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every file."""
        for number in range(self.files):
            written = time.time_ns() if number < self.changed else 1_700_000_000_000_000_000 + number
            folder = f"camera-{number % 100:02}/night-{number // 100 % 365:03}"
            yield Entry(f"{folder}/IMG_{number:07}.jpg", 1_000 + number % 4_096, f"{written}.{written}")

    def read(self, path: str, stamp: str = "") -> bytes:
        """Nothing: the report has no pictures."""
        return b""

    def uri_of(self, path: str) -> str:
        """The path."""
        return path


def write_part(store: Store, plan: ScorePlan, chunk: Chunk) -> None:
    """What a worker leaves of a chunk."""
    rows = []
    for entry in chunk.entries:
        digest = hashlib.sha256(entry.path.encode()).hexdigest()
        rows.append(FileOutcome(entry, MODEL.version, "ok", digest=digest, prediction=Prediction(TOP, 8, 8, NIGHT)))
    name, size = score_part_path(plan.task.batch, chunk.key), sum(entry.size for entry in chunk.entries)
    counts = asdict(ChunkScores(chunk.key, name, len(rows), size, len(rows), 0, 0, 0))
    target = Path(store.root, name)  # written without fsync: the disk is not what is measured
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode_part(make_predictions_table(rows, plan.task.spec), counts))


def main() -> None:
    """Run one batch."""
    files, changed, workspace = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    source, store, peaks = MadeUpSource(files, changed), open_store(workspace), {"start": read_peak()}
    began = time.monotonic()
    job = ScoreJob(source.uri, store.uri, MODEL, ScoreSpec(), NIGHT)
    plan = plan_scoring(list_source(source), job, find_previous_batch(store, job))
    peaks["plan"] = read_peak()
    known = KnownPredictions(plan.previous.path) if plan.previous and plan.previous.path else None  # as workers have it
    for chunk in plan.make_chunks():
        write_part(store, plan, chunk)
    peaks["score"] = read_peak()
    record = publish_batch(store, plan, source.read)
    peaks["publish"] = read_peak()
    answer = {"scored": record.scored, "reused": record.reused, "known": known is not None, "peaks": peaks}
    print(json.dumps(answer | {"seconds": time.monotonic() - began}))


def read_peak() -> float:
    """MiB that this process has held at most, since it began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024.0 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
