"""Runs and versions on a real SQLite registry, and what is said when it does not answer; nothing is trained."""

import ast
import hashlib
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from registries import METRICS, add_versions, make_bundle, register

import cnn
from cnn.errors import IntegrityError, RegistryError, ServerError, StorageError
from cnn.inference.bundle import INFO, ONNX
from infra.registry.mlflow_model import SCORING_PACKAGES, explained_disk
from infra.registry.registry import REPORT, Registry
from infra.registry.run_records import LoggedDataset
from infra.registry.tracking import resolve_tracking
from infra.registry.versions import JUDGED_ON

# Runs


def test_a_run_goes_on_under_its_key(registry: Registry) -> None:
    first = registry.start_run("runs", "a" * 64, {"fit": {"epochs": 3}})
    registry.log_epoch(first, {"loss": 0.5, "val_loss": float("nan")}, 1)
    assert registry.find_run("runs", "a" * 64) == first
    assert registry.start_run("runs", "a" * 64, {"fit": {"epochs": 3}}) == first
    registry.log_epoch(first, {"loss": 0.4}, 2)
    registry.finish_run(first, "FINISHED")
    assert registry.start_run("runs", "b" * 64, {}) != first
    below = registry.start_run("runs", "9" * 64, {}, parent=first)
    assert registry._ask("get_run", below).data.tags["mlflow.parentRunId"] == first
    assert "mlflow.parentRunId" not in registry._ask("get_run", first).data.tags
    run = registry._ask("get_run", first)
    assert run.data.params == {"fit.epochs": "3"}
    assert run.data.metrics["train_loss"] == 0.4
    assert run.info.status == "FINISHED"


def test_a_run_is_called_after_its_model_and_when_it_began(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    began = datetime(2026, 11, 26, 3, 0, 59).timestamp()
    monkeypatch.setattr(registry, "_clock", lambda: began)
    run, trial = (
        registry._ask("get_run", registry.start_run("named", key * 64, {}, what=what)).info
        for key, what in (("a", ""), ("b", "trial 3"))
    )
    assert (run.run_name, trial.run_name) == ("named 2026-11-26 03:00", "named trial 3 2026-11-26 03:00")
    monkeypatch.setattr(registry, "_clock", lambda: began + 86400.0)
    again = registry._ask("get_run", registry.start_run("named", "a" * 64, {})).info
    assert (again.run_id, again.run_name) == (run.run_id, run.run_name)  # it goes on as what it was


def test_an_experiment_is_shown_as_one_of_trained_models(registry: Registry) -> None:
    """Also one that an earlier release has made; what a person has chosen in MLflow's pages stays."""
    kind, older = "mlflow.experimentKind", registry._ask("create_experiment", "older", registry.artifact_root)
    chosen = registry._ask("create_experiment", "chosen", registry.artifact_root, {kind: "genai_development"})
    for name in ("newer", "older", "chosen"):
        registry.start_run(name, "a" * 64, {})
    kinds = [registry._ask("get_experiment", registry._experiment(name)).tags[kind] for name in ("newer", "older")]
    assert kinds == ["custom_model_development"] * 2
    assert registry._experiment("older") == older
    assert registry._ask("get_experiment", chosen).tags[kind] == "genai_development"


def test_the_dataset_is_an_input_of_the_run_and_is_one_however_often_it_is_logged(registry: Registry) -> None:
    dataset = LoggedDataset("pets-1", "d" * 64, "s3://bucket/photos/pets", {"num_rows": 20, "images": {"train": 16}})
    run = registry.start_run("inputs", "a" * 64, {})
    for _ in range(2):
        registry.log_dataset(run, dataset)
    (found,) = registry._ask("get_run", run).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest, found.dataset.source_type) == ("pets-1", "d" * 36, "s3")
    assert json.loads(found.dataset.source) == {"uri": "s3://bucket/photos/pets"}
    assert json.loads(found.dataset.profile)["images"] == {"train": 16}
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_the_figures_of_a_version_are_metrics_of_its_run_and_of_its_model(registry: Registry, bundle: Path) -> None:
    """And stay beside those of training, which are another thing."""
    run = registry.start_run("figures", "a" * 64, {})
    registry.log_epoch(run, {"accuracy": 1.0, "val_accuracy": 0.5}, 1)
    figures = METRICS | {"test_images": 60.0, "temperature": 1.5}
    tags = {JUDGED_ON: "test split of pets-1"}
    made = registry.register_version("figures", run, bundle, figures, tags)
    expected = {"test_accuracy": 0.98, "test_macro_f1": 0.97, "test_images": 60.0, "temperature": 1.5}
    metrics = registry._ask("get_run", run).data.metrics
    assert metrics == expected | {"train_accuracy": 1.0, "val_accuracy": 0.5}
    (model,) = registry._ask("get_run", run).outputs.model_outputs
    logged = registry._ask("get_logged_model", model.model_id)
    assert {metric.key: metric.value for metric in logged.metrics} == expected
    assert {(metric.dataset_name, metric.dataset_digest) for metric in logged.metrics} == {("pets-1", "d" * 36)}
    assert made.metrics == figures
    shown = registry._ask("get_model_version", "figures", "1").description
    assert shown == "accuracy 0.9800 on 60 images, test split of pets-1"


def test_a_folder_becomes_artifacts(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "confusion.png").write_bytes(b"png")
    run = registry.start_run("runs", "c" * 64, {})
    registry.log_figures(run, tmp_path)
    assert [file.path for file in registry._client.list_artifacts(run, "figures")] == ["figures/confusion.png"]


# Versions


def test_a_version_says_what_it_carries(registry: Registry, bundle: Path) -> None:
    run = registry.start_run("carries", "d" * 64, {})
    made = registry.register_version("carries", run, bundle, METRICS, {"note": "x"})
    assert (made.version, made.run_id, made.dataset, made.metrics) == (1, run, "pets-1", METRICS)
    assert made.bundle == hashlib.sha256((bundle / INFO).read_bytes()).hexdigest()
    assert made.tags["onnx"] == hashlib.sha256((bundle / ONNX).read_bytes()).hexdigest()
    assert made.tags["run_key"] == "d" * 64
    assert made.tags["note"] == "x"
    assert (made.verdict, made.reasons, made.aliases) == (None, (), ())


def test_a_run_registers_once(registry: Registry, bundle: Path) -> None:
    run = registry.start_run("once", "e" * 64, {})
    first = registry.register_version("once", run, bundle, METRICS)
    assert registry.register_version("once", run, bundle, METRICS) == first
    assert registry.versions("once") == [first]


def test_a_registration_cut_short_leaves_no_version(
    registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = registry.start_run("cut", "f" * 64, {})
    with monkeypatch.context() as patch:
        patch.setattr(registry._client, "create_model_version", lambda *a, **k: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            registry.register_version("cut", run, bundle, METRICS)
    assert registry.versions("cut") == []
    assert registry.register_version("cut", run, bundle, METRICS).version == 1


def test_an_artifact_that_does_not_arrive_leaves_no_version(
    registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = registry.start_run("lost", "0" * 64, {})
    monkeypatch.setattr(registry._client, "list_logged_model_artifacts", lambda *a: [])
    with pytest.raises(RegistryError, match=r"bundle\.json, .* did not arrive whole"):
        registry.register_version("lost", run, bundle, METRICS)
    assert registry.versions("lost") == []


def test_a_damaged_bundle_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    damaged = make_bundle(tmp_path / "damaged")
    (damaged / ONNX).write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        registry.register_version("damaged", "no run", damaged, METRICS)


def test_the_model_is_a_pyfunc_with_pinned_requirements(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    run = registry.start_run("pyfunc", "1" * 64, {})
    made = registry.register_version("pyfunc", run, bundle, METRICS)
    folder = Path(registry._artifacts(made).download_artifacts("", str(tmp_path)))
    described = (folder / "MLmodel").read_text()
    assert "loader_module: cnn.pyfunc" in described
    assert (folder / "data/bundle" / INFO).read_bytes() == (bundle / INFO).read_bytes()
    assert (folder / "code/cnn/errors.py").is_file()
    pins = (folder / "requirements.txt").read_text().split()
    assert all("==" in pin for pin in pins)
    assert any(pin.startswith("onnxruntime==") for pin in pins)
    assert not list(folder.rglob("*.pkl"))


def test_what_the_pyfunc_imports_is_among_its_requirements() -> None:
    """Else a version does not load where MLflow has installed what it asks for, and nothing else."""
    found = "(sys.modules[name].__file__ for name in sys.modules if name.startswith('cnn.'))"
    code = f"import sys, cnn.inference.pyfunc; print(*{found}, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    modules = [Path(line) for line in loaded.splitlines()]
    imported = {name for path in modules for name in list_imports(path)} - set(sys.stdlib_module_names) - {"cnn"}
    distributions = packages_distributions()
    needed = {distributions[name][0].lower() for name in imported}
    assert {"numpy", "pillow", "simplejpeg"} <= needed <= set(SCORING_PACKAGES)


def list_imports(path: Path) -> set[str]:
    """The packages that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        found |= {name.split(".")[0] for name in names}
    return found


def test_the_bundle_comes_back_verified_and_is_kept(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    register(registry, "fetch", bundle)
    version = registry.version("fetch", 1)
    kept = registry.fetch_bundle(version, tmp_path / "cache")
    assert kept == tmp_path / "cache" / version.bundle
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        path.name: path.read_bytes() for path in bundle.iterdir()
    }
    assert list((tmp_path / "cache").iterdir()) == [kept]
    stamp = (kept / INFO).stat().st_mtime_ns
    registry.fetch_bundle(version, tmp_path / "cache")
    assert (kept / INFO).stat().st_mtime_ns == stamp
    (kept / ONNX).write_bytes(b"damaged in the cache")
    registry.fetch_bundle(version, tmp_path / "cache")
    assert (kept / ONNX).read_bytes() == (bundle / ONNX).read_bytes()


@pytest.mark.parametrize("name", [INFO, ONNX])
def test_a_bundle_changed_in_the_store_is_refused(registry: Registry, tmp_path: Path, name: str) -> None:
    model = f"changed-{name}"
    register(registry, model, make_bundle(tmp_path / "bundle", name.encode()))
    version = registry.version(model, 1)
    stored = Path(registry._artifacts(version).artifact_dir) / "data/bundle" / name
    stored.write_bytes(stored.read_bytes().replace(b"o", b"0"))
    with pytest.raises(IntegrityError, match=f"model {model} version 1"):
        registry.fetch_bundle(version, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_pages_of_a_run_are_found_where_they_are_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / REPORT).write_text("<p>birds")
    registry = Registry(*resolve_tracking(str(tmp_path / "my work?#%")))
    add_versions(registry, "pages")
    registry.log_pages(registry.version("pages", 1).run_id, [tmp_path / REPORT])
    assert (registry.fetch_pages(registry.version("pages", 1), tmp_path / "cache") / REPORT).read_text() == "<p>birds"
    (tmp_path / "my work?#%").rename(tmp_path / "there")
    registry = Registry(*resolve_tracking(str(tmp_path / "there")))
    folder = registry.fetch_pages(registry.version("pages", 1), tmp_path / "cache")
    assert (folder / REPORT).read_text() == "<p>birds"
    assert folder.is_relative_to(tmp_path / "there")
    assert not (tmp_path / "cache").exists()


def test_a_file_beside_the_pages_comes_back_and_one_that_is_not_there_is_none(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "record.json").write_bytes(b"{}")
    add_versions(registry, "kept")
    version = registry.version("kept", 1)
    registry.log_pages(version.run_id, [tmp_path / "record.json"])
    assert registry.read_run_file(version, "record.json") == b"{}"
    assert registry.read_run_file(version, "other.json") is None


def test_the_pages_of_a_run_elsewhere_are_copied(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.store.artifact import artifact_repository_registry
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    (tmp_path / "far" / "figures").mkdir(parents=True)
    for name in (REPORT, "suspects.html", "notes.txt"):
        (tmp_path / "far" / name).write_text(name)
    far = LocalArtifactRepository((tmp_path / "far").as_uri())
    monkeypatch.setattr(artifact_repository_registry, "get_artifact_repository", lambda *_, **__: far)
    monkeypatch.setattr(registry, "_locate_run", lambda run: "mlflow-artifacts:/1/run/artifacts")
    add_versions(registry, "far")
    folder = registry.fetch_pages(registry.version("far", 1), tmp_path / "cache" / "run")
    assert folder == tmp_path / "cache" / "run"
    assert {path.name for path in folder.iterdir()} == {REPORT, "suspects.html"}


def test_a_workspace_that_was_moved_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    register(Registry(*resolve_tracking(str(tmp_path / "here"))), "moved", make_bundle(tmp_path / "bundle"))
    (tmp_path / "here").rename(tmp_path / "there")
    registry = Registry(*resolve_tracking(str(tmp_path / "there")))
    registry.fetch_bundle(registry.version("moved", 1), tmp_path / "cache")
    run = registry.start_run("moved", "2" * 64, {})
    assert registry.register_version("moved", run, tmp_path / "bundle", METRICS).version == 2
    assert not (tmp_path / "here").exists()


# When it does not answer


def test_a_busy_database_is_asked_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.warm_up()
    answers = iter([True, True, False])
    pauses: list[float] = []
    monkeypatch.setattr(registry, "_sleep", pauses.append)
    real = registry._client.search_registered_models
    monkeypatch.setattr(
        registry._client, "search_registered_models", lambda **k: _busy() if next(answers) else real(**k)
    )
    registry.warm_up()
    assert len(pauses) == 2


def test_a_database_that_stays_busy_ends_in_one_line(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.warm_up()
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr(registry, "_elapsed", lambda: float(next(clock)))
    monkeypatch.setattr(registry, "_clock", lambda: -1e9)  # a clock that is set back makes no wait longer
    monkeypatch.setattr(registry, "_sleep", lambda seconds: None)
    monkeypatch.setattr(registry._client, "search_registered_models", lambda **k: _busy())
    with pytest.raises(ServerError, match=r"stays busy.*run the same command again"):
        registry.warm_up()


def _busy() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    raise MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)


@pytest.mark.slow  # SQLite waits within each try
@pytest.mark.parametrize("freed", [True, False])
def test_a_database_that_another_process_locks_is_waited_for(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, freed: bool
) -> None:
    """SQLite itself holds the lock: freed after the first try it costs a wait, else the run ends with a way out."""
    key = f"{int(freed):064d}"
    registry.warm_up()
    clock = iter(range(0, 100_000, 60))
    monkeypatch.setattr(registry, "_elapsed", lambda: float(next(clock)))
    path = registry.tracking_uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(registry, "_sleep", lambda seconds: holder.rollback() if freed else None)
        if freed:
            assert registry.start_run("birds", key, {})
        else:
            with pytest.raises(ServerError, match=r"stays busy.*run the same command again") as caught:
                registry.start_run("birds", key, {})
            assert "\n" not in str(caught.value)
    assert registry.start_run("birds", key, {})


def test_a_server_that_is_not_there_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServerError, match=r"does not answer.*check MLFLOW_TRACKING_URI") as caught:
        Registry("http://ada:sesame@127.0.0.1:1", None).warm_up()
    assert "sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_database_lets_readers_work_beside_a_writer(registry: Registry) -> None:
    registry.warm_up()
    connection = sqlite3.connect(registry.tracking_uri.removeprefix("sqlite:///"))
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.close()


def test_the_module_loads_without_mlflow_and_works_without_chatter(tmp_path: Path) -> None:
    code = (
        "import sys, infra.registry.registry as r, infra.registry.tracking as t; assert 'mlflow' not in sys.modules; "
        "x = r.Registry(*t.resolve_tracking(sys.argv[1])); x.finish_run(x.start_run('a', 'b' * 64, {}), 'FINISHED')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert not (tmp_path / "mlruns").exists()
    assert not (tmp_path / "mlflow.db").exists()


# When the disk is full


@contextmanager
def little_room() -> Iterator[None]:
    """No file may grow beyond 64 KiB: every longer write fails in the system, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_temporary_folder_without_room_is_named(registry: Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", b"x" * 100_000)
    run = registry.start_run("full", "7" * 64, {})
    model = registry._ask("create_logged_model", registry._experiment("full"), name="bundle", source_run_id=run)
    refused = pytest.raises(StorageError, match=r"cannot be packed there for the registry \(.*; make room")
    with refused as caught, little_room():
        registry._send_model(model, run, bundle)
    assert str(caught.value).startswith(f"{tempfile.gettempdir()}/safelight-")
    assert "set TMPDIR" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_no_temporary_folder_at_all_is_told(
    registry: Registry, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = registry.start_run("none", "8" * 64, {})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(StorageError, match=r"gone: .*set TMPDIR"):
        registry.register_version("none", run, bundle, METRICS)


def test_a_full_temporary_folder_is_told_whatever_mlflow_makes_of_it(tmp_path: Path) -> None:
    """It blames the code that it copies into the model, not the disk."""
    import mlflow.utils.model_utils

    copy_code: Any = mlflow.utils.model_utils._validate_and_copy_code_paths
    full = tmp_path / "scratch"
    full.write_text("a file where a folder has to be is a fault of the disk like any other")
    refused = pytest.raises(StorageError, match=r"cannot be packed there for the registry .*; make room there")
    code = [str(Path(cnn.__file__).parent)]
    with refused, explained_disk(str(full)):
        copy_code(code, str(full))
    with pytest.raises(KeyError), explained_disk(str(full)):
        raise KeyError("not of the disk")
