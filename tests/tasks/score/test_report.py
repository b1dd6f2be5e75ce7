"""The report says what the rows say, shows the right pictures, and no name makes it run, load or hide anything."""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batch_scenes import NIGHT, make_failure, make_outcome
from hypothesis import given
from hypothesis import strategies as st
from page_parser import Page, assert_harmless
from PIL import Image

from cnn.errors import SourceError
from cnn.evaluation.confidence import NEVER
from cnn.images.pixels import encode_jpeg, encode_png
from cnn.images.spec import ImageSpec
from tasks.files.ignore_rules import BEGINNING, EXCLUDED, FILE_ENDINGS
from tasks.files.paths import encode_path
from tasks.pages.histogram import HISTOGRAM_BINS, choose_top, draw_histogram
from tasks.pages.html import show_name, show_percent, show_tail
from tasks.pages.thumbnails import make_picture
from tasks.score.batch import BatchRecord, PredictionsRef
from tasks.score.decision import DecisionRule
from tasks.score.effort import Effort
from tasks.score.predictions import FileOutcome, make_predictions_table, write_predictions
from tasks.score.report import IGNORE_RULES, make_report
from tasks.score.spec import ModelRef, ScoreSpec
from tasks.score.summary import MAX_QUARANTINED, MAX_SHEETS, Summary, describe_quarantined, summarize_predictions
from tasks.score.truth import judge_batch

TINY = encode_png(np.arange(64, dtype=np.uint8).reshape(8, 8, 1))
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>.jpg',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "{{ 7*7 }}{% raw %}.png",
    "</title></style><svg onload=alert(1)>",
    "line\nbreak\x1b[31m.png",
    "\u202egpj.exe",
    "b\udcff.png",
    "<!--",
    "x" * 255,
)
CLASSES = tuple(name for name in HOSTILE if "\udcff" not in name)  # a bundle holds them as UTF-8


def make_row(path: str, label: str = "cat", confidence: float = 0.9, data: bytes = TINY) -> FileOutcome:
    return make_outcome(path, (label, confidence), digest=hashlib.sha256(data).hexdigest())


def summarize(folder: Path, rows: list[FileOutcome], sheet: int = 2) -> Summary:
    rows.sort(key=lambda row: encode_path(row.entry.path))
    write_predictions([make_predictions_table(rows, ScoreSpec())], folder / "predictions.parquet")
    return summarize_predictions(folder / "predictions.parquet", sheet)


RECORD = BatchRecord(
    batch="b1",
    request="",
    source="/in",
    model=ModelRef(name="digits", version="7", bundle="ab" * 32),
    spec=ScoreSpec(),
    files=0,
    outcomes={},
    decisions={},
    scored=0,
    reused=0,
    unread=0,
    scored_at=NIGHT.isoformat(),
    predictions=PredictionsRef(path="predictions.parquet", rows=0, sha256=""),
    report="report.html",
)


def report(
    folder: Path,
    rows: list[FileOutcome],
    read: Any = lambda _: TINY,
    image: ImageSpec = ImageSpec(),  # noqa: B008 - frozen
    source: str = "/in",
    **model: Any,
) -> Page:
    record = RECORD.model_copy(update={"source": source, "model": RECORD.model.model_copy(update=model)})
    return Page(make_report(record, summarize(folder, rows), "/out/predictions.parquet", image, read))


def test_pictures_of_more_than_8_bits_are_shown_as_the_model_sees_them(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(100, 610, 200 * 200).astype(np.uint16).reshape(200, 200)).save(buffer, "PNG")
    data = buffer.getvalue()
    spreads = {}
    for levels in ("full", (100, 610)):
        image = ImageSpec(levels=levels)
        page = report(tmp_path, [make_row("deep.png", data=data)], lambda _: data, image=image)
        [uri] = page.values("src")
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L"))
        spreads[levels] = int(shown.max()) - int(shown.min())
    assert spreads["full"] <= 4
    assert spreads[100, 610] >= 240


def test_hostile_names_are_harmless_and_visible(tmp_path: Path) -> None:
    rows = [make_row(name, label) for name in HOSTILE for label in ("<b>bold</b>", *CLASSES)]
    rows += [make_failure(f"bad/{name}", "quarantined", f"decode_error: {name[:9]!r}") for name in HOSTILE]
    rows += [make_failure(f"no/{name}", "ignored", "hidden") for name in HOSTILE]
    page = report(tmp_path, rows, name=HOSTILE[5], version=HOSTILE[0], source=HOSTILE[1], classes=HOSTILE)
    assert_harmless(page)
    assert page.tags.count("title") == 3  # of the page, of the histogram, and of its one bar
    for shown in (
        "<script>alert(1)</script>",
        "\\u202egpj.exe",
        "line\\nbreak\\x1b[31m.png",
        "{{ 7*7 }}{% raw %}",
    ):
        assert f"bad/{shown}" in page.text


def test_why_files_are_quarantined_is_told_with_the_limit_of_the_model(tmp_path: Path) -> None:
    rows = [make_row("a.png"), make_failure("b.png", "quarantined", "too_many_pixels: 9000x9000")]
    rows += [make_failure(f"{n}.txt", "quarantined", "not_an_image: JSON") for n in (1, 2)]
    rows += [make_failure(".x", "ignored", "hidden")]
    summarize(tmp_path, rows)
    told = describe_quarantined(next(tmp_path.glob("**/*.parquet")), 50_000_000)
    assert told == "2 not_an_image: JSON, 1 too_many_pixels (this model takes 50,000,000 pixels at most)"


def test_the_page_says_on_what_the_model_was_judged(tmp_path: Path) -> None:
    judged = "accuracy 0.9970 (0.9909 to 1.0000) on 329 images, test split of digits-3ae7d81ed566"
    page = report(tmp_path, [make_row("a.png")], judged=judged, unjudged=("owl", HOSTILE[1]))
    assert_harmless(page)
    assert f"How good the model is: {judged}. Its own report: safelight open digits 7" in page.text
    assert f"judged on no image of owl, {HOSTILE[1]}: how well it tells them is not known" in page.text
    page = report(tmp_path, [make_row("a.png")])
    assert "nobody knows what it was judged on" in page.text
    assert "judged on no image" not in page.text


def test_the_page_says_where_no_image_can_be_marked_unknown(tmp_path: Path) -> None:
    """Else none of a folder of strange images would look like a finding."""
    effort, line = Effort(look_at=0, of=1, wrong_at_most=1), "None is marked unknown: this version cannot tell"
    for rule, told in ((DecisionRule(), True), (DecisionRule(unknown_from=2.0, unknown_rate=0.01), False)):
        record = RECORD.model_copy(update={"effort": effort, "rule": rule})
        summary = summarize(tmp_path, [make_row("a.png")])
        page = Page(make_report(record, summary, "/out/predictions.parquet", ImageSpec(), lambda _: TINY))
        assert (line in page.text) == told


def test_a_promise_is_for_images_like_those_learnt_from_and_held_against_the_folder(
    tmp_path: Path,
) -> None:
    rows = [make_row(f"cat/{n}.png", "cat" if n else "dog") for n in range(5)]
    summary = summarize(tmp_path, [*rows, make_row("wolf/5.png")])
    truth = judge_batch(tmp_path / "predictions.parquet", ("cat", "dog"))
    changes = {
        "spec": ScoreSpec(promise=0.9),
        "rule": DecisionRule(thresholds={"cat": 0.85, "dog": 0.85}),
        "effort": Effort(look_at=0, of=6, wrong_at_most=1),
        "truth": truth,
    }
    record = RECORD.model_copy(update=changes)
    text = Page(make_report(record, summary, "/out/predictions.parquet", ImageSpec(), lambda _: TINY)).text
    promised = "at least 90.0\u202f% of those accepted are right, where images are like those learnt from"
    assert f"at a confidence of 0.85 or more (promised: {promised})" in text
    assert "Promised with 90 % confidence: of images like those learnt from, at least 90 % of what is accepted" in text
    assert "In this folder, of 5 accepted images in folders of classes 4 are right, 80.0%: less than the 90 %" in text
    assert "1 more was accepted that lies in no folder of a class" in text


def test_a_promise_that_some_classes_lack_is_told_with_what_became_of_it(tmp_path: Path) -> None:
    summary = summarize(tmp_path, [make_row("cat/1.png", "cat")])
    truth = judge_batch(tmp_path / "predictions.parquet", ("cat", "dog"))
    shortfall = "no promise of 0.9 can be kept for 'dog'"
    rule = DecisionRule(thresholds={"cat": 0.85, "dog": NEVER}, shortfall=shortfall)
    spec = ScoreSpec(promise=0.9, promise_by="class")
    effort = Effort(look_at=0, of=1, wrong_at_most=1)
    changes = {"spec": spec, "rule": rule, "truth": truth, "effort": effort}
    record = RECORD.model_copy(update=changes)
    text = Page(make_report(record, summary, "/out/predictions.parquet", ImageSpec(), lambda _: TINY)).text
    assert "at least 90 % of what is accepted is right, in each class. No promise of 0.9 can be kept for 'dog'." in text
    assert "In this folder, of 1 accepted image in a folder of a class 1 is right." in text
    none = RECORD.model_copy(update=changes | {"rule": DecisionRule(thresholds={"cat": NEVER}, shortfall=shortfall)})
    text = Page(make_report(none, summary, "/out/predictions.parquet", ImageSpec(), lambda _: TINY)).text
    assert "Promised with" not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Zoë 東京.png", "Zoë 東京.png"),
        ("a\u202eb", "a\\u202eb"),
        ("a\ud800", "a\\ud800"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("\u200b\ufeff", "\\u200b\\ufeff"),
    ],
)
def test_names_are_shown_as_they_are_unless_they_deceive(name: str, shown: str) -> None:
    assert show_name(name) == shown


def test_long_names_are_cut_in_the_middle() -> None:
    assert show_tail("folder/IMG_0001.jpg") == "IMG_0001.jpg"
    assert show_tail("x" * 100 + "-0001.jpg", 20) == "xxxxxxxxx…x-0001.jpg"


def test_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    rows = [make_row(f"{i}", "cat", 0.705 + i / 100) for i in range(20)] + [make_row("x", "dog", 1.0)]
    rows += [make_failure(f"q{i}", "quarantined", "truncated: 3 bytes") for i in range(3)]
    rows += [make_failure("q9", "quarantined", "empty_file"), make_failure(".a", "ignored", "hidden")]
    summary = summarize(tmp_path, rows)
    assert summary.outcomes == {"ok": 21, "quarantined": 4, "ignored": 1}
    assert summary.decisions == {"accept": 11, "review": 10, "unknown": 0}
    assert [(mix.label, mix.accept, mix.review) for mix in summary.mix] == [("cat", 10, 10), ("dog", 1, 0)]
    assert summary.reasons == (("truncated", 3), ("empty_file", 1))
    assert (sum(summary.accept_bins), sum(summary.review_bins), summary.accept_bins[-1]) == (11, 10, 1)
    assert "21 of 26 files have a prediction" in " ".join(report(tmp_path, rows).text.split())


@given(st.lists(st.sampled_from([0.2, 0.5, 0.9]), max_size=12), st.integers(1, 4))
def test_sheets_hold_the_surest_and_the_least_sure(confidences: list[float], size: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        rows = [make_row(f"{i:02}", "cat", confidence) for i, confidence in enumerate(confidences)]
        sheets = summarize(Path(folder), rows, size).sheets
    ranked = sorted(range(len(confidences)), key=lambda i: (-confidences[i], i))
    most = [int(example.path) for sheet in sheets for example in sheet.most]
    least = [int(example.path) for sheet in sheets for example in sheet.least]
    assert most == ranked[:size]
    assert least == ranked[::-1][: max(0, min(size, len(ranked) - size))]


def test_many_classes_are_capped_and_the_page_says_so(tmp_path: Path) -> None:
    rows = [make_row(f"{label}-{i}", f"class {label}") for label in range(30) for i in range(1 + label % 3)]
    page = report(tmp_path, rows)
    assert page.tags.count("article") == MAX_SHEETS
    assert f"Shown for the {MAX_SHEETS} most frequent of 30 classes" in page.text
    assert "And 10 more classes with" in page.text


def test_every_rule_that_leaves_files_out_is_explained() -> None:
    assert set(IGNORE_RULES) == {EXCLUDED, *FILE_ENDINGS.values(), *BEGINNING.groupindex}


def test_long_quarantine_is_capped_and_the_page_says_so(tmp_path: Path) -> None:
    rows = [make_failure(f"{i:04}.jpg", "quarantined", "empty_file") for i in range(MAX_QUARANTINED + 25)]
    page = report(tmp_path, rows)
    assert "And 25 more: see predictions.parquet." in page.text
    assert page.text.count(".jpg") == MAX_QUARANTINED
    assert f"None of {MAX_QUARANTINED + 25} files could be scored." in " ".join(page.text.split())


def test_no_files_make_a_page_that_says_so(tmp_path: Path) -> None:
    page = report(tmp_path, [], classes=("a", "b"))
    assert_harmless(page)
    assert "nothing to score" in page.text


def test_lost_and_changed_files_leave_a_placeholder(tmp_path: Path) -> None:
    def read(path: str) -> bytes:
        if path == "gone":
            raise SourceError("the folder is gone")
        return TINY + b" " if path == "other" else TINY

    page = report(tmp_path, [make_row(name) for name in ("gone", "here", "other")], read)
    assert page.tags.count("img") == 1
    assert "no longer there" in page.text
    assert "changed since" in page.text


def test_pictures_are_read_by_their_real_names(tmp_path: Path) -> None:
    page = report(tmp_path, [make_row("b\udcff.png")], {"b\udcff.png": TINY}.__getitem__)
    assert page.tags.count("img") == 1


def open_picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_tiny_images_are_enlarged_in_squares() -> None:
    picture = make_picture(TINY, ImageSpec())
    pixels = np.asarray(open_picture(picture.uri))
    assert (picture.width, picture.height) == (96, 96)
    assert (pixels[::12, ::12].ravel() == np.arange(64)).all()
    assert (pixels == pixels[::12, ::12].repeat(12, 0).repeat(12, 1)).all()


@pytest.mark.parametrize(("height", "width"), [(300, 200), (200, 300), (97, 2), (1000, 999)])
def test_photographs_keep_their_shape(height: int, width: int) -> None:
    picture = make_picture(encode_jpeg(np.full((height, width, 3), 7, np.uint8)), ImageSpec())
    longer = max(height, width)
    assert (picture.height, picture.width) == (
        max(1, round(144 * height / longer)),
        max(1, round(144 * width / longer)),
    )
    assert np.asarray(open_picture(picture.uri)).max() < 20  # none of the white that filled the square


@given(
    st.lists(st.integers(0, 10**6), min_size=HISTOGRAM_BINS, max_size=HISTOGRAM_BINS),
    st.lists(st.integers(0, 10**6), min_size=HISTOGRAM_BINS, max_size=HISTOGRAM_BINS),
    st.floats(0, 1),
)
def test_histogram_counts_everything_and_stays_inside(accept: list[int], review: list[int], threshold: float) -> None:
    drawn = draw_histogram(accept, review, threshold)
    assert sum(bar.accept for bar in drawn.bars) == sum(accept)
    assert sum(bar.review for bar in drawn.bars) == sum(review)
    for bar in drawn.bars:
        assert drawn.left <= bar.x <= bar.x + bar.width <= drawn.right
        assert drawn.top - 0.02 <= bar.accept_y
        assert bar.review_y + bar.review_height <= drawn.bottom + 0.02
    assert drawn.left <= drawn.threshold.at <= drawn.right


@given(st.integers(0, 10**9))
def test_axis_ends_at_a_round_number_above_the_bars(largest: int) -> None:
    top = choose_top(largest)
    assert largest <= top <= max(2, 2.5 * largest)
    assert str(top).rstrip("0") in ("1", "2", "4", "6", "8")


@pytest.mark.parametrize(("share", "text"), [(1.0, "100.0\u202f%"), (0.99999, "> 99.9\u202f%"), (0.876, "87.6\u202f%")])
def test_percent_never_rounds_up_to_certainty(share: float, text: str) -> None:
    assert show_percent(share) == text
