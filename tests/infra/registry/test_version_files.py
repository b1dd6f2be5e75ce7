"""Files of versions that are removed while the record stays, in the store of a workspace."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from registries import METRICS, make_bundle, shown_to_mlflow

from cnn.errors import RegistryError
from infra.registry import history as moves
from infra.registry.mlflow_model import DATA
from infra.registry.registry import Registry
from infra.registry.version_files import DESCRIPTION, FileCount, find_model_id, walk_files
from infra.registry.versions import FILES_REMOVED, FREED, VersionInfo

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LINE = r"the files of \w+@1 were removed by `safelight gc` on 20\d\d-\d\d-\d\d; its record stays: `safelight reproduce"
# Loads a version where Safelight is not: MLflow finds the code that lies with it.
ALONE = """
import sys, mlflow
sys.path[:] = [path for path in sys.path if path not in ("", sys.argv[3])]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
mlflow.set_tracking_uri(sys.argv[1])
try:
    mlflow.pyfunc.load_model(sys.argv[2])
except RuntimeError as error:
    print(error)
"""


def keep_version(registry: Registry, name: str, bundle: Path, tmp_path: Path) -> VersionInfo:
    """A version with a record, a report and figures in its run."""
    run = registry.start_run(name, "1" * 64, {})
    figures = tmp_path / f"figures-{name}"
    figures.mkdir()
    for file, data in (("curves.png", b"png"), ("evaluation.json", b"{}")):
        (figures / file).write_bytes(data)
    registry.log_figures(run, figures)
    for file in ("report.html", "record.json"):
        (tmp_path / file).write_text("{}")
        registry.log_pages(run, [tmp_path / file])
    version = registry.register_version(name, run, bundle, METRICS)
    registry.finish_run(run, "FINISHED")
    return version


def remove(registry: Registry, version: VersionInfo) -> FileCount:
    return registry.remove_files(version, lambda: False)


def test_what_takes_room_goes_and_the_record_stays(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    version = keep_version(registry, "room", bundle, tmp_path)
    told = registry.measure_files(version)
    assert told.bytes > 500_000  # the code weighs more than a small network
    assert remove(registry, version) == told
    after = registry.version("room", 1)
    assert (after.metrics, after.bundle, after.has_files) == (version.metrics, version.bundle, False)
    assert after.tags[FREED] == str(told.bytes)
    left = dict(walk_files(registry._artifacts(after)))
    assert set(left) == {*DESCRIPTION, f"{DATA}/removed.txt", "code/cnn/__init__.py", "code/cnn/pyfunc.py"}
    assert sum(left.values()) < 5_000
    assert registry.read_run_file(after, "record.json") == b"{}"
    assert (registry.fetch_pages(after, tmp_path / "cache") / "report.html").exists()
    figures = [path for path, _ in walk_files(registry._run_artifacts(after), "figures")]
    assert figures == ["figures/evaluation.json"]
    assert registry.read_flavor(after)["loader_module"] == "cnn.pyfunc"
    model = registry._client.get_logged_model(find_model_id(version))
    assert model.tags[FILES_REMOVED] == after.tags[FILES_REMOVED]


def test_whoever_asks_for_them_is_told_in_one_line(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    import mlflow

    version = keep_version(registry, "told", bundle, tmp_path)
    registry.fetch_bundle(version, tmp_path / "cache")
    remove(registry, version)
    removed = registry.version("told", 1)
    for stale in (removed, version):  # one that was read before
        with pytest.raises(RegistryError, match=LINE):
            registry.fetch_bundle(stale, tmp_path / ("cache" if stale is removed else "other"))
    with pytest.raises(RegistryError, match=LINE):
        registry.move_champion("told", 1, "why", "ada", NOON)
    assert registry.champion("told") is None
    assert registry.history("told") == []
    with shown_to_mlflow(registry), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RegistryError, match=LINE):
            mlflow.pyfunc.load_model("models:/told/1")


@pytest.mark.integration
def test_where_safelight_is_not_its_loader_tells(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    remove(registry, keep_version(registry, "alone", bundle, tmp_path))
    command = [sys.executable, "-P", "-c", ALONE, registry.tracking_uri, "models:/alone/1", str(Path.cwd())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("the files of alone@1 were removed by `safelight gc` on"), done.stderr


def test_one_that_is_needed_by_now_keeps_its_files(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    version = keep_version(registry, "needed", bundle, tmp_path)

    key, value = moves.encode_move(moves.Move(None, 1, "why", "ada", "2026"), 1)
    registry._client.set_registered_model_tag("needed", key, value)  # by somebody who has seen no mark yet

    def is_needed() -> bool:
        assert not registry.version("needed", 1).has_files
        return 1 in registry.list_possible_champions("needed", 3)

    assert registry.remove_files(version, is_needed) == FileCount()
    kept = registry.version("needed", 1)
    assert kept.has_files
    registry.fetch_bundle(kept, tmp_path / "cache")
    assert registry.move_champion("needed", 1, "again", "ada", NOON)


@pytest.mark.parametrize("at", range(6))
def test_one_that_is_killed_on_the_way_never_looks_whole_and_is_finished(
    registry: Registry, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    name = f"killed{at}"
    version = keep_version(registry, name, bundle, tmp_path)
    steps = 0

    def die_at(ask: Callable[..., Any]) -> Callable[..., Any]:
        def step(*values: Any, **named: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > at:
                raise KeyboardInterrupt
            return ask(*values, **named)

        return step

    store = type(registry._artifacts(version))
    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_tags", die_at(registry.set_tags))
        for verb in ("delete_artifacts", "log_artifacts"):
            patch.setattr(store, verb, die_at(getattr(store, verb)))
        with pytest.raises(KeyboardInterrupt):
            remove(registry, version)
    now = registry.version(name, 1)
    assert now.has_files == (at == 0)
    assert FREED not in now.tags
    if at == 0:
        registry.fetch_bundle(now, tmp_path / "cache")
    remove(registry, now)
    assert FREED in registry.version(name, 1).tags
    assert f"{DATA}/bundle.json" not in dict(walk_files(registry._artifacts(now)))


def test_where_the_store_refuses_the_version_stays_whole(
    registry: Registry, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = keep_version(registry, "refused", bundle, tmp_path)

    def refuse(*_: Any) -> None:
        raise PermissionError("AccessDenied")

    with monkeypatch.context() as patch:
        patch.setattr(type(registry._artifacts(version)), "delete_artifacts", refuse)
        with pytest.raises(RegistryError, match=r"the files of refused@1 cannot be removed: .*AccessDenied"):
            remove(registry, version)
    assert registry.version("refused", 1).has_files
    registry.fetch_bundle(registry.version("refused", 1), tmp_path / "cache")


def test_the_same_training_again_makes_a_version_of_its_own(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    first = keep_version(registry, "again", bundle, tmp_path)
    remove(registry, first)
    run = registry.start_run("again", "1" * 64, {})
    assert run != first.run_id  # whose record stays as it is
    second = registry.register_version("again", run, bundle, METRICS)
    assert (second.version, second.has_files) == (2, True)
    assert registry.start_run("again", "1" * 64, {}) == run
    assert registry.register_version("again", run, bundle, METRICS) == second


def test_a_rollback_passes_over_champions_without_files(registry: Registry, tmp_path: Path) -> None:
    for number in range(1, 4):
        run = registry.start_run("back", str(number) * 64, {})
        registry.register_version("back", run, make_bundle(tmp_path / str(number), bytes([number])), METRICS)
        registry.move_champion("back", number, "gate", "gate", NOON)
    assert registry.list_possible_champions("back", 1) == {2, 3}
    remove(registry, registry.version("back", 2))
    assert registry.rollback_champion("back", "why", "ada", NOON).version == 1
    assert registry.move_champion("back", 3, "why", "ada", NOON)
    remove(registry, registry.version("back", 1))
    with pytest.raises(RegistryError, match=r"version 1, was deleted in MLflow, or `safelight gc` has removed"):
        registry.rollback_champion("back", "why", "ada", NOON)
