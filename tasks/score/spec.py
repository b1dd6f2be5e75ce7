"""Settings of scoring (`[score]`), and the values that travel to its workers."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Self

from pydantic import Field, model_validator

from cnn.evaluation.confidence import ConfidenceSpec
from cnn.spec import Settings, Spec
from tasks.score.decision import DecisionRule


class ScoreSpec(Settings):
    """How images are scored, and from which confidence a prediction is accepted without a look."""

    top_k: int = Field(3, ge=1, le=1000, description="classes listed for each image, the most probable first")
    batch_size: int = Field(8, ge=1, le=4096, description="images that the network sees at a time")
    accept: float = Field(
        0.8,
        ge=0.0,
        le=1.0,
        description="confidence from which a prediction is accepted; below it the image is for review",
    )
    promise: float | None = Field(
        None,
        ge=0.5,
        lt=1.0,
        examples=[0.98],
        description="share of the accepted predictions that are right, with 90 % confidence, on images like the"
        " training images; takes the place of score.accept: the threshold follows from images that the model has not "
        "learnt from, and where these are too few, none is accepted and the log says how many more it takes",
    )
    promise_by: Literal["all", "class"] = Field(
        "all", description="whether score.promise holds for all predictions together, or for those of each class"
    )
    coverage: float = Field(
        0.95,
        ge=0.5,
        lt=1.0,
        description="share of the images whose true class is among those that the column labels_within names",
    )
    allow_empty: bool = Field(
        False,
        description="whether the folder may be empty; false: that is an error, but for one on schedule that always was",
    )
    precision: Literal["float32", "int8"] = Field(
        "float32",
        description="arithmetic of the network: float32, or int8, two to three times as fast on processors with VNNI;"
        " set for retrain, versions get an int8 network where the gate finds it not worse",
    )
    features: bool = Field(
        False,
        description="whether features.parquet is written beside the predictions: what the network saw in each image, to"
        " find look-alikes with",
    )
    novelty: float = Field(
        0.01,
        ge=0.0,
        le=0.5,
        description="share of images like those learnt from that may be marked unknown by mistake, so that images that"
        " resemble nothing learnt from are found; 0: none is marked",
    )
    keep_removed_days: float = Field(
        90.0,
        ge=0.0,
        le=36500.0,
        description="days for which results/…/all keeps the rows of files that are gone; older ones leave with the next"
        " batch",
    )
    sheet: int = Field(12, ge=1, le=200, description="images on each contact sheet of the report")

    @property
    def confidence(self) -> ConfidenceSpec:
        """The settings that say when an answer stands without a look."""
        return ConfidenceSpec(
            accept=self.accept, promise=self.promise, promise_by=self.promise_by, coverage=self.coverage
        )

    @model_validator(mode="after")
    def _promises_are_of_the_exact_network(self) -> Self:
        if self.promise is not None and self.precision == "int8":
            raise ValueError("a promise is that of the float32 network; choose score.promise or int8, not both")
        return self

    @model_validator(mode="after")
    def _features_are_exact(self) -> Self:
        if self.features and self.precision == "int8":
            raise ValueError("features are those of the float32 network; choose score.features or int8, not both")
        return self


class ModelRef(Spec):
    """Which model scores: its name and version in the registry, the digest of its bundle, its class names.

    `judged` says how good it is and on which images that was measured, `unjudged` names classes that had none there.
    """

    name: str
    version: str
    bundle: str
    classes: tuple[str, ...] = ()
    judged: str = ""
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoreJob:
    """What is asked for: the addresses of source and workspace, the model, the settings, the time (UTC) to record, and
    the rule that the model's calibration and the settings come to."""

    source: str
    workspace: str
    model: ModelRef
    spec: ScoreSpec
    scored_at: datetime
    rule: DecisionRule = field(default=DecisionRule(), kw_only=True)
    judged: bool = field(default=False, kw_only=True)  # by the folders of the images: see `tasks.score.truth`


@dataclass(frozen=True)
class ScoreTask(ScoreJob):
    """What a worker needs beside the chunk; `known` is the workspace path of predictions that may be used again."""

    batch: str
    known: str | None = None
