"""Settings of a source: which files are looked at, and how many make one task of the cluster."""

from pydantic import Field, field_validator

from cnn.spec import Settings
from tasks.files.glob_patterns import compile_patterns


class SourceSpec(Settings):
    """Which files of a source are looked at, in training and in scoring alike."""

    exclude: tuple[str, ...] = Field(
        (),
        description='files to leave out, such as ["*.xmp", "raw/**"]: * and ? stay within a name, ** crosses folders;'
        " a pattern without / is met at any depth, by files and folders; upper and lower case are the same",
    )

    @field_validator("exclude")
    @classmethod
    def _patterns_can_be_read(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            compile_patterns((pattern,))
        return value


class ChunkSpec(Settings):
    """How much work is one task of the cluster."""

    files: int = Field(
        256, ge=1, le=100_000, description="files per chunk, about; a chunk is one task and at most three shards"
    )
