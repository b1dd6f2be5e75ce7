"""A workspace that was moved: plain MLflow programs find its runs and versions again, and nobody else's are touched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import find_obstacle, run_postgres
from registries import make_bundle, register

from cnn.errors import StorageError
from infra.registry.moved_artifacts import find_moved_artifacts, repair_artifact_addresses
from infra.registry.registry import Registry
from infra.registry.tracking import resolve_tracking

# What a program does that has never heard of Safelight: the newest version's model and run.
PLAIN = """
import sys
import mlflow
uri, name, folder = sys.argv[1:]
client = mlflow.MlflowClient(uri, uri)
mlflow.set_tracking_uri(uri)
mlflow.set_registry_uri(uri)
version = client.get_model_version(name, "1")
try:
    print(mlflow.artifacts.download_artifacts(f"models:/{name}/1", dst_path=folder))
    print([file.path for file in client.list_artifacts(version.run_id)])
except Exception as error:
    print(type(error).__name__)
"""


def ask_plainly(tracking_uri: str, name: str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-P", "-c", PLAIN, tracking_uri, name, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout


def open_workspace(folder: Path) -> Registry:
    return Registry(*resolve_tracking(str(folder)))


def fill(registry: Registry, name: str, bundle: Path, figures: Path) -> None:
    register(registry, name, bundle)
    registry.log_figures(registry.version(name, 1).run_id, figures)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/loss.png").write_bytes(b"png")
    return tmp_path / "figures"


@pytest.mark.long
def test_other_programs_find_what_was_moved_after_the_repair(tmp_path: Path, bundle: Path, figures: Path) -> None:
    former, present = tmp_path / "here, 100% #1 ü", tmp_path / "there & 'then'"
    fill(open_workspace(former), "moved", bundle, figures)
    assert find_moved_artifacts(*resolve_tracking(str(former))) == ()
    former.rename(present)
    tracking, artifacts = resolve_tracking(str(present))
    assert ask_plainly(tracking, "moved", tmp_path / "before").splitlines()[-1] == "[]"
    assert not list((tmp_path / "before").rglob("bundle.json"))
    (found,) = find_moved_artifacts(tracking, artifacts)
    assert found.records == 2  # the run and the model
    assert f"of 2 runs and models in {former}/mlflow/artifacts, and they lie in {present}/" in found.describe()
    assert repair_artifact_addresses(tracking, artifacts) == (found,)
    answer = ask_plainly(tracking, "moved", tmp_path / "after")
    assert answer.splitlines()[-1] == "['figures']", answer
    assert list((tmp_path / "after").rglob("bundle.json"))
    assert repair_artifact_addresses(tracking, artifacts) == ()
    assert len(list(present.glob("mlflow/mlflow.db.before-*"))) == 1


def test_the_next_training_says_it_and_after_the_repair_goes_on_in_the_same_experiment(
    tmp_path: Path, bundle: Path, figures: Path
) -> None:
    fill(open_workspace(tmp_path / "here"), "birds", bundle, figures)
    (tmp_path / "here").rename(tmp_path / "there")
    said: list[str] = []
    addresses = resolve_tracking(str(tmp_path / "there"))
    Registry(*addresses, announce=said.append).start_run("birds", "1" * 64, {})
    assert len(said) == 1
    assert said[0].startswith("MLflow: the workspace was moved")
    assert said[0].endswith("`safelight doctor --repair` mends it")
    repair_artifact_addresses(*addresses)
    registry = Registry(*addresses, announce=said.append)
    run = registry._ask("get_run", registry.start_run("birds", "2" * 64, {})).info
    first = registry._ask("get_run", registry.version("birds", 1).run_id).info
    assert run.experiment_id == first.experiment_id
    assert len(said) == 1


def test_a_copy_is_repaired_and_its_original_stays_as_it_is(tmp_path: Path, bundle: Path, figures: Path) -> None:
    fill(open_workspace(tmp_path / "here"), "copied", bundle, figures)
    subprocess.run(["cp", "-a", tmp_path / "here", tmp_path / "there"], check=True)
    assert len(repair_artifact_addresses(*resolve_tracking(str(tmp_path / "there")))) == 1
    assert find_moved_artifacts(*resolve_tracking(str(tmp_path / "here"))) == ()
    location = open_workspace(tmp_path / "there").version("copied", 1).location
    assert location.startswith((tmp_path / "there").as_uri())


def test_a_second_name_of_a_folder_is_no_move(tmp_path: Path, bundle: Path, figures: Path) -> None:
    fill(open_workspace(tmp_path / "here"), "linked", bundle, figures)
    (tmp_path / "link").symlink_to("here")
    assert find_moved_artifacts(*resolve_tracking(str(tmp_path / "link"))) == ()


def test_there_is_nothing_to_mend_where_mlflow_keeps_no_addresses_of_folders(tmp_path: Path) -> None:
    root = (tmp_path / "w/mlflow/artifacts").as_uri()
    assert find_moved_artifacts("http://127.0.0.1:9", None) == ()
    assert find_moved_artifacts(f"sqlite:///{tmp_path}/none.db", root) == ()
    assert find_moved_artifacts(f"sqlite:///{tmp_path}/none.db", "s3://bucket/mlflow/artifacts") == ()
    assert not (tmp_path / "none.db").exists()


def test_a_database_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match=r"mlflow\.db cannot be read or written"):
        find_moved_artifacts(f"sqlite:///{tmp_path}/mlflow.db", (tmp_path / "artifacts").as_uri())


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[str]:
    if obstacle := find_obstacle():
        if os.environ.get("SAFELIGHT_REQUIRE_SERVERS") == "1":
            pytest.fail(obstacle)
        pytest.skip(obstacle)
    with run_postgres() as address:
        yield f"postgresql+pg8000://{address}"


@pytest.mark.integration
@pytest.mark.long
def test_in_a_database_that_workspaces_share_only_the_one_that_moved_is_mended(
    shared: str, tmp_path: Path, bundle: Path, figures: Path
) -> None:
    roots = {name: (tmp_path / name / "mlflow/artifacts").as_uri() for name in ("a", "b", "c")}
    for name in ("a", "b"):
        fill(Registry(shared, roots[name]), f"model-{name}", bundle, figures)
    (tmp_path / "a").rename(tmp_path / "c")
    subprocess.run(["cp", "-a", tmp_path / "b", tmp_path / "copy"], check=True)
    copy = (tmp_path / "copy/mlflow/artifacts").as_uri()
    assert repair_artifact_addresses(shared, copy) == ()  # the original is still there, and is found in the same place
    assert [moved.former for moved in repair_artifact_addresses(shared, roots["c"])] == [roots["a"]]
    registry = Registry(shared, roots["c"])
    assert registry.version("model-a", 1).location.startswith(roots["c"])
    assert registry.version("model-b", 1).location.startswith(roots["b"])
    for name in ("a", "b"):
        answer = ask_plainly(shared, f"model-{name}", tmp_path / f"got {name}")
        assert answer.splitlines()[-1] == "['figures']", answer
