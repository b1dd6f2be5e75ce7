"""Workers of another version are refused, with both named; a changed decoder and another library are both found."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_servers import ROOT, DaskServers, run_dask_servers

import infra.cluster.code_version
from cnn.errors import OutageError, ServerError, ServerOutageError
from infra.cluster.code_version import (
    CODE,
    CheckedFunction,
    ForeignCodeError,
    check_code_version,
    hash_code,
    read_code_version,
)
from infra.cluster.dask import open_cluster, run_chunks
from infra.cluster.spec import ClusterSpec

JPEG = "cnn/images/jpeg.py"


def copy_rooms(folder: Path) -> Path:
    for room in ("cnn", "infra", "tasks"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_the_digest_follows_every_byte_and_name_of_the_code(tmp_path: Path) -> None:
    folder = copy_rooms(tmp_path)
    assert hash_code(folder) == hash_code(ROOT) == read_code_version()[CODE]
    source = (folder / JPEG).read_text()
    (folder / JPEG).write_text(source + "\n")
    changed = hash_code(folder)
    (folder / JPEG).rename(folder / "cnn/images/jpegs.py")
    assert len({hash_code(ROOT), changed, hash_code(folder)}) == 3
    (folder / "cnn/images/jpegs.py").rename(folder / JPEG)
    (folder / JPEG).write_text(source)
    (folder / "cnn/images/notes.txt").write_text("no code")
    assert hash_code(folder) == hash_code(ROOT)


def test_the_libraries_that_make_pixels_are_among_it() -> None:
    found = read_code_version()
    assert all(found[name] for name in ("numpy", "opencv-python-headless", "pillow", "simplejpeg", "onnxruntime"))


def test_both_versions_are_named_wherever_they_differ() -> None:
    ours = read_code_version()
    check_code_version(dict(ours), "a worker")
    theirs = {**ours, CODE: "f" * 64, "pillow": "11.0.0", "pi-heif": ""}
    with pytest.raises(ServerError, match=r"^the worker tcp://w:1 has ") as caught:
        check_code_version(theirs, "the worker tcp://w:1")
    message = str(caught.value)
    assert f"{CODE} ffffffffffff (here {ours[CODE][:12]})" in message
    assert f"pillow 11.0.0 (here {ours['pillow']})" in message
    assert f"pi-heif not installed (here {ours['pi-heif']})" in message
    assert "numpy" not in message
    assert not isinstance(caught.value, OutageError)


def test_a_worker_without_safelight_is_refused() -> None:
    with pytest.raises(ServerError, match=r"has another Safelight than this one, or none \(No module named 'infra'\)"):
        check_code_version(ModuleNotFoundError("No module named 'infra'"), "a worker")


def test_a_chunk_that_comes_to_a_worker_of_another_version_is_not_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    function = CheckedFunction(abs)
    assert function(-3) == 3
    there = {**read_code_version(), "pillow": "11.0.0"}
    monkeypatch.setattr(infra.cluster.code_version, "read_code_version", lambda: there)
    with pytest.raises(ForeignCodeError) as caught:
        function(-3)
    assert caught.value.args == (there,)


# On a real scheduler


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[DaskServers]:
    with run_dask_servers(tmp_path) as servers:
        yield servers


@pytest.mark.integration
@pytest.mark.long
def test_a_worker_whose_decoder_flips_pictures_is_refused(servers: DaskServers, tmp_path: Path) -> None:
    servers.start_worker()
    results: list[int] = []
    spec = ClusterSpec(address=servers.address, wait_minutes=5.0)
    with open_cluster(spec) as cluster:
        run_chunks(cluster, abs, range(-3, 0), results.append)
    assert sorted(results) == [1, 2, 3]
    flipped = copy_rooms(tmp_path / "flipped")
    source = (flipped / JPEG).read_text()
    (flipped / JPEG).write_text(source.replace("return ", "return ", 1) + "\nFLIPPED = True\n")
    with open_cluster(spec) as cluster:  # open already when the other worker comes
        servers.start_worker(flipped)
        servers.kill_oldest_worker()
        with pytest.raises(ServerError, match=rf"^a Dask worker has {CODE} {hash_code(flipped)[:12]} \(here "):
            run_chunks(cluster, abs, range(1000), results.append)
    message = rf"^the worker tcp://127\.0\.0\.1:\d+ of the Dask scheduler at {servers.address} has {CODE} "
    with pytest.raises(ServerError, match=message), open_cluster(spec):
        pass


@pytest.mark.integration
@pytest.mark.long
def test_work_waits_for_workers_that_are_gone_and_goes_on(
    servers: DaskServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.cluster.worker_watch, "LINE_SECONDS", 0.5)
    servers.start_worker()
    told: list[str] = []
    results: list[int] = []

    def announce(line: str) -> None:
        told.append(line)
        if "none left" in line:
            servers.start_worker()

    def note(result: int) -> None:
        results.append(result)
        if len(results) == 3:
            servers.kill_workers()

    with open_cluster(ClusterSpec(address=servers.address, wait_minutes=5.0), announce) as cluster:
        run_chunks(cluster, abs, range(50), note)
    assert sorted(results) == list(range(50))
    assert ["none left" in told[0], "again; going on" in told[-1]] == [True, True]


@pytest.mark.integration
@pytest.mark.long
def test_work_ends_when_no_workers_come(servers: DaskServers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.cluster.worker_watch, "LINE_SECONDS", 0.5)
    servers.start_worker()
    told: list[str] = []
    with (
        open_cluster(ClusterSpec(address=servers.address, wait_minutes=0.1), told.append) as cluster,
        pytest.raises(ServerOutageError, match=r"has had no workers for 0\.1 minutes"),
    ):
        run_chunks(cluster, abs, range(50), lambda result: servers.kill_workers())
    assert len(told) == 1
