"""Our pages with every section that they can have, from made values: what is looked at with a browser."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from batch_scenes import NIGHT, make_failure, make_outcome
from judged_versions import make_judged_version
from small_dataset import draw_square

from cnn.evaluation.confidence import AcceptedShare, ConfidenceFigures
from cnn.evaluation.gate import Champion, Verdict
from cnn.evaluation.metrics import compare_paired
from cnn.evaluation.validity import GroupFigures, Shortcut, UnseenGroups
from cnn.evaluation.weighed import Weighed
from cnn.images.pixels import encode_png
from cnn.images.spec import ImageSpec
from infra.storage.store import open_store
from tasks.files.paths import encode_path
from tasks.pages.templates import render_page
from tasks.score.batch import BatchRecord, PredictionsRef
from tasks.score.decision import DecisionRule
from tasks.score.effort import measure_effort
from tasks.score.predictions import FileOutcome, make_predictions_table, write_predictions
from tasks.score.report import make_report
from tasks.score.spec import ModelRef, ScoreSpec
from tasks.score.summary import summarize_predictions
from tasks.score.truth import judge_batch
from tasks.train.evidence import Evidence, gather_evidence
from tasks.train.report import JudgedVersion, make_training_report
from tasks.train.suspects import SUSPECTS, SuspectCard

# Names of every length, a script that is read from right to left, one without a place to break.
CLASSES: tuple[str, ...] = ("blue", "green", "red fox, summer coat", "\u05e1\u05d5\u05e1", "a" * 72)
CLASSES += ("Eurasian three-toed woodpecker (female, in flight)",)
CLASSES += tuple(f"species {number}" for number in range(6, 48))
RULE = DecisionRule(
    thresholds=dict.fromkeys(CLASSES, 0.8), unknown_from=1.8, unknown_rate=0.05, tested=(180, 4), shortfall=""
)
SPEC = ScoreSpec(promise=0.95)
DEEP = "camera-7/" + "/".join(["2026-11-23_" + "x" * 40] * 3)  # of a path that is cut or broken


def write_full_training_report(folder: Path) -> Path:
    """A version that was held back, of 48 classes, with mistakes, suspects, groups, shortcuts and promises."""
    judged, evidence = make_full_version(folder)
    path = folder / "report.html"
    path.write_text(make_training_report(judged, evidence, datetime(2026, 3, 1, 2, tzinfo=UTC), True), "utf-8")
    return path


def make_full_version(folder: Path) -> tuple[JudgedVersion, Evidence]:
    """(what is known at the verdict, what the report shows beside it)."""
    paired = compare_paired([True] * 60 + [False] * 4, [True] * 63 + [False])
    judged = make_judged_version(
        folder,
        CLASSES,
        {"train": 4, "validation": 1, "test": 3},
        answer=lambda labels: [int(label + (place % 5 == 0)) % len(CLASSES) for place, label in enumerate(labels)],
        champion=Champion(3, CLASSES, paired=paired),
        shortcuts=make_shortcuts(),
        unseen_groups=make_groups(),
        confidence=make_confidence(),
        warnings=("no validation images of 'red': its confidence is not calibrated",),
    )
    judged = replace(judged, verdict=Verdict("hold", ("'green' lost 12 points.", "Look at its images."), weigh_all()))
    write_suspects_table(folder)
    evidence = gather_evidence(judged.result, judged.manifest, open_store(str(folder / "w")))
    heat = tuple(image.picture for image in evidence.mistakes)
    return judged, replace(evidence, heat=heat, no_heat="")


def write_suspects_table(folder: Path) -> None:
    """`suspects.parquet` of the run in `folder`: 14 training images that look like the class 'green'."""
    rows = [row for row in pq.read_table(folder / "w" / "ledger.parquet").to_pylist() if row["split"] == "train"][:14]
    table = {name: [row[name] for row in rows] for name in ("path", "path_raw", "digest", "split", "label")}
    table |= {"suggested": ["green"] * 14, "label_probability": [0.02] * 14, "suggested_probability": [0.97] * 14}
    pq.write_table(pa.table(table | {"score": [0.1] * 14}, schema=SUSPECTS), folder / "run" / "suspects.parquet")


def make_shortcuts() -> tuple[Shortcut, ...]:
    """One clue that gives the class away, one that does not."""
    clue: dict[str, Any] = {"remedy": "cut marks off", "images": 66, "right": 0.97, "guess": 0.33, "p": 0.007}
    clue |= {"label": CLASSES[4], "found": 0.98, "mistaken": 0.02, "is_alarm": True}
    light = clue | {"name": "The brightness of the images", "right": 0.41, "p": 0.6, "is_alarm": False}
    return (Shortcut(name="A corner of the images", **clue), Shortcut(**light))


def make_groups() -> tuple[UnseenGroups, ...]:
    """Cameras that make a difference, groups that make none, and sites of the user's table."""
    rows = tuple(GroupFigures(name=f"NIKON CORPORATION D{n}000", images=20, known=0.9, unseen=0.4) for n in range(3))
    shared: dict[str, Any] = {"groups": 3, "images": 60, "left_out": 6, "known": 0.94, "worst": rows}
    cameras = UnseenGroups(kind="camera", unseen=0.71, interval=(0.5, 0.9), p=0.001, **shared)
    groups = UnseenGroups(kind="group", unseen=0.93, interval=None, p=0.4, **shared)
    sites = UnseenGroups(kind="column:Site <name>", unseen=0.68, interval=(0.4, 0.85), p=0.001, **shared)
    return (cameras, groups, sites)


def make_confidence() -> ConfidenceFigures:
    """Promises that are kept, that want more images, and that cannot be kept."""
    plain = AcceptedShare(promise=None, threshold=0.8, images=144, accepted=100, right=90)
    kept = AcceptedShare(promise=0.9, threshold=0.9512, images=144, accepted=90, right=88)
    missing = AcceptedShare(promise=0.98, threshold=None, images=144, accepted=0, right=0, missing=31)
    hopeless = AcceptedShare(promise=0.99, threshold=None, images=144, accepted=0, right=0)
    promises = (kept, missing, hopeless)
    shares: dict[str, Any] = {"accept": plain, "promises": promises, "coverage": 0.95, "covered": 137}
    shares |= {"promise": 0.9, "by_class": (kept, missing)}
    return ConfidenceFigures(source="half", calibrated=260, images=144, **shares)


def weigh_all() -> tuple[Weighed, ...]:
    """What a gate weighs: rules that are kept, one that is broken, and a row for each class."""
    line = "the network takes 21 ms an image here, 1.3 times the champion's; gate.slower allows 1.2 times: broken"
    rows = [
        Weighed("champion", 0.91, 0.94, 0.01, True, "3 points worse than version 3 on the same images", 64, 0.031),
        Weighed("speed", 0.021, 0.016, 1.2, False, line),
        Weighed("dataset", "ab" * 32, "cd" * 32, "ab" * 32, True, f"trained on the dataset with digest {'ab' * 6}"),
    ]
    lost = "recall fell from 0.90 to 0.88"
    rows += [Weighed(f"class {name!r}", 0.88, 0.9, None, True, lost, 30, 0.4) for name in CLASSES]
    return tuple(rows)


def write_full_suspects_page(folder: Path) -> Path:
    """The page of suspected labels, with a picture that is there and one that is not."""
    _, evidence = make_full_version(folder)
    picture = evidence.mistakes[0].picture
    cards = [
        SuspectCard(f"{DEEP}/{number}.jpg", "train", CLASSES[4], CLASSES[5], 0.013, 0.98, picture if number else None)
        for number in range(9)
    ]
    path = folder / "suspects.html"
    shown: dict[str, Any] = {"cards": cards, "suspects": 212, "images": 4000, "dataset": "flowers-0ef40d1b896c"}
    path.write_text(render_page("train/suspects.html", **shown), "utf-8")
    return path


def write_full_scoring_report(folder: Path) -> Path:
    """A batch of accepted, doubtful, strange, broken and ignored files in folders of classes, with a promise."""
    pictures = {f"{CLASSES[n % 8]}/{DEEP}/{n}.png": encode_png(draw_square(n, n)) for n in range(64)}
    rows = [_score(path, data, place) for place, (path, data) in enumerate(pictures.items())]
    rows += [make_failure(f"{DEEP}/broken-{number}.jpg", "quarantined", "truncated") for number in range(3)]
    rows += [make_failure("notes.txt", "quarantined", "not_an_image"), make_failure(".DS_Store", "ignored", "hidden")]
    rows.sort(key=lambda row: encode_path(row.entry.path))
    write_predictions([make_predictions_table(rows, SPEC, RULE)], folder / "predictions.parquet")
    path = folder / "report.html"
    path.write_text(_make_scoring_report(folder, pictures.__getitem__), "utf-8")
    return path


def _score(path: str, data: bytes, place: int) -> FileOutcome:
    """The file's outcome: every fifth is mistaken, every seventh strange, and confidence runs from 0.3 to 1."""
    answer = CLASSES[(place + (place % 5 == 0)) % 8]
    sure = 0.3 + 0.7 * ((place * 37) % 64) / 64
    outcome = make_outcome(path, (answer, sure), ("green", 1 - sure), digest=hashlib.sha256(data).hexdigest())
    assert outcome.prediction is not None
    novelty = 2.7 + place / 100 if place % 7 == 0 else 0.9
    return replace(outcome, prediction=replace(outcome.prediction, novelty=novelty, labels_within=(answer,)))


def _make_scoring_report(folder: Path, read: Callable[[str], bytes]) -> str:
    summary = summarize_predictions(folder / "predictions.parquet", 6)
    images = summary.outcomes["ok"]
    record = BatchRecord(
        batch="2026-11-23-1a2b3c4d",
        request="",
        source=f"s3://photographs/{DEEP}",
        model=ModelRef(
            name="birds",
            version="7",
            bundle="ab" * 32,
            classes=CLASSES,
            judged="94.4 % of 144 test images right (89.3 to 97.5)",
            unjudged=CLASSES[4:6],
        ),
        spec=SPEC,
        files=summary.files,
        outcomes=summary.outcomes,
        decisions=summary.decisions,
        scored=images,
        reused=0,
        unread=0,
        scored_at=NIGHT.isoformat(),
        predictions=PredictionsRef(path="predictions.parquet", rows=summary.files, sha256=""),
        report="report.html",
        rule=RULE,
        truth=judge_batch(folder / "predictions.parquet", CLASSES),
        effort=measure_effort(images, summary.decisions["accept"], RULE),
    )
    return make_report(record, summary, f"/workspace/predictions/{DEEP}/predictions.parquet", ImageSpec(), read)
