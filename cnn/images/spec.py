"""Image and augmentation settings; imports nothing heavy."""

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from cnn.digest import canonical_json
from cnn.spec import Settings, as_pair

NOT_PIXELS = {"normalize", "encoding", "max_pixels"}  # settings that leave the pixels of an image as they are
SHORT_FORM = ("crop", "mirror", "rotate", "color", "shift", "cutout")
SINCE = {"levels": "full", "raw": "refuse"}  # settings that came later → what was done before they existed
AUGMENT_SINCE = {"transforms": None, "shift": 0.0, "cutout": 0.0}  # likewise

Filter = Literal["fast", "area", "bicubic", "lanczos"]
PixelSide = Annotated[int, Field(ge=1, le=4096)]
Sides = Annotated[
    tuple[PixelSide, PixelSide],
    BeforeValidator(as_pair, json_schema_input_type=PixelSide | tuple[PixelSide, PixelSide]),
]
Level = Annotated[int, Field(ge=0, le=255)]


def _check_levels(value: Any) -> Any:
    if isinstance(value, str) and value in ("full", "dataset"):
        return value
    if isinstance(value, (list, tuple)) and len(value) == 2:
        low, high = value
        if all(isinstance(level, int) and not isinstance(level, bool) for level in value) and low < high:
            return (low, high)
    raise ValueError('give "full", "dataset", or two whole levels as in [100, 4095], the lower one first')


Levels = Annotated[Literal["full", "dataset"] | tuple[int, int], BeforeValidator(_check_levels)]


def _read_serialized(value: Any) -> Any:
    """What `albumentations.to_dict` gives, as plain JSON values; text is taken as JSON."""
    try:
        plain = json.loads(value if isinstance(value, str) else canonical_json(value))
    except (TypeError, ValueError):
        plain = None
    if value is None or (isinstance(plain, dict) and isinstance(plain.get("transform"), dict)):
        return plain
    raise ValueError('give what albumentations.to_dict(...) gives: {"transform": {…}}, as a table or as JSON in a text')


Serialized = Annotated[
    dict[str, JsonValue], BeforeValidator(_read_serialized, json_schema_input_type=dict[str, Any] | str)
]


class _GivenSize(Settings):
    size: Sides = Field((96, 96), description="height and width in pixels, or one number for both")
    channels: Literal[1, 3] = Field(3, description="1: grey; 3: color (RGB)")


class _OpenSize(Settings):
    size: Sides | None = Field(
        None,
        examples=[[96, 96]],
        description="height and width in pixels, or one number for both; not set: what suits the images and the"
        " network",
    )
    channels: Literal[1, 3] | None = Field(
        None, examples=[3], description="1: grey; 3: color (RGB); not set: grey where all images are"
    )


class _ImageRules(Settings):
    resize: Literal["crop", "pad", "stretch"] = Field(
        "crop",
        description="how a picture gets this size: crop: scaled to fill it, then the middle; pad: scaled to fit in,"
        " with borders; stretch: without regard to its proportions",
    )
    filter: Filter = Field(
        "fast",
        description="how pixels are combined: fast: means, in two steps (large JPEGs are decoded at 1/2, 1/4 or "
        "1/8); area: means when shrinking, linear when growing; bicubic, lanczos: Pillow's antialiased filters",
    )
    normalize: Literal["symmetric", "unit", "standardize"] = Field(
        "symmetric",
        description="pixel values that the network sees: symmetric: -1 to 1; unit: 0 to 1; standardize: mean 0 and"
        " standard deviation 1 over the training images of the dataset",
    )
    encoding: Literal["raw", "jpeg"] = Field(
        "raw", description="how the dataset keeps pixels: raw: fastest; jpeg: a fraction of the disk"
    )
    background: tuple[Level, Level, Level] = Field(
        (255, 255, 255),
        description="color (red, green, blue) behind transparent parts and of the borders that pad makes",
    )
    levels: Levels = Field(
        "full",
        description="for pictures of more than 8 bits, which levels become black and white: full: the least and the "
        "most that the format has; dataset: those that the training images use, measured once and kept in the "
        "model; or two of your own, as in [100, 4095]",
    )
    raw: Literal["refuse", "preview"] = Field(
        "refuse",
        description="camera raw files (NEF, CR2, DNG, …): refuse: quarantined; preview: the largest JPEG in them",
    )
    max_pixels: int = Field(
        250_000_000,
        ge=1,
        description="larger images are quarantined, not decoded; one image takes 7 bytes of memory per pixel (WebP 16,"
        " JPEG far less), and above 50 million pixels one is decoded at a time",
    )

    @model_serializer(mode="wrap")
    def _leave_out_what_was_unknown(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Settings that came later are written where they are set: manifests and models that were made before they
        existed keep their digests."""
        return {name: value for name, value in write(self).items() if SINCE.get(name, ...) != value}


class ImageSpec(_ImageRules, _GivenSize):  # the last base's fields come first
    """What every image becomes before a network sees it; training and scoring share it to the byte."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (*self.size, self.channels)

    def gives_same_pixels(self, other: "ImageSpec") -> bool:
        """Whether every file has the same pixels under both: only settings differ that no pixel depends on."""
        return self.model_dump(exclude=NOT_PIXELS) == other.model_dump(exclude=NOT_PIXELS)


class ImageSettings(_ImageRules, _OpenSize):
    """What every image becomes before a network sees it; training and scoring share it to the byte."""

    def resolve(self, size: tuple[int, int], channels: Literal[1, 3]) -> ImageSpec:
        """These settings with a size (height, width) and a number of channels."""
        return ImageSpec(**(self.model_dump() | {"size": size, "channels": channels}))


class AugmentSpec(Settings):
    """How many changed copies are made of each training image, and how far each change may go (0 turns it off)."""

    copies: int = Field(0, ge=0, le=1000, description="changed copies of each training image; 0: none")
    crop: float = Field(0.1, ge=0.0, lt=1.0, description="largest share of each side that is cut away")
    mirror: float = Field(0.5, ge=0.0, le=1.0, description="share of the copies that are mirrored, left to right")
    rotate: float = Field(10.0, ge=0.0, le=180.0, description="largest rotation in degrees, either way")
    color: float = Field(
        0.2, ge=0.0, le=1.0, description="largest change of brightness, contrast and saturation, as a share of them"
    )
    shift: float = Field(
        0.0,
        ge=0.0,
        le=0.5,
        description="largest shift along each side, as a share of it; what comes into view mirrors what is inside",
    )
    cutout: float = Field(
        0.0, ge=0.0, lt=1.0, description="a patch of grey hides this share of each side, somewhere in the image"
    )
    transforms: Serialized | None = Field(
        None,
        examples=[{"transform": {"__class_fullname__": "HorizontalFlip", "p": 0.5}}],
        description="transforms of Albumentations in place of the changes above: what its to_dict gives, "
        "as a table, or as JSON in a text; not set: those above",
    )

    @field_validator("transforms")
    @classmethod
    def _replace_the_short_form(cls, given: dict[str, JsonValue] | None, info: ValidationInfo) -> Any:
        usual = {name: cls.model_fields[name].default for name in SHORT_FORM}
        if given is not None and any(info.data.get(name, value) != value for name, value in usual.items()):
            raise ValueError(f"it takes the place of {', '.join(SHORT_FORM)}; leave these out")
        return given

    @model_serializer(mode="wrap")
    def _leave_out_what_was_unknown(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Manifests that were made before these settings existed keep their digests."""
        return {name: value for name, value in write(self).items() if AUGMENT_SINCE.get(name, ...) != value}
