"""Settings of the gate: when a new version becomes champion by itself."""

from typing import Literal

from pydantic import Field, field_validator

from cnn.dataset.split import find_column
from cnn.spec import Settings

SLICES = ("folder", "group", "camera")  # beside columns of the user's table


class GateSpec(Settings):
    """When a new version becomes champion (the one that scores) by itself."""

    margin: float = Field(
        0.01,
        ge=0.0,
        le=1.0,
        description="how much less accurate a new version may be than the champion, and than the best version ever "
        "judged on these images, as a share of them; it is spent once, not every night",
    )
    significance: float = Field(
        0.05,
        gt=0.0,
        lt=1.0,
        description="the chance that a version which is as good is refused, over all comparisons together (all images, "
        "each class, each slice); and the p value below which a first version is better than a constant answer",
    )
    equal: Literal["keep", "replace"] = Field(
        "keep",
        description="what becomes of a version that is as good as the champion within noise: keep: the champion stays; "
        "replace: the new version takes its place",
    )
    improvement: float = Field(
        0.2,
        gt=0.0,
        lt=1.0,
        description="where equal is keep, the p value below which a version counts as better than the champion",
    )
    class_margin: float = Field(
        0.05,
        ge=0.0,
        le=1.0,
        description="how much less of a class or a slice may be recognized, as a share of its images, where a test "
        "finds it worse",
    )
    support: int = Field(10, ge=1, description="test images below which a class or a slice is not compared")
    slices: tuple[str, ...] = Field(
        SLICES,
        examples=[["folder", "group", "camera", "column:site"]],
        description="parts of the test images that are compared like classes: folder: the folders of the source other "
        "than those of the classes, such as sites; group: those of split.group; camera: by the photographs' EXIF data; "
        "column:NAME: a column of source.table",
    )
    calibration: float | None = Field(
        0.05,
        ge=0.0,
        le=1.0,
        description="how much larger than the champion's the calibration error (ECE) may be, on 300 images or more; "
        "--set gate.calibration=null: it is only shown",
    )
    promise: float | None = Field(
        0.01,
        gt=0.0,
        lt=1.0,
        description="p value of the mistakes among accepted test images, were score.promise kept, below which it "
        "counts as broken and holds the version back; --set gate.promise=null: it is only shown",
    )
    leaks: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        examples=[0.1],
        description="largest share of the test images that may have a copy (the same file, picture, look, group or "
        "burst) among those of training and validation; not set: it is only shown",
    )
    slower: float | None = Field(
        None,
        gt=0.0,
        examples=[3.0],
        description="how many times as long as the champion's the network may take for "
        "an image; not set: it is not measured",
    )
    larger: float | None = Field(
        None,
        gt=0.0,
        examples=[10.0],
        description="how many times as large as the champion's the network's file may be; not set: it is only shown",
    )

    @field_validator("slices")
    @classmethod
    def _slices_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in SLICES and not find_column(name):
                raise ValueError(f"each is folder, group, camera or column:NAME, such as column:site, not {name!r}")
        return value

    def list_columns(self) -> tuple[str, ...]:
        """The columns of the user's table that are compared."""
        return tuple(filter(None, map(find_column, self.slices)))
