"""What `safelight why` takes on a workspace with many nights: made-up ledgers and batches, searched for one image.

python tests/bench/bench_why.py [--nights 200] [--rows 5000]
"""

import argparse
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from batch_scenes import MODEL, make_outcome
from ledgers import make_ledger

from cnn.dataset.manifest import LedgerRef, Manifest
from cnn.dataset.normalization import Normalization
from cnn.dataset.split import SplitSpec
from cnn.images.spec import AugmentSpec, ImageSpec
from flows.why import find_history
from infra.storage.layout import batch_path, manifest_path
from infra.storage.store import open_store
from tasks.dataset.ledger import write_ledger
from tasks.score.batch import BatchRecord, PredictionsRef
from tasks.score.predictions import make_predictions_table, write_predictions
from tasks.score.spec import ScoreSpec

FIRST = datetime(2026, 1, 1, 2, tzinfo=UTC)


def name_image(number: int) -> tuple[str, str]:
    """(path, sha256) of an image."""
    return f"camera-{number % 7}/{number:06}.jpg", sha256(str(number).encode()).hexdigest()


def write_versions(workspace: Path, nights: int, rows: int) -> None:
    """A version a night; each has one new image more."""
    for night in range(nights):
        images = [name_image(number) for number in range(rows + night)]
        facts = {"size": 9, "modified": "0.0", "label": "bright", "split": "train", "outcome": "ok"}
        table = make_ledger(
            [facts | {"path": path, "digest": key, "image_key": bytes.fromhex(key[:32])} for path, key in images]
        )
        path = workspace / f"ledgers/{night}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_ledger(path, [table.sort_by("path")])
        manifest = Manifest(
            dataset="",
            digest=f"{night:064}",
            source="/photographs",
            classes=MODEL.classes,
            image=ImageSpec(),
            augment=AugmentSpec(),
            split=SplitSpec(),
            normalization=Normalization(method="unit", scale=1 / 255, offset=0.0),
            ledger=LedgerRef(
                path=f"ledgers/{night}.parquet", rows=len(images), sha256=sha256(path.read_bytes()).hexdigest()
            ),
            splits={},
            files=len(images),
            outcomes={"ok": len(images)},
        )
        named = manifest.model_copy(update={"dataset": f"night-{manifest.digest_of_content()[:12]}"})
        (workspace / manifest_path(named.dataset)).parent.mkdir(parents=True)
        (workspace / manifest_path(named.dataset)).write_text(named.to_json())


def write_batches(workspace: Path, nights: int, rows: int) -> None:
    """A batch a night, of the same inbox."""
    scored = [make_outcome(path, digest=key) for path, key in sorted(map(name_image, range(rows)))]
    table = make_predictions_table(scored, ScoreSpec())
    for night in range(nights):
        name = f"2026-{night:04}"
        path = workspace / batch_path(name, "predictions.parquet")
        path.parent.mkdir(parents=True)
        write_predictions([table], path)
        record = BatchRecord(
            batch=name,
            request="",
            source="/inbox",
            model=MODEL,
            spec=ScoreSpec(),
            files=rows,
            outcomes={"ok": rows},
            decisions={"accept": rows},
            scored=0,
            reused=rows,
            unread=0,
            scored_at=(FIRST + timedelta(days=night)).isoformat(),
            predictions=PredictionsRef(
                path=batch_path(name, "predictions.parquet"), rows=rows, sha256=sha256(path.read_bytes()).hexdigest()
            ),
            report="report.html",
        )
        path.with_name("batch.json").write_text(record.model_dump_json())


def time_search(workspace: Path, text: str, repeat: int = 3) -> float:
    """Milliseconds, the median of some searches."""
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        _, history = find_history(open_store(str(workspace)), text)
        taken.append(1000 * (time.perf_counter() - began))
        assert history.sightings
        assert history.predictions
    return statistics.median(taken)


def main(words: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=200)
    parser.add_argument("--rows", type=int, default=5000, help="images in each version and each batch")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "w"
        write_versions(workspace, options.nights, options.rows)
        write_batches(workspace, options.nights, options.rows)
        print(f"{options.nights} versions and {options.nights} batches of {options.rows} images")
        path, digest = name_image(options.rows // 2)
        for name, text in (("sha256", digest), ("8 digits", digest[:8]), ("path", path)):
            print(f"by {name}: {time_search(workspace, text):.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
