"""The configuration: safelight.toml and `--set section.key=value`, read into the frozen value that flows take."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from cnn.dataset.split import SplitSettings
from cnn.errors import ConfigError
from cnn.evaluation.gate_spec import GateSpec
from cnn.images.spec import AugmentSpec, ImageSettings
from cnn.models.architecture import ModelSpec
from cnn.spec import Settings
from cnn.training.spec import FitSpec
from flows.config_errors import describe_invalid
from flows.serving.timetable import check_timing, check_zone
from infra.cluster.spec import ClusterSpec
from infra.notify.spec import NotifySpec
from infra.server.spec import ServerSpec
from tasks.files.spec import ChunkSpec, SourceSpec
from tasks.prepare.spec import BudgetSpec
from tasks.score.spec import ScoreSpec

DEFAULT_FILE = "safelight.toml"


# Settings that start programs or hold a secret: they are for this machine alone, and no deployment learns them.
LOCAL_SETTINGS: dict[str, set[str]] = {"notify": {"command", "webhook"}}


class TrainSpec(Settings):
    """Where `retrain` trains."""

    deployment: str | None = Field(
        None,
        pattern=r"^[^/]+/[^/]+$",
        examples=["train/birds"],
        description="Prefect deployment that training is sent to, such as train/birds, which deploy makes with"
        " --gpu-pool POOL; not set: this machine",
    )
    minutes: float | None = Field(
        1440.0,
        gt=0,
        description="minutes that a run of that deployment may take, waiting included, before it is ended;"
        " --set train.minutes=null: as long as it wants",
    )


class ScheduleSpec(Settings):
    """When `serve` and `deploy` have it work: each time is a time of day (02:00), an interval (10m) or a cron line."""

    retrain: str = Field("02:00", description="when the model is trained again; --nightly is short for it")
    score: str = Field("1h", description="when the inbox is scored; --every is short for it")
    timezone: str | None = Field(
        None,
        examples=["Europe/Berlin"],
        description="time zone of these times, such as Europe/Berlin; not set: that of this machine",
    )
    gc: str | None = Field(
        None,
        examples=["0 4 * * 0"],
        description="when `safelight gc` is run, which removes old datasets, batches and files of models;"
        " not set: only by hand",
    )
    late_minutes: float = Field(
        2.0, gt=0.0, le=1440.0, description="minutes after which a run that has not begun is reported, with the cause"
    )

    @field_validator("retrain", "score", "gc")
    @classmethod
    def _check_timing(cls, text: str | None) -> str | None:
        return None if text is None else check_timing(text)

    @field_validator("timezone")
    @classmethod
    def _check_zone(cls, name: str | None) -> str | None:
        return None if name is None else check_zone(name)


class Config(Settings):
    """Every setting; each section is defined beside the code that obeys it."""

    source: SourceSpec = Field(default_factory=SourceSpec)
    image: ImageSettings = Field(default_factory=ImageSettings)
    augment: AugmentSpec = Field(default_factory=AugmentSpec)
    split: SplitSettings = Field(default_factory=SplitSettings)
    chunk: ChunkSpec = Field(default_factory=ChunkSpec)
    budget: BudgetSpec = Field(default_factory=BudgetSpec)
    cluster: ClusterSpec = Field(default_factory=ClusterSpec)
    model: ModelSpec = Field(default_factory=ModelSpec)
    fit: FitSpec = Field(default_factory=FitSpec)
    train: TrainSpec = Field(default_factory=TrainSpec)
    gate: GateSpec = Field(default_factory=GateSpec)
    score: ScoreSpec = Field(default_factory=ScoreSpec)
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec)
    notify: NotifySpec = Field(default_factory=NotifySpec)
    server: ServerSpec = Field(default_factory=ServerSpec)

    def dump_parameters(self) -> dict[str, Any]:
        """The settings as parameters of a deployment, which Prefect's server keeps: without `LOCAL_SETTINGS`."""
        return self.model_dump(mode="json", exclude=LOCAL_SETTINGS)


def load_config(file: Path | None, settings: Sequence[str] = ()) -> Config:
    """The configuration: the file (or `safelight.toml` here, if there is one), then each setting on top of it.

    Raises:
        ConfigError: the file cannot be read, a key does not exist, or a value breaks its rule.
    """
    chosen = choose_file(file)
    values = read_values(file, settings)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        place = error.errors(include_url=False)[0]["loc"][:2]
        typed = [parse_setting(setting)[:2] for setting in settings]
        is_typed = any(place == key[: len(place)] for key in typed)
        origin = "" if is_typed or chosen is None else f"{chosen}: "
        raise ConfigError(f"{origin}{describe_invalid(error, Config, values)}") from None


def read_values(file: Path | None, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Section -> key -> value of what the file and the settings say, and no more: nothing here is a default.

    Raises:
        ConfigError: the file cannot be read, or a setting is none.
    """
    chosen = choose_file(file)
    values = read_toml(chosen) if chosen else {}
    for section, key, value in map(parse_setting, settings):
        values[section] = {**_section(values, section), key: value}
    return values


def choose_file(file: Path | None) -> Path | None:
    """The file of settings that was named, else `safelight.toml` here, if there is one."""
    return file or (Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None)


def read_toml(file: Path) -> dict[str, Any]:
    """The values in a TOML file. Raises: ConfigError."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the settings in {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None


def parse_setting(text: str) -> tuple[str, str, Any]:
    """(section, key, value) of `section.key=value`; the value is TOML, a bare word a string.

    Raises:
        ConfigError: the text has another form.
    """
    name, equals, raw = text.partition("=")
    parts = name.strip().split(".")
    if not equals or len(parts) != 2 or not all(parts):
        raise ConfigError(f"--set {text!r} is not of the form section.key=value, such as image.size=[96,96]")
    return parts[0], parts[1], parse_value(raw.strip())


def parse_value(raw: str) -> Any:
    """A TOML value; what is no TOML value is a string, and `null` is None (TOML has no word for it)."""
    if raw == "null":
        return None
    try:
        document = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return raw
    return document["value"] if list(document) == ["value"] else raw


def _section(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    current = values.get(section, {})
    if not isinstance(current, dict):
        raise ConfigError(f"setting {section} = {current!r}: a section of settings is expected here, as [{section}]")
    return current
