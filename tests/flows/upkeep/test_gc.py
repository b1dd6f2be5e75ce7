"""What `safelight gc` takes from a workspace on S3: checkpoints of trainings that nobody took up again."""

import time

import pytest
from faulty_s3 import BUCKET, reach_faulty_s3

from flows.upkeep.gc import collect_trainings
from infra.storage.layout import checkpoint_path
from infra.storage.store import open_store

DAY = 86_400.0


def test_checkpoints_of_trainings_that_nobody_took_up_again_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path_factory.mktemp("home")))
    with reach_faulty_s3(monkeypatch) as memory:
        store = open_store(f"s3://{BUCKET}/work")
        ages = {"abandoned": 3 * DAY, "registered": 3 * DAY, "working": 60.0}
        for run in ages:
            for name in ("last.npz", "progress.json"):
                store.write(checkpoint_path(run, name), b"12345")
        memory.objects = {
            key: (data, time.time() - ages[key.split("/")[2]]) for key, (data, _) in memory.objects.items()
        }
        told = collect_trainings(store, {"registered"}, time.time() - DAY, dry_run=True)
        assert (told.names, told.files, told.bytes) == (("abandoned",), 2, 10)
        assert len(memory.objects) == 6
        assert collect_trainings(store, {"registered"}, time.time() - DAY, dry_run=False) == told
        assert {key.split("/")[2] for key in memory.objects} == {"registered", "working"}
