"""The whole loop as users run it: the command line, Prefect deployments, an S3 server, and kill -9 in the middle."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import psutil
import pyarrow.parquet as pq
import pytest
from commands import PREFECT, prefect, safelight, start, wait_until
from image_folders import MakeImageFolder
from s3server import upload

from cnn.dataset.tfrecord import digest_shard

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

# Small steps and enough of them: a first version becomes champion only when it is better than a constant answer.
LEARNS = {"epochs": 8, "batch_size": 4}
TINY = ["image.size=[16,16]", "model.preset=notes", "split.validation=0.2", "split.test=0.2"]
TINY += [f"fit.{name}={value}" for name, value in LEARNS.items()]
SETTINGS = [word for setting in TINY for word in ("--set", setting)]


def read_table(folder: Path | str) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in pq.read_table(folder).to_pylist()}


def kill_group(process: "subprocess.Popen[str]") -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    _, left = psutil.wait_procs(children, timeout=20)
    assert not left, f"children outlived the command: {left}"


def check_training_report(trained: dict[str, Any], work: Path | str) -> None:
    """The page in the run's folder is the one that `open` finds in MLflow."""
    opened = safelight("open", trained["model"], "--workspace", work, "--json")["report"]
    first, second = (Path(unquote(urlsplit(address).path)).read_text() for address in (trained["report"], opened))
    assert first == second
    assert "always answering" in first


def test_the_loop_on_the_command_line(prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder) -> None:
    photos, inbox, work = tmp_path / "photos", tmp_path / "inbox", tmp_path / "work"
    make_image_folder(photos, ("bat", "cat", "owl"), 40)
    make_image_folder(inbox, ("unsorted",), 12, seed=9)
    (inbox / "unsorted" / "broken.jpg").write_bytes(b"no picture")
    (inbox / ".hidden").write_bytes(b"x")
    common = ["--workspace", work, "--json", *SETTINGS]

    trained = safelight("retrain", photos, "--name", "birds", *common)
    facts = {"model", "version", "trained", "alias", "run_id", "dataset", "metrics"}
    assert set(trained) == facts | {"judged_on", "unjudged", "gate", "report", "seconds"}
    check_training_report(trained, work)
    assert (trained["judged_on"], trained["unjudged"]) == (f"test split of {trained['dataset']}", [])
    assert trained["metrics"]["test_images"] > 6
    assert (trained["version"], trained["alias"], trained["gate"]["verdict"]) == (1, "champion", "promote")
    assert {"accuracy", "macro_f1", "ece"} <= set(trained["metrics"])

    scored = safelight("score", inbox, "--name", "birds", "--csv", *common)
    assert (scored["files"], scored["scored"], scored["reused"]) == (14, 12, 0)
    assert scored["outcomes"] == {"ok": 12, "quarantined": 1, "ignored": 1}
    rows = read_table(scored["predictions"])
    assert rows["unsorted/broken.jpg"]["label"] is None
    assert rows["unsorted/broken.jpg"]["reason"] == "not_an_image"
    assert {row["model_version"] for row in rows.values()} == {"1"}
    assert all(row["label"] in ("bat", "cat", "owl") for row in rows.values() if row["outcome"] == "ok")
    assert Path(scored["report"]).read_text().startswith("<!doctype html>")
    table = Path(scored["predictions"]).with_suffix(".csv").read_text("utf-8-sig").splitlines()
    assert table[0].startswith("path,label,confidence,label_2,probability_2,")
    assert len(table) == 15
    assert f"on {trained['metrics']['test_images']:.0f} images, test split of" in Path(scored["report"]).read_text()

    again = safelight("score", inbox, "--name", "birds", *common)
    assert (again["scored"], again["reused"]) == (0, 12)
    check_versions(photos, common)


def check_versions(photos: Path, common: Sequence[object]) -> None:
    """Nothing changed is no new version; another seed is one; moves by hand keep their reasons."""
    assert safelight("retrain", photos, "--name", "birds", *common)["version"] == 1
    second = safelight("retrain", photos, "--name", "birds", *common, "--set", "fit.seed=1")
    assert second["version"] == 2
    champion = 2 if second["gate"]["verdict"] == "promote" else 1
    moved = safelight("promote", "birds", 3 - champion, "--why", "a look at the sheets", *common[:3])
    assert moved["champion"] == 3 - champion
    back = safelight("rollback", "birds", "--why", "it was the light", *common[:3])
    assert back["champion"] == champion
    listing = safelight("models", "birds", *common[:3])
    assert [version["version"] for version in listing["versions"]] == [1, 2]
    assert [move["why"] for move in listing["history"]][-2:] == ["a look at the sheets", "it was the light"]


def test_known_faults_are_one_line(prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder) -> None:
    make_image_folder(tmp_path / "photos", ("cat",), 2)
    work = ["--workspace", tmp_path / "work"]
    faults = {
        "nowhere": ["prepare", tmp_path / "nowhere", *work],
        "'cat'": ["prepare", tmp_path / "photos", *work],
        "no-such-dataset": ["train", "no-such-dataset", "--name", "birds", *work],
        "birds": ["score", tmp_path / "photos", "--name", "birds", *work],
        "bi/rds": ["retrain", tmp_path / "photos", "--name", "bi/rds", *work],
    }
    for word, command in faults.items():
        line = safelight(*command, code=1).strip().splitlines()[-1]
        assert line.startswith("error: ")
        assert word in line


@pytest.mark.long
def test_prefect_deployments(prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder) -> None:
    photos, inbox, work = tmp_path / "photos", tmp_path / "inbox", tmp_path / "work"
    make_image_folder(photos, ("bat", "cat", "owl"), 20)
    make_image_folder(inbox, ("unsorted",), 6, seed=9)
    given = ["--name", "birds", "--workspace", work, *SETTINGS]
    safelight("deploy", *given, "--source", photos, "--inbox", inbox, "--every", "1d", "--json")
    worker = subprocess.Popen([*PREFECT, "worker", "start", "--pool", "safelight"], cwd=tmp_path)
    try:
        prefect("deployment", "run", "retrain/birds", "--watch")
        prefect("deployment", "run", "score/birds", "--watch")
    finally:
        worker.send_signal(signal.SIGINT)
        worker.wait(60)
        for flow in ("retrain", "score"):
            prefect("deployment", "delete", f"{flow}/birds")
    (predictions,) = work.glob("batches/*/predictions.parquet")
    assert len(read_table(predictions)) == 6


@pytest.mark.slow
def test_serve_runs_deployments_without_a_work_pool(
    prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder
) -> None:
    photos, work = tmp_path / "photos", tmp_path / "work"
    make_image_folder(photos, ("bat", "cat"), 20)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a job that a script starts in the background
    process = start("serve", "--name", "birds", "--workspace", work, "--inbox", photos, *SETTINGS)
    signal.signal(signal.SIGINT, before)

    def is_served() -> bool:
        found = [
            httpx.get(f"{prefect_api}/deployments/name/{name}", timeout=30) for name in ("retrain/birds", "score/birds")
        ]
        return all(answer.is_success and answer.json()["parameters"].get("workspace") == str(work) for answer in found)

    try:
        wait_until(is_served, process)
        prefect("deployment", "run", "retrain/birds", "--param", f"source={photos}", "--watch")
        prefect("deployment", "run", "score/birds", "--watch")
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert "Warning" not in told
    assert "retrain/birds (not on schedule: give --source)" in told
    (predictions,) = work.glob("batches/*/predictions.parquet")
    assert len(read_table(predictions)) == 40


@pytest.mark.long
def test_source_and_workspace_on_s3(
    prefect_api: str, s3_bucket: str, tmp_path: Path, make_image_folder: MakeImageFolder
) -> None:
    make_image_folder(tmp_path / "photos", ("bat", "cat", "owl"), 20)
    upload(tmp_path / "photos", f"{s3_bucket}/photos")
    common = ["--workspace", f"{s3_bucket}/work", "--json", *SETTINGS]
    trained = safelight("retrain", f"{s3_bucket}/photos", "--name", "remote", *common)
    assert trained["alias"] == "champion"
    check_training_report(trained, f"{s3_bucket}/work")
    scored = safelight("score", f"{s3_bucket}/photos", "--name", "remote", *common)
    assert (scored["scored"], scored["files"]) == (60, 60)
    again = safelight("score", f"{s3_bucket}/photos", "--name", "remote", *common)
    assert again["reused"] == 60
    local = safelight("prepare", tmp_path / "photos", "--workspace", tmp_path / "work", "--json", *SETTINGS)
    remote = safelight("prepare", f"{s3_bucket}/photos", *common)
    assert remote["digest"] == local["digest"]
    assert remote["shards"]["built"] == 0


@pytest.mark.long
def test_prepare_goes_on_after_kill_9(prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder) -> None:
    photos, work = tmp_path / "photos", tmp_path / "work"
    make_image_folder(photos, ("bat", "cat", "owl"), 400, size=64)
    common = ["--json", "--set", "chunk.files=20", "--set", "image.size=[64,64]", "--set", "augment.copies=8"]
    process = start("prepare", photos, "--workspace", work, *common)
    wait_until(lambda: len(list(work.glob("chunks/*.arrow"))) >= 5, process)
    kill_group(process)
    done = {path.name for path in work.glob("chunks/*.arrow")}
    assert 5 <= len(done) < 60
    assert not list(work.glob("datasets/**/manifest.json"))
    finished = safelight("prepare", photos, "--workspace", work, *common)
    undisturbed = safelight("prepare", photos, "--workspace", tmp_path / "other", *common)
    assert finished["digest"] == undisturbed["digest"]
    assert finished["shards"]["reused"] >= len(done)
    assert not list((work / "tmp").iterdir())
    kept = {path.name: digest_shard(path.read_bytes()) for path in work.glob("shards/*.tfrecord")}
    assert all(name == f"{digest}.tfrecord" for name, digest in kept.items())


@pytest.mark.long
def test_train_goes_on_after_kill_9(prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder) -> None:
    photos, work = tmp_path / "photos", tmp_path / "work"
    make_image_folder(photos, ("bat", "cat", "owl"), 60)
    common = ["--workspace", work, "--json", *SETTINGS, "--set", "fit.epochs=40", "--set", "fit.patience=40"]
    prepared = safelight("prepare", photos, *common)
    process = start("train", prepared["dataset"], "--name", "birds", *common)
    wait_until(lambda: list(work.glob("runs/*/checkpoints/last.npz")), process)
    kill_group(process)
    process = start("train", prepared["dataset"], "--name", "birds", *common)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "went on from step" in err
    assert json.loads(out)["version"] == 1


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("prepare", signal.SIGTERM),
        ("retrain", signal.SIGINT),
        pytest.param("prepare", signal.SIGINT, marks=pytest.mark.long),
        pytest.param("retrain", signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_ctrl_c_and_sigterm_stop_at_once_and_leave_nothing(
    prefect_api: str, tmp_path: Path, make_image_folder: MakeImageFolder, what: str, number: int
) -> None:
    photos, work = tmp_path / "photos", tmp_path / "work"
    make_image_folder(photos, ("bat", "cat", "owl"), 400, size=64)
    name = ["--name", "birds"] if what == "retrain" else []
    process = start(what, photos, *name, "--workspace", work, "--set", "chunk.files=20", "--set", "augment.copies=20")
    wait_until(lambda: list(work.glob("chunks/*.arrow")), process)
    children = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    os.kill(process.pid, number)
    _, err = process.communicate()
    assert time.monotonic() - began < 30
    assert process.returncode == 128 + number, err
    assert "what was finished is kept" in err
    assert "Traceback" not in err
    _, left = psutil.wait_procs(children, timeout=20)
    assert not left
