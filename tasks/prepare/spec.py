"""What is asked of a preparation: what images become, and how much may go wrong."""

from pydantic import Field

from cnn.dataset.split import TIES, TURNS, SplitSpec, choose_split, draw_missing, find_column, find_group
from cnn.digest import hash_json
from cnn.images.spec import AugmentSpec, ImageSpec
from cnn.spec import Settings, Spec

FORMAT = 5  # raise it when the same configuration would give other bytes


class BuildSpec(Spec):
    """All that decides what shards hold, beside the files themselves."""

    format: int = FORMAT
    image: ImageSpec
    augment: AugmentSpec
    split: SplitSpec
    folders: dict[str, str] = Field(
        default_factory=dict,
        description="top folder → the split that its owner made of it; see `tasks/files/class_folders.py`",
    )

    def build_key(self) -> str:
        """Digest of what a chunk depends on: normalization is the model's first layer, and augmented copies lie in
        shards of their own, made from the chunk's."""
        facts = self.model_dump(mode="json", exclude={"augment"} if self.folders else {"augment", "folders"})
        facts["image"].pop("normalize")
        for name in ("leak_distance", *TIES, *TURNS):
            facts["split"].pop(name, None)
        facts["split"].pop("folders")  # what it came to is what counts
        if find_column(self.split.group) is not None:
            facts["split"]["group"] = None  # the table is looked up when all files are built
        return hash_json(facts)

    def place_image(self, path: str, key: str) -> tuple[str, str | None]:
        """(split, group) of the image with this key (hex): that of its owner's folder, else one that is drawn."""
        group = find_group(path, self.split.group)
        given = self.folders.get(path.partition("/")[0]) if self.folders else None
        if given is not None and given != "train":
            return given, group
        return choose_split(key, group, draw_missing(self.split, frozenset(self.folders.values()))), group


class BudgetSpec(Settings):
    """How much may be wrong with the files of a folder before no dataset is published."""

    quarantined: float = Field(0.05, ge=0.0, le=1.0, description="largest share of files that may be unreadable")
    leaks: float = Field(
        0.1,
        ge=0.0,
        le=1.0,
        description="largest share of a class's validation or test images that may be left out as near-duplicates",
    )
