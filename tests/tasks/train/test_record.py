"""Records of trainings: what they say, that they come back, and that an edited one is refused by name."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from judged_versions import make_judged_version

import tasks.train.record
from cnn.digest import hash_file
from cnn.errors import RegistryError
from cnn.models.architecture import ModelSpec
from cnn.training.plan import TrainingSize, plan_fit
from cnn.training.recipes import TrainingChoice
from cnn.training.spec import FitSpec
from infra.storage.store import open_store
from tasks.train.record import (
    RecordedRun,
    TrainingRecord,
    digest_shards,
    make_training_record,
    read_record,
    write_record,
)

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingRecord:
    judged = make_judged_version(tmp_path)
    monkeypatch.setattr(tasks.train.record, "digest_network", lambda bundle: "0" * 64)  # its bundle has no files
    plan = plan_fit(FitSpec(seed=7), "scratch", TrainingSize(20, True), judged.manifest.augment)
    choice = TrainingChoice("scratch", ModelSpec(preset="lenet"), plan, "recipe scratch: few images")
    run = RecordedRun("birds", "k" * 64, {"fit": {"seed": 7}}, choice)
    return make_training_record(run, judged.manifest, open_store(str(tmp_path / "w")), judged.result, MOMENT)


def test_a_record_names_what_it_takes_to_train_again(record: TrainingRecord, tmp_path: Path) -> None:
    assert record.seeds == {"split": 0, "fit": 7}
    assert record.figures["accuracy"] == 1.0
    assert len(record.dataset.digest) == len(record.dataset.ledger) == len(record.code) == 64
    assert record.software.packages["numpy"]
    assert record.machine.cores >= 1
    assert record.settings == {"fit": {"seed": 7}}
    assert record.made_at == MOMENT
    assert record.dataset.classes == ("blue", "green", "red")


def test_a_record_comes_back_from_its_file(record: TrainingRecord, tmp_path: Path) -> None:
    path = write_record(record, tmp_path)
    assert read_record(path.read_bytes(), "birds version 1") == record
    assert hash_file(path) == hash_file(write_record(record, tmp_path))


def test_the_listing_is_known_while_the_dataset_is_the_newest_of_its_source(tmp_path: Path) -> None:
    judged = make_judged_version(tmp_path)
    assert len(digest_shards(judged.manifest)) == 64
    fewer = judged.manifest.model_copy(update={"splits": {**judged.manifest.splits, "test": ()}})
    assert digest_shards(fewer) != digest_shards(judged.manifest)


@pytest.mark.parametrize("change", [{"format": 2}, {"plan": {}}, {"more": 1}])
def test_a_record_that_was_edited_is_refused_by_name(record: TrainingRecord, change: dict[str, object]) -> None:
    data = json.dumps({**json.loads(record.to_json()), **change}).encode()
    with pytest.raises(RegistryError, match=r"birds version 1: its record.json cannot be read"):
        read_record(data, "birds version 1")
