"""Settings of a source: which files are looked at, and how many make one task of the cluster."""

from pydantic import Field, field_validator

from cnn.spec import Settings
from tasks.files.glob_patterns import compile_patterns


class SourceSpec(Settings):
    """Which files of a folder are looked at, in training and in scoring alike."""

    exclude: tuple[str, ...] = Field(
        (),
        examples=[["*.xmp", "raw/**"]],
        description='files to leave out, such as ["*.xmp", "raw/**"]: * and ? stay within a name, ** crosses folders;'
        " a pattern without / is looked for at any depth, in files and folders; upper and lower case are the same",
    )

    table: str | None = Field(
        None,
        examples=["images.csv", "s3://bucket/images.csv"],
        description="a table about the images (CSV), with a row for each and columns such as its site: a path below the"
        " source folder, an absolute path or an s3:// address; split.group and gate.slices name the columns that are"
        " used; not set: none",
    )
    table_image: str | None = Field(
        None,
        examples=["filename"],
        description="the column of source.table that names the image, by its path or file name; not set: the first of"
        " filePath, path, RelativePath with File, file, filename and image that names images of the folder",
    )

    @field_validator("exclude")
    @classmethod
    def _patterns_can_be_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            compile_patterns((pattern,))
        return value


class ChunkSpec(Settings):
    """How much work is given out at a time."""

    files: int = Field(256, ge=1, le=100_000, description="files in one piece of work (chunk), about")
