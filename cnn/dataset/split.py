"""Divide images into training, validation and test by a hash, so that new images move no others."""

import hashlib
from functools import lru_cache
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from cnn.dataset.locked_sets import count_days
from cnn.patterns import compile_pattern
from cnn.spec import Settings

CopyRule = Literal["auto", "together", "leave_out"]
SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(len(SPLITS))
TIES = ("copies", "burst")  # settings that tie images together once all are read: no image is drawn by them

COLUMN = "column:"  # before the name of a column of the user's table (source.table)
TURNS = ("refresh", "overlap")  # settings of which test set judges when: chunks' shards do not hang on them


class _SplitRules(Settings):
    validation: float = Field(0.1, ge=0.0, lt=1.0, description="share of the images that decide which epoch was best")
    test: float = Field(
        0.1, ge=0.0, lt=1.0, description="share of the images that judge the model, which training never sees"
    )
    group: str | None = Field(
        None,
        examples=[r"site-(\d+)", "column:site"],
        description="regular expression on the path: images with the same text in its first parentheses (a site, an"
        " animal) stay together, all for training or all for test; or column:NAME, a column of source.table",
    )
    seed: int = Field(0, ge=0, description="another number draws another division")
    folders: bool | None = Field(
        None,
        examples=[True],
        description="whether the top folders train, val and test (or training, valid, validation, testing) are a"
        " division that is kept as it is, with class folders below (true), or are classes (false); not set: what they"
        " look like",
    )
    burst: float | None = Field(
        None,
        gt=0.0,
        examples=[60],
        description="seconds between two shots of one camera, by their EXIF data, up to which both stay in one split;"
        " not set: bursts are not looked for",
    )
    refresh: str | None = Field(
        None,
        examples=["quarter", "90d"],
        description="how often a new test set is drawn: quarter, or a number of days such as 90d; the images of the one"
        " before return to training after split.overlap; not set: never",
    )
    overlap: int = Field(
        30, ge=1, description="days for which the test set before judges beside a new one (split.refresh)"
    )
    leak_distance: int = Field(
        4,
        ge=-1,
        le=255,
        description="largest difference, in grey levels, of the small versions of two files that count as one"
        " photograph; -1: none do",
    )

    @field_validator("group")
    @classmethod
    def _group_is_a_pattern(cls, value: str | None) -> str | None:
        try:
            compile_pattern(value or "")
        except ValueError as error:
            raise ValueError(f"not a regular expression ({error})") from None
        if find_column(value) == "":
            raise ValueError("no column is named; write column:NAME, such as column:site")
        return value

    @model_validator(mode="after")
    def _training_images_remain(self) -> Self:
        if self.validation + self.test >= 1.0:
            raise ValueError(f"validation + test must be below 1, not {self.validation + self.test:g}")
        return self

    @field_validator("refresh")
    @classmethod
    def _refresh_is_a_period(cls, value: str | None) -> str | None:
        if value is not None:
            count_days(value)
        return value

    @model_validator(mode="after")
    def _sets_can_take_turns(self) -> Self:
        if self.refresh is None:
            return self
        if 2 * self.test + self.validation >= 1.0:
            raise ValueError(
                "refresh keeps two test sets from training for a while: 2 x test + validation must be below 1, not "
                f"{2 * self.test + self.validation:g}"
            )
        if self.overlap >= count_days(self.refresh):
            raise ValueError(f"overlap must be shorter than refresh, so below {count_days(self.refresh)} days")
        return self

    def deciding(self) -> dict[str, object]:
        """The settings that decide in which split an image is drawn."""
        return self.model_dump(exclude={"leak_distance", *TIES, *TURNS})


class SplitSpec(_SplitRules):
    """How the images of a dataset are divided. `copies` None: copies by their look are not looked for, as in all
    releases that knew no other rule."""

    copies: CopyRule | None = None

    @model_serializer(mode="wrap")
    def _leave_out_what_is_unset(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without those that are not set: what earlier releases wrote, who knew none, keeps its digest."""
        unset = {name for name in TIES if getattr(self, name) is None} | ({*TURNS} if self.refresh is None else set())
        return {name: value for name, value in dump(self).items() if name not in unset}


class SplitSettings(_SplitRules):
    """How images are divided into those for training, validation and test; new images move none of the others."""

    copies: Literal["auto", "together", "leave_out", "ignore"] = Field(
        "auto",
        description="pictures that are copies by their look (mirrored, turned, cropped, brightened, saved anew; from"
        " 48 x 48 pixels on): together: all in one split, up to 30 % of a class; leave_out: drawn one by one, and of"
        " validation and test those are left out whose copy is learnt from; auto: as together among up to 100,000"
        " images, up to 8 of one picture or 5 % of a class, without moving an image that has its split already;"
        " ignore: only copies that lie the same way are looked for, see split.leak_distance",
    )

    def resolve(self) -> SplitSpec:
        """These settings as a dataset keeps them."""
        given = self.model_dump()
        return SplitSpec(**given | {"copies": None if self.copies == "ignore" else self.copies})


@lru_cache(maxsize=64)
def draw_missing(spec: SplitSpec, given: frozenset[str]) -> SplitSpec:
    """The specification by which training images are drawn for the splits that the owner's folders do not give."""
    return spec.model_copy(update={name: 0.0 for name in given if name != "train"})


def choose_split(key: str, group: str | None, spec: SplitSpec, turn: int = 0) -> str:
    """`train`, `validation` or `test`, by a hash of the group if there is one, else of the image's key (hex).

    With each turn another share of the images is the test, next to that of the turn before on the ring of all that are
    not for validation: two that follow each other have none in common, and after all others the first comes again.
    """
    point = draw_point(key, group, spec)
    if spec.test <= point < spec.test + spec.validation:
        return "validation"
    if not turn:
        return "test" if point < spec.test else "train"
    place = point if point < spec.test else point - spec.validation
    return "test" if (place - turn * spec.test) % (1.0 - spec.validation) < spec.test else "train"


def draw_point(key: str, group: str | None, spec: SplitSpec) -> float:
    """A number from 0 to 1 that depends on the group if there is one, else on the image's key, and on the seed."""
    unit = f"{spec.seed}:{'group:' + group if group is not None else key}"
    return int.from_bytes(hashlib.sha256(unit.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64


def find_column(name: str | None) -> str | None:
    """The column of the user's table that a setting such as column:site names; None where it names something else."""
    return name.removeprefix(COLUMN).strip() if name is not None and name.startswith(COLUMN) else None


def find_group(path: str, pattern: str | None) -> str | None:
    """What the pattern's first group (or the whole pattern) matches in the path; None where it matches nothing, and
    where a column is named, which no path tells."""
    is_pattern = pattern is not None and find_column(pattern) is None
    match = compile_pattern(pattern).search(path) if pattern is not None and is_pattern else None
    if match is None:
        return None
    return match.group(1) if match.re.groups and match.group(1) is not None else match.group(0)
