"""Settings of the gate: when a new version becomes champion by itself."""

from typing import Literal

from pydantic import Field

from cnn.spec import Settings

Slice = Literal["folder", "group", "camera"]


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
    slices: tuple[Slice, ...] = Field(
        ("folder", "group", "camera"),
        description="parts of the test images that are compared like classes: folder: the folders of the source other "
        "than those of the classes, such as sites; group: those of split.group; camera: by the photographs' EXIF data",
    )
    calibration: float | None = Field(
        0.05,
        ge=0.0,
        le=1.0,
        description="how much larger than the champion's the calibration error (ECE) may be, on 300 images or more; "
        "--set gate.calibration=null: it is only shown",
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
