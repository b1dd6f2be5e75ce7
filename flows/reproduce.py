"""The flow `reproduce`: a registered version is made again from its record, and held against what it was."""

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import flow

from cnn.dataset.manifest import Manifest
from cnn.errors import ConfigError, DatasetError, RegistryError
from cnn.inference.bundle import measure_difference, read_bundle, read_golden
from cnn.inference.scorer import load_scorer
from cnn.training.recipes import TrainingChoice
from flows.config import Config
from flows.models import open_present, split_model_version
from flows.prepare import open_job, prepare_opened
from flows.progress import log_message, show_stage
from flows.run_page import name_run_by
from flows.runs.attendance import attend_run
from flows.stages import run_stage
from flows.train import Training, features_of, make_train_job
from flows.training_progress import ShownTraining
from infra.machine.environment import describe_machine, describe_software
from infra.machine.user_dirs import cache_dir, state_dir
from infra.registry.registry import Registry
from infra.registry.versions import RECORD, VersionInfo
from infra.storage.store import Store, open_source, open_store
from tasks.dataset.rebuild import (
    COMPARED,
    SourceDifference,
    compare_versions,
    copy_memory,
    copy_shards,
    describe_difference_of_source,
    limit_source,
    read_recorded,
)
from tasks.dataset.version import read_ledger, read_manifest
from tasks.files.source_checks import PREPARE
from tasks.train.process import TrainingProcess
from tasks.train.record import RECORD_FILE, TrainingRecord, digest_network, digest_shards, read_record
from tasks.train.spec import TrainingResult


@dataclass(frozen=True)
class Reproduction:
    """One run of `reproduce`: the version and its record, its dataset where the workspace still has that, and the
    scratch workspace."""

    version: VersionInfo
    record: TrainingRecord
    config: Config
    store: Store
    manifest: Manifest | None
    scratch: Store


@flow(name="reproduce", flow_run_name=name_run_by("reproduce", "model"), persist_result=False)
def reproduce(model: str, workspace: str = "./workspace", into: str | None = None) -> dict[str, Any]:
    """Rebuild the dataset of a version, prove its digest, train again, and compare. Nothing is registered."""
    with attend_run():
        return reproduce_version(model, workspace, into)


def reproduce_version(model: str, workspace: str, into: str | None) -> dict[str, Any]:
    """The body of the flow; `into` is a folder for what is rebuilt, which else is removed at the end.

    Raises:
        RegistryError: there is no such version, or no record of it.
        DatasetError: the dataset does not come out again; the files that are gone or have changed are named.
    """
    started = time.monotonic()
    registry = open_present(workspace)
    version = find_version_of(registry, model)
    record = fetch_record(registry, version)
    with open_scratch_workspace(into, f"{version.name}-{version.version}") as scratch:
        bundle = registry.fetch_bundle(version, cache_dir() / "champions") if version.has_files else None
        job = Reproduction(
            version, record, read_settings(record), open_store(workspace), find_dataset(workspace, record), scratch
        )
        for line in list_circumstances(job):
            log_message(f"reproduce: {line}")
        rebuilt = run_stage("rebuild", lambda: rebuild_dataset(job))
        log_message(f"reproduce: dataset {record.dataset.name} comes out again: its digest is {rebuilt.digest}")
        manifest, note = choose_shards(job, rebuilt)
        result = run_stage("train again", lambda: train_again(job, manifest))
        compared = compare_results(job, result, bundle, is_same_order=not note)
    answer = {
        "model": version.name,
        "version": version.version,
        "dataset": record.dataset.name,
        "dataset_digest": rebuilt.digest,
        "circumstances": list_circumstances(job) + note,
        **compared,
        "seconds": round(time.monotonic() - started, 1),
    }
    log_message(f"reproduce: {answer['verdict']}")
    return answer


def find_version_of(registry: Registry, model: str) -> VersionInfo:
    """The version that is named NAME@VERSION; with the name alone, its champion. Raises: RegistryError, ConfigError."""
    name, number = split_model_version(model)
    return registry.require_champion(name) if number is None else registry.version(name, number)


def fetch_record(registry: Registry, version: VersionInfo) -> TrainingRecord:
    """The record of a version, found to be the one that was kept with it. Raises: RegistryError."""
    culprit = f"model {version.name} version {version.version}"
    kept = version.tags.get(RECORD)
    data = registry.read_run_file(version, RECORD_FILE) if kept else None
    if kept is None or data is None:
        raise RegistryError(
            f"{culprit} has no record of its training"
            f"{': it was removed in MLflow' if kept else ', since an older release made it'}; retrain keeps one"
        )
    if hashlib.sha256(data).hexdigest() != kept:
        raise RegistryError(f"{culprit}: its {RECORD_FILE} was changed in MLflow; choose another version")
    return read_record(data, culprit)


def read_settings(record: TrainingRecord) -> Config:
    """The configuration of that training, with the image settings that were chosen for it. Raises: ConfigError."""
    from pydantic import ValidationError

    try:
        # Records of releases that looked for no copies unless they were told to have no word on them.
        split = {"copies": "ignore", **record.settings.get("split", {})}
        config = Config.model_validate({**record.settings, "split": split})
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"the settings of that training are of another release ({place}); use that release") from None
    image = record.dataset.image
    chosen = {"size": image.size, "channels": image.channels, "levels": image.levels}
    return config.model_copy(update={"image": config.image.model_copy(update=chosen)})


def find_dataset(workspace: str, record: TrainingRecord) -> Manifest | None:
    """The manifest of the dataset, where the workspace still has it."""
    try:
        manifest = read_manifest(open_store(workspace), record.dataset.name)
    except DatasetError:
        return None
    return manifest if manifest.digest == record.dataset.digest else None


@contextmanager
def open_scratch_workspace(into: str | None, name: str) -> Iterator[Store]:
    """A local workspace for one reproduction; a folder that is not named is removed at the end, however that comes."""
    folder = Path(into).expanduser().absolute() if into else state_dir() / "reproduce" / name
    if into is None:
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    try:
        yield open_store(str(folder))
    finally:
        if into is None:
            shutil.rmtree(folder, ignore_errors=True)


def list_circumstances(job: Reproduction) -> list[str]:
    """What is otherwise than when the version was trained: packages, lock file, code, machine."""
    then, now = job.record.software, describe_software()
    lines = then.list_differences(now)
    if len(lines) > 5:
        lines = [*lines[:5], f"and {len(lines) - 5} other packages"]
    if (then.lock, then.lock_digest) != (now.lock, now.lock_digest):
        lines.append("the lock file is another one")
    if then.commit and not then.has_code_of(now):
        changed = ", with changes that were not committed" if then.commit_changed else ""
        lines.append(f"Safelight's code was that of commit {then.commit[:12]}{changed}")
    if not job.version.has_files:
        proof = "its numbers" if job.record.numbers else "its accuracy"
        lines.append(f"{job.version.describe_removal()}; here it is held against {proof} in the record")
    here = describe_machine()
    if not job.record.machine.is_like(here):
        lines.append(f"the processor is {here.processor} (then {job.record.machine.processor})")
    return lines


def rebuild_dataset(job: Reproduction) -> Manifest:
    """The dataset, made anew in the scratch workspace of the files that it had. Raises: DatasetError."""
    record = job.record.dataset
    source: Any = open_source(record.source)
    if job.manifest is not None:
        source, difference = limit_source(source, job.store, job.manifest)
        refuse_difference(record.name, difference)
        copy_memory(job.store, job.manifest, job.scratch)
    opened = open_job(record.source, job.scratch.uri, job.config, False, PREPARE)
    recorded = None if job.manifest is None or opened.table is None else read_recorded(job.store, job.manifest)
    opened = replace(opened, source=source, locked_sets=record.locked_sets, recorded=recorded)
    result = prepare_opened(opened, job.config)
    rebuilt = read_manifest(job.scratch, result.dataset)
    if rebuilt.digest != record.digest:
        refuse_difference(record.name, find_changed_files(job, rebuilt))
        raise DatasetError(
            f"dataset {record.name} does not come out again (its digest is {rebuilt.digest[:12]}, then "
            f"{record.digest[:12]}), and its ledger is no longer in {job.store.uri}, so nobody knows which files"
            " differ; keep datasets longer (`safelight gc --keep`)"
        )
    return rebuilt


def find_changed_files(job: Reproduction, rebuilt: Manifest) -> SourceDifference:
    """Which files came out otherwise; none where the ledger of then is gone."""
    if job.manifest is None:
        return SourceDifference()
    before, after = (
        read_ledger(store, manifest, COMPARED)
        for store, manifest in ((job.store, job.manifest), (job.scratch, rebuilt))
    )
    return compare_versions(before, after)


def refuse_difference(dataset: str, difference: SourceDifference) -> None:
    """Raise DatasetError with the files that are not what they were."""
    if difference:
        lines = "; ".join(describe_difference_of_source(difference))
        raise DatasetError(f"dataset {dataset} does not come out again: {lines}; bring these files back and try again")


def choose_shards(job: Reproduction, rebuilt: Manifest) -> tuple[Manifest, list[str]]:
    """The dataset to train on, whose images lie in the order of then; a line where they cannot."""
    if digest_shards(rebuilt) == job.record.dataset.shards:
        return rebuilt, []
    if job.manifest is not None and copy_shards(job.store, job.manifest, job.scratch):
        copy_memory(job.store, job.manifest, job.scratch)
        return job.manifest, []
    return rebuilt, ["its images lie in another order: it was built over several nights, and its shards are gone"]


def train_again(job: Reproduction, manifest: Manifest) -> TrainingResult:
    """Train on a dataset of the scratch workspace by the recorded plan; nothing reaches the registry."""
    record, registry = job.record, open_present(job.store.uri)
    choice = TrainingChoice(record.plan.recipe, record.model, record.plan, record.reason)

    def refuse() -> Any:
        raise AssertionError("what is trained was recorded")

    training = Training(
        manifest, record.name, job.scratch.uri, job.config, job.scratch, registry, record.run_key, refuse, choice
    )
    with TrainingProcess() as trainer:
        backbone = features_of(training, trainer)
        order = make_train_job(training, backbone)
        with show_stage("train", order.plan.steps, "steps") as stage:
            shown = ShownTraining(stage, lambda figures, step: None)
            result = trainer.run(order, shown.show_evaluation, shown.show_progress)
            shown.finish()
    return result


def measure_answers(bundle: Path, again_in: Path) -> float:
    """The largest difference between two networks' probabilities for the images that lie with the first one."""
    golden = read_golden(bundle, read_bundle(bundle))
    answers, then = (load_scorer(folder).predict(golden.images) for folder in (again_in, bundle))
    return measure_difference(answers, then)


def compare_results(
    job: Reproduction, result: TrainingResult, bundle: Path | None, is_same_order: bool
) -> dict[str, Any]:
    """Whether the version came out again: all numbers of its network to the last bit where that is promised, else with
    an accuracy inside the 95 % interval of the version's own. Names in its files hold counters, and do not count.

    Without its bundle, which was removed, there are no answers to compare: the record knows the numbers' digest.
    """
    record, again_in = job.record, Path(result.bundle)
    difference = None if bundle is None else measure_answers(bundle, again_in)
    numbers = record.numbers if bundle is None else digest_network(bundle)
    is_bit_equal = bool(numbers) and numbers == digest_network(again_in) and not difference
    low, high = (record.figures.get(name, record.figures["accuracy"]) for name in ("accuracy_low", "accuracy_high"))
    accuracy = result.evaluation.accuracy
    is_promised = bool(numbers) and is_same_order and promises_bits(record)
    is_close = low <= accuracy <= high
    return {
        "bit_equal": is_bit_equal,
        "bit_equal_promised": is_promised,
        "accuracy": accuracy,
        "accuracy_then": record.figures["accuracy"],
        "tolerance": [low, high],
        "largest_difference": difference,
        "reproduced": is_bit_equal if is_promised else is_close,
        "verdict": describe_verdict_of(is_bit_equal, is_promised, is_close),
    }


def promises_bits(record: TrainingRecord) -> bool:
    """Whether that training comes out equal to the last bit here: it was deterministic and went through in one go, on a
    processor like this one, with these packages and this code."""
    here = describe_software()
    return (
        record.plan.deterministic
        and not record.resumed_at
        and record.machine.is_like(describe_machine())
        and record.software.has_code_of(here)
        and not record.software.list_differences(here)
    )


def describe_verdict_of(is_bit_equal: bool, is_promised: bool, is_close: bool) -> str:
    """One line on whether the version came out again."""
    if is_bit_equal:
        return "the version came out again, equal to the last bit"
    if is_promised:
        return "the version did not come out again: it was to be equal to the last bit, and is not"
    if is_close:
        return "the version came out again: its accuracy lies inside the interval of then"
    return "the version did not come out again: its accuracy lies outside the interval of then"
