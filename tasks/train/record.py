"""The record of a training: all that is needed to do it again, kept with every version as `record.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from cnn.dataset.locked_sets import LockedSets
from cnn.dataset.manifest import Manifest
from cnn.digest import hash_json
from cnn.errors import RegistryError
from cnn.files import replace_file
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import ONNX
from cnn.inference.onnx_graph import digest_constants, read_onnx_graph
from cnn.models.architecture import ModelSpec
from cnn.spec import Spec
from cnn.training.recipes import TrainingChoice
from cnn.training.spec import FitPlan
from infra.cluster.code_version import CODE, read_code_version
from infra.machine.environment import MachineFacts, SoftwareFacts, describe_machine, describe_software
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.store import Store
from tasks.dataset.version import find_latest_version
from tasks.train.spec import TrainingResult

RECORD_FILE = "record.json"


class DatasetOfRecord(Spec):
    """The dataset version that was learnt from, and what it was prepared from. `listing` is the digest of what the
    source listed together with all settings, "" where a newer version of the source was there when it was trained."""

    name: str
    digest: str
    listing: str
    ledger: str = Field(description="sha256 of the ledger, which names every file with its own")
    source: str
    classes: tuple[str, ...]
    image: ImageSpec
    shards: str = Field(description="digest of the shards in their order, which is that of the images")
    images: dict[str, int]
    locked_sets: LockedSets | None = Field(None, description="the test sets, where they are drawn anew")


class TrainingRecord(Spec):
    """A training: `settings` are those of the configuration; `model` and `plan` what they came to for this dataset.

    `seeds` are those of the split and of the training; `figures` and `files` (sha256 by name) what came of it.
    """

    format: Literal[1] = 1
    name: str
    run_key: str
    made_at: datetime
    code: str = Field(description="digest of Safelight's code")
    software: SoftwareFacts
    machine: MachineFacts
    dataset: DatasetOfRecord
    settings: dict[str, Any]
    reason: str = Field(description="what was trained and how, in a line")
    model: ModelSpec
    plan: FitPlan
    seeds: dict[str, int]
    judged_on: str
    steps: int
    resumed_at: int
    figures: dict[str, float]
    files: dict[str, str]
    numbers: str = Field("", description="digest of all numbers of the network; empty of an older release")


@dataclass(frozen=True)
class RecordedRun:
    """What is to be recorded of a run beside its result: the model's name, the run's key, and what was chosen."""

    name: str
    run_key: str
    settings: Mapping[str, Any]
    choice: TrainingChoice


def make_training_record(
    run: RecordedRun, manifest: Manifest, store: Store, result: TrainingResult, moment: datetime
) -> TrainingRecord:
    """The record of a training that ended now, on this machine."""
    return TrainingRecord(
        name=run.name,
        run_key=run.run_key,
        made_at=moment,
        code=read_code_version()[CODE],
        software=describe_software(),
        machine=describe_machine(),
        dataset=record_dataset(manifest, store),
        settings=dict(run.settings),
        reason=run.choice.reason,
        model=run.choice.model,
        plan=run.choice.plan,
        seeds={"split": manifest.split.seed, "fit": run.choice.plan.seed},
        judged_on=result.judged_on,
        steps=result.steps,
        resumed_at=result.resumed_at,
        figures=result.evaluation.summary(),
        files=result.info.files,
        numbers=digest_network(Path(result.bundle)),
    )


def digest_network(bundle: Path) -> str:
    """sha256 (hex) of all numbers of a bundle's network: equal ones answer alike."""
    return digest_constants(read_onnx_graph((bundle / ONNX).read_bytes()))


def record_dataset(manifest: Manifest, store: Store) -> DatasetOfRecord:
    """What a record says of a dataset version."""
    latest = find_latest_version(store, manifest.source)
    return DatasetOfRecord(
        name=manifest.dataset,
        digest=manifest.digest,
        listing=latest.listing_digest if latest is not None and latest.dataset == manifest.dataset else "",
        ledger=manifest.ledger.sha256,
        source=manifest.source,
        classes=manifest.classes,
        image=manifest.image,
        shards=digest_shards(manifest),
        images=manifest.images,
        locked_sets=manifest.locked_sets,
    )


def digest_shards(manifest: Manifest) -> str:
    """sha256 (hex) of the shards of all splits in their order: equal ones give equal images in an equal order."""
    return hash_json({split: [shard.digest for shard in shards] for split, shards in manifest.splits.items()})


def write_record(record: TrainingRecord, folder: Path) -> Path:
    """Write `record.json` into the run's folder, and return its path. Raises: StorageError."""
    path = folder / RECORD_FILE
    with explain_disk_errors("write the record to", str(folder)), replace_file(path) as file:
        file.write(record.to_json().encode())
    return path


def read_record(data: bytes, culprit: str) -> TrainingRecord:
    """The record of a version, which `culprit` names. Raises: RegistryError where the bytes are none."""
    try:
        return TrainingRecord.model_validate_json(data)
    except ValidationError as error:
        raise RegistryError(
            f"{culprit}: its {RECORD_FILE} cannot be read ({error.error_count()} errors): it was edited in MLflow,"
            " or is of another version of Safelight; use that one"
        ) from None
