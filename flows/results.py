"""Results of the flows, as `--json` prints them: the objects that other programs rely on."""

from typing import Any

from pydantic import Field

from cnn.spec import Spec
from tasks.score.truth import Truth


class ShardCounts(Spec):
    """Shards written by this run, and shards that existed."""

    built: int
    reused: int


class PrepareResult(Spec):
    """The answer of `prepare`. `seconds`: from the start of listing to the published manifest."""

    dataset: str
    manifest: str
    digest: str
    files: int
    outcomes: dict[str, int]
    splits: dict[str, int]
    classes: list[str]
    shards: ShardCounts
    seconds: float
    images_per_second: float


class GateResult(Spec):
    """The gate's verdict on a version: promote, keep (the champion stays: nothing was found wrong) or hold; its
    reasons, and what it weighed (`cnn.evaluation.weighed.Weighed`) with all numbers."""

    verdict: str
    reasons: list[str]
    weighed: list[dict[str, Any]] = Field(default_factory=list)


class TrainResult(Spec):
    """The answer of `train` and `retrain`. `metrics` were measured on `judged_on`; classes in `unjudged` had no images
    there."""

    model: str
    version: int
    trained: bool  # whether this run made the version; else nothing has changed since one did
    alias: str
    run_id: str
    dataset: str
    metrics: dict[str, float]
    judged_on: str = ""
    unjudged: tuple[str, ...] = ()
    gate: GateResult
    report: str = ""  # file:// address of the version's report on this machine; "" where it is not here
    seconds: float


class TrialRow(Spec):
    """One trial of a search; `log_loss` (nats, calibrated) and `accuracy` are those on the validation images, None
    where it did not come to its end."""

    trial: int
    what: str
    state: str
    log_loss: float | None
    accuracy: float | None
    seconds: float


class SearchResult(Spec):
    """The answer of `search`. `winner` is the trial that became `version`, `settings` the lines of a safelight.toml
    that ask for the same; there are none where `auto` won."""

    search: str
    trials: tuple[TrialRow, ...]
    winner: int
    settings: tuple[str, ...]
    version: TrainResult
    seconds: float


class ScoreResult(Spec):
    """The answer of `score`. `seconds`: from the start of listing to the published batch; `all` and `latest`: where the
    tables of all results so far and of the new ones are always found; `new`: decisions on images that are new;
    `effort`: how many predictions wait for a look, and how many of the others are wrong at most
    (`tasks.score.effort.Effort`); `truth`: how right it is, where that was asked for.
    """

    batch: str
    predictions: str
    report: str
    all: str = ""
    latest: str = ""
    new: dict[str, int] = Field(default_factory=dict)
    model: str
    version: int
    files: int
    outcomes: dict[str, int]
    scored: int
    reused: int
    effort: dict[str, int | None] | None = None
    seconds: float
    images_per_second: float
    truth: Truth | None = None
