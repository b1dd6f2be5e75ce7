"""Runs, versions, aliases and the champion's history, on a real SQLite registry; nothing is trained."""

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.architecture import ModelSpec
from cnn.bundle import GOLDEN, INFO, ONNX, WEIGHTS, BundleInfo
from cnn.dataset import Normalization, SplitSpec
from cnn.errors import ConfigError, IntegrityError, RegistryError, ServerError, StorageError
from cnn.images import ImageSpec
from infra import moves
from infra.moves import Move
from infra.registry import CHALLENGER, Registry, resolve_tracking
from infra.tracking import check_name, flatten_parameters, prepare_database, redact

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
METRICS = {"accuracy": 0.98, "macro_f1": 0.97}


def make_bundle(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    files = {GOLDEN: b"golden" + content, ONNX: b"onnx" + content, WEIGHTS: content}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    info = BundleInfo(
        model=ModelSpec(preset="lenet"),
        image=ImageSpec(size=(8, 8), channels=1),
        normalization=Normalization(method="unit", scale=1 / 255, offset=0.0),
        classes=("cat", "dog"),
        temperature=1.0,
        dataset="pets-1",
        dataset_digest="d" * 64,
        split=SplitSpec(),
        onnx_difference=0.0,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    (folder / INFO).write_text(info.to_json())
    return folder


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    workspace = tmp_path_factory.mktemp("a workspace, 100% #1 ü")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr("tempfile.tempdir", str(workspace))
        yield Registry(*resolve_tracking(str(workspace)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "first")


def register(registry: Registry, name: str, bundle: Path, versions: int = 1) -> None:
    for number in range(versions):
        run = registry.start_run(name, hashlib.sha256(f"{name}{number}".encode()).hexdigest(), {})
        registry.register_version(name, run, bundle, METRICS)


# Addresses and names


def test_a_local_workspace_keeps_its_registry_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    expected = (f"sqlite:///{tmp_path}/mlflow/mlflow.db", f"file://{tmp_path}/mlflow/artifacts")
    assert resolve_tracking(str(tmp_path)) == expected
    assert resolve_tracking(tmp_path.as_uri()) == expected


def test_a_bucket_keeps_artifacts_and_this_machine_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path))
    uri, root = resolve_tracking("s3://bucket/prefix/")
    assert root == "s3://bucket/prefix/mlflow/artifacts"
    assert uri.startswith(f"sqlite:///{tmp_path}")
    assert uri == resolve_tracking("s3://bucket/prefix")[0]
    assert uri != resolve_tracking("s3://bucket/other")[0]


@pytest.mark.parametrize(
    ("address", "root"),
    [("https://mlflow.example", None), ("postgresql://db/mlflow", "s3://bucket/mlflow/artifacts")],
)
def test_a_configured_server_is_obeyed(monkeypatch: pytest.MonkeyPatch, address: str, root: str | None) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert resolve_tracking("s3://bucket") == (address, root)


def test_a_path_that_no_database_address_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="rename the workspace folder"):
        resolve_tracking(str(tmp_path / "what?"))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"not a database, but long enough to look like one" * 30)
    with pytest.raises(StorageError, match=r"mlflow\.db: MLflow's database does not open"):
        prepare_database(f"sqlite:///{path}")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", ".hidden", "..", "a b", "x" * 65, "tab\t", "naïve", "-x", "a\n"])
def test_names_that_mlflow_or_a_folder_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="model name"):
        check_name(name)


@pytest.mark.parametrize("name", ["digits", "v1.2", "Birds_2-x", "7"])
def test_plain_names_are_taken(name: str) -> None:
    assert check_name(name) == name


def test_parameters_carry_no_credentials() -> None:
    flat = flatten_parameters(
        {
            "source": "s3://key:sesame@bucket/photos?X-Amz-Signature=sesame",
            "store": {"secret_access_key": "sesame", "region": "eu"},
            "urls": ["https://me:sesame@host/x"],
            "long": "x" * 9000,
        }
    )
    assert "sesame" not in json.dumps(flat)
    assert flat["source"] == "s3://bucket/photos"
    assert flat["store.region"] == "eu"
    assert len(flat["long"]) == 500


def test_an_address_that_cannot_be_read_is_not_shown() -> None:
    assert redact("see http://[bad:sesame@x for more") == "see http://... for more"


# Moves


versions = st.integers(1, 6)


@given(st.lists(versions, max_size=12))
def test_rolling_back_never_returns_to_what_was_rolled_back(promoted: list[int]) -> None:
    """Rolling back until nothing is left visits each earlier champion once, latest first."""
    champion: int | None = None
    kept: list[Move] = []
    for version in promoted:
        if version != champion:
            kept.append(Move(champion, version, "", "", f"{len(kept):04d}"))
            champion = version
    expected = [version for version in dict.fromkeys(reversed(promoted)) if version != champion]
    seen = []
    while champion is not None and (previous := moves.previous_champion(kept, champion)) is not None:
        kept.append(Move(champion, previous, "", "", f"{len(kept):04d}", "rollback"))
        champion = previous
        seen.append(previous)
    assert seen == expected


def test_a_move_cut_short_is_not_history() -> None:
    kept = [Move(None, 1, "a", "", "1"), Move(1, 2, "never applied", "", "2"), Move(1, 3, "b", "", "3")]
    assert [move.to_version for move in moves.applied_moves(kept, 3)] == [1, 3]
    assert moves.previous_champion(kept, 3) == 1
    assert [move.to_version for move in moves.applied_moves([*kept, Move(3, 4, "", "", "4")], 3)] == [1, 3]


def test_a_champion_that_another_program_moved_can_be_rolled_back() -> None:
    assert moves.previous_champion([Move(None, 1, "", "", "1")], 5) == 1


@given(st.text(), st.text())
def test_moves_come_back_as_they_were_kept(why: str, by: str) -> None:
    move = Move(None, 7, why, by, "2026-03-01T12:00:00.000Z")
    key, value = moves.encode_move(move, 12)
    assert key.startswith("move.000012.")
    assert len(value) < 5000 or len(why) > 500
    [back] = moves.decode_moves({key: value, "other": "x"})
    assert back.why == moves.shorten(why, moves.WHY_CHARACTERS)
    assert moves.next_number([key]) == 13


def test_a_long_reason_is_cut_with_an_ellipsis() -> None:
    [back] = moves.decode_moves(dict([moves.encode_move(Move(1, 2, "because " * 4000, "me", "t"), 1)]))
    assert back.why.endswith("…")
    assert len(back.why) == moves.WHY_CHARACTERS


# Runs


def test_a_run_goes_on_under_its_key(registry: Registry) -> None:
    first = registry.start_run("runs", "a" * 64, {"fit": {"epochs": 3}})
    registry.log_epoch(first, {"loss": 0.5, "val_loss": float("nan")}, 1)
    assert registry.find_run("runs", "a" * 64) == first
    assert registry.start_run("runs", "a" * 64, {"fit": {"epochs": 3}}) == first
    registry.log_epoch(first, {"loss": 0.4}, 2)
    registry.finish_run(first, "FINISHED")
    assert registry.start_run("runs", "b" * 64, {}) != first
    run = registry._ask("get_run", first)
    assert run.data.params == {"fit.epochs": "3"}
    assert run.data.metrics["loss"] == 0.4
    assert run.info.status == "FINISHED"


def test_a_folder_becomes_artifacts(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "confusion.png").write_bytes(b"png")
    run = registry.start_run("runs", "c" * 64, {})
    registry.log_folder(run, tmp_path, "figures")
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


# Aliases, champion, history


def test_the_champion_moves_with_its_reason(registry: Registry, bundle: Path) -> None:
    register(registry, "moves", bundle, 2)
    assert registry.champion("moves") is None
    assert registry.move_champion("moves", 1, "gate: first version", "gate", NOON)
    assert registry.move_champion("moves", 2, "looks\nbetter", "ada", NOON)
    assert not registry.move_champion("moves", 2, "again", "ada", NOON)
    champion = registry.require_champion("moves")
    assert (champion.version, champion.aliases) == (2, ("champion",))
    assert registry.history("moves") == [
        Move(None, 1, "gate: first version", "gate", "2026-03-01T12:00:00.000Z"),
        Move(1, 2, "looks better", "ada", "2026-03-01T12:00:00.000Z"),
    ]


def test_rollback_returns_to_the_champion_before(registry: Registry, bundle: Path) -> None:
    register(registry, "back", bundle, 3)
    for number in (1, 2, 3):
        registry.move_champion("back", number, "gate", "gate", NOON)
    assert registry.rollback_champion("back", "3 is bad", "ada", NOON).version == 2
    assert registry.rollback_champion("back", "so is 2", "ada", NOON).version == 1
    with pytest.raises(RegistryError, match="model back had no champion before version 1"):
        registry.rollback_champion("back", "and 1", "ada", NOON)
    assert [(move.to_version, move.kind) for move in registry.history("back")][-1] == (1, "rollback")


def test_a_move_cut_short_is_made_good_by_the_next(
    registry: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(registry, "short", bundle, 2)
    registry.move_champion("short", 1, "gate", "gate", NOON)
    with monkeypatch.context() as patch:
        patch.setattr(registry._client, "set_registered_model_alias", lambda *a: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            registry.move_champion("short", 2, "gate", "gate", NOON)
    assert [move.to_version for move in registry.history("short")] == [1]
    registry.move_champion("short", 2, "gate", "gate", NOON)
    assert [move.to_version for move in registry.history("short")] == [1, 2]


def test_other_aliases_come_and_go(registry: Registry, bundle: Path) -> None:
    register(registry, "alias", bundle, 2)
    registry.set_alias("alias", CHALLENGER, 1)
    registry.set_alias("alias", CHALLENGER, 2)
    assert [version.aliases for version in registry.versions("alias")] == [(), (CHALLENGER,)]
    registry.drop_alias("alias", CHALLENGER)
    registry.drop_alias("alias", CHALLENGER)
    assert registry.version("alias", 2).aliases == ()
    with pytest.raises(RegistryError, match="safelight promote"):
        registry.set_alias("alias", "champion", 1)


def test_what_is_not_there_is_said_in_one_line(registry: Registry, bundle: Path) -> None:
    register(registry, "a-present", bundle)
    with pytest.raises(RegistryError, match=r"no model is named absent: there are .*a-present"):
        registry.versions("absent")
    with pytest.raises(RegistryError, match="model a-present has no version 9"):
        registry.version("a-present", 9)
    with pytest.raises(RegistryError, match=r"no champion yet.*safelight promote a-present VERSION --why"):
        registry.require_champion("a-present")
    with pytest.raises(RegistryError, match="has no version 9"):
        registry.move_champion("a-present", 9, "why", "me", NOON)
    assert registry.champion("absent") is None


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
    monkeypatch.setattr(registry, "_clock", lambda: float(next(clock)))
    monkeypatch.setattr(registry, "_sleep", lambda seconds: None)
    monkeypatch.setattr(registry._client, "search_registered_models", lambda **k: _busy())
    with pytest.raises(ServerError, match=r"stays busy.*run the same command again"):
        registry.warm_up()


def _busy() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    raise MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)


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
        "import sys, infra.registry as r; assert 'mlflow' not in sys.modules; "
        "x = r.Registry(*r.resolve_tracking(sys.argv[1])); x.finish_run(x.start_run('a', 'b' * 64, {}), 'FINISHED')"
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
