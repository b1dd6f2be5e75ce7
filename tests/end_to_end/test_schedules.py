"""Schedules come true: on SQLite and PostgreSQL, served and in a work pool, what is due runs, and does what is new.

No release of Prefect, or of what it stands on, may pass without this: one that inserts no scheduled run says so only in
the log of its server.
"""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from image_folders import write_image_folder
from PIL import Image
from postgres import find_obstacle, run_postgres
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowFilter, FlowFilterName
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_servers import run_prefect_with
from s3server import choose_ports

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(600)]

NAME = "birds"
PATIENCE = 240.0  # seconds that something may take on a busy machine; all of it together takes less
SECONDS = 5  # of the schedules
TINY: dict[str, Any] = {
    "image": {"size": [16, 16]},
    "model": {"preset": "notes"},
    "fit": {"epochs": 1},
    "split": {"validation": 0.2, "test": 0.2},
}
Processes = Sequence["subprocess.Popen[Any]"]
SETTINGS = [
    word for name, keys in TINY.items() for key, value in keys.items() for word in ("--set", f"{name}.{key}={value}")
]


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a Prefect server on each database, with the settings that Prefect has by itself."""
    if request.param == "sqlite":
        yield request.getfixturevalue("prefect_server")  # the one that commands start: what people have
        return
    if obstacle := find_obstacle():
        if os.environ.get("SAFELIGHT_REQUIRE_SERVERS") == "1":
            pytest.fail(f"no PostgreSQL, though SAFELIGHT_REQUIRE_SERVERS=1: {obstacle}")
        pytest.skip(f"no PostgreSQL: {obstacle}")
    with run_postgres() as database:
        tables = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}"}
        with run_prefect_with(tables, tmp_path_factory.mktemp("prefect"), choose_ports(1)[0]) as address:
            yield address


@pytest.fixture
def api(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """That server as the configured one, for this process and for those it starts."""
    monkeypatch.setenv("PREFECT_API_URL", server)
    with temporary_settings({PREFECT_API_URL: server}):
        yield server


class Place:
    """The folders of a model: pictures to learn from, pictures to score, and what comes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.photos, self.inbox, self.work = folder, folder / "photos", folder / "inbox", folder / "work"

    def datasets(self) -> list[int]:
        """How many files each dataset version of these pictures has, in ascending order."""
        found = [json.loads(path.read_bytes()) for path in self.work.glob("datasets/*/manifest.json")]
        return sorted(int(one["files"]) for one in found if one["source"] == str(self.photos))

    def batches(self) -> list[dict[str, Any]]:
        """The records of all scored batches, the latest last."""
        found = [json.loads(path.read_bytes()) for path in self.work.glob("batches/*/batch.json")]
        return sorted(found, key=lambda record: str(record["scored_at"]))

    def scored(self, batch: dict[str, Any]) -> dict[str, str]:
        """path -> when it was scored, of all rows of a batch."""
        rows = pq.read_table(self.work / batch["predictions"]["path"]).to_pylist()
        return {row["path"]: str(row["scored_at"]) for row in rows}


def add_image(folder: Path) -> None:
    """One more picture, which appears whole."""
    pixels = np.random.default_rng(len(str(folder))).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder.parent / ".unfinished", "png")
    (folder.parent / ".unfinished").rename(folder / "new.png")


@pytest.fixture(scope="module")
def trained(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A model, trained once and made champion by hand: what each test begins with a copy of."""
    place = Place(tmp_path_factory.mktemp("trained"))
    write_image_folder(place.photos, ("bat", "cat"), 12)
    write_image_folder(place.inbox, ("unsorted",), 3, seed=9)
    retrain = ["retrain", str(place.photos), "--name", NAME, *SETTINGS]
    promote = ["promote", NAME, "1", "--why", "one epoch is too little for the gate"]
    for words in (retrain, promote):
        command = [str(Path(sys.executable).with_name("safelight")), *words, "--workspace", str(place.work)]
        names = os.environ | {"PREFECT_API_URL": prefect_server}
        done = subprocess.run(command, env=names, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def place(trained: Place, tmp_path: Path) -> Place:
    """Folders of its own for each test; the registry's copy leads to the bundle of the first."""
    shutil.copytree(trained.folder, tmp_path / "place")
    return Place(tmp_path / "place")


def wait_for(condition: Callable[[], Any], processes: Processes, log: Callable[[], str]) -> Any:
    """What the condition says once it says something; nothing else ends the wait but a death or the deadline."""
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert all(process.poll() is None for process in processes), log()
        assert time.monotonic() < until, log()
        time.sleep(0.1)
    return found


@contextmanager
def serve(place: Place, log: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`safelight serve` as people start it; Ctrl-C must end it without a traceback, and leave no process."""
    command = [Path(sys.executable).with_name("safelight"), "serve", "--name", NAME, "--source", place.photos]
    command += ["--inbox", place.inbox, "--workspace", place.work, *SETTINGS, *words]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=output,
            stderr=output,
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        process.wait(60)
        _, left = psutil.wait_procs(children, timeout=20)
    assert not left, log.read_text()
    assert process.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@contextmanager
def work_pool(place: Place, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The deployments that `safelight deploy` makes, with schedules of seconds, and a worker."""
    remove_deployments()  # `safelight deploy` takes none over that was served within the last minute
    safelight = str(Path(sys.executable).with_name("safelight"))
    words = ["--name", NAME, "--source", place.photos, "--inbox", place.inbox, "--workspace", place.work, *SETTINGS]
    times = ["--nightly", f"{2 * SECONDS}s", "--every", f"{2 * SECONDS}s", "--pool", "ticking"]
    done = subprocess.run([safelight, "deploy", *map(str, words), *times], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with (folder / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "ticking"],
            env=os.environ | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield worker
    finally:
        worker.send_signal(signal.SIGINT)
        worker.wait(90)
        remove_deployments()
        with get_client(sync_client=True) as client:
            client.delete_work_pool("ticking")


def remove_deployments() -> None:
    """Have none of this model on the server."""
    with get_client(sync_client=True) as client:
        for flow in ("retrain", "score"):
            with suppress(ObjectNotFound):
                client.delete_deployment(client.read_deployment_by_name(f"{flow}/{NAME}").id)


def count_done(deployment: str) -> int:
    """How many runs of a deployment have come to a good end."""
    flow, _, name = deployment.partition("/")
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])),
        )
    return sum(run.state is not None and run.state.is_completed() for run in runs)


def check_scoring(place: Place, processes: Processes, log: Callable[[], str]) -> None:
    """The inbox is scored, and when a picture has come, that one alone."""
    first = wait_for(lambda: place.batches()[-1:], processes, log)[0]
    assert (first["files"], first["scored"], first["reused"]) == (3, 3, 0)
    add_image(place.inbox / "unsorted")
    second = wait_for(lambda: [batch for batch in place.batches() if batch["files"] == 4], processes, log)[0]
    assert (second["scored"], second["reused"]) == (1, 3)
    before, after = place.scored(first), place.scored(second)
    assert set(after) - set(before) == {"unsorted/new.png"}
    assert {path: after[path] for path in before} == before


def test_serve_retrains_and_scores_when_it_is_time(api: str, place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    before = count_done(f"retrain/{NAME}"), count_done(f"score/{NAME}")

    def is_done() -> bool:
        now = count_done(f"retrain/{NAME}"), count_done(f"score/{NAME}")
        return all(after - earlier >= 2 for earlier, after in zip(before, now, strict=True))

    with serve(place, log, "--every", f"{SECONDS}s", "--set", f"schedule.retrain={2 * SECONDS}s") as process:
        check_scoring(place, [process], log.read_text)
        wait_for(is_done, [process], log.read_text)
        assert place.datasets() == [24]  # the second retraining has found nothing new
    check_lines(log.read_text(), place)


def check_lines(told: str, place: Place) -> None:
    """What a person reads in the terminal."""
    report = place.work / "batches" / place.batches()[0]["batch"] / "report.html"
    for line in (
        rf"serving retrain/{NAME} \(every 10s, .+, from {place.photos}\)",
        rf"next (retrain|score) {NAME} \d\d:\d\d(:\d\d)?, next (retrain|score) {NAME} \d\d:\d\d(:\d\d)?",
        rf"retrain {NAME}: nothing has changed since version 1 \(champion\)",
        rf"score {NAME}: list: 4 files, 1 to score",
        rf"score {NAME}: 3 new, \d of \d to review, report {re.escape(str(report))}",
    ):
        assert re.search(rf"^\d\d:\d\d {line}$", told, re.MULTILINE), f"{line}\n{told}"


def test_a_new_picture_is_learnt_from_when_it_is_time(prefect_api: str, place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serve(place, log, "--every", "1d", "--set", f"schedule.retrain={SECONDS}s") as process:
        wait_for(lambda: place.datasets() == [24], [process], log.read_text)
        add_image(place.photos / "bat")
        wait_for(lambda: f"retrain {NAME}: version 2, " in log.read_text(), [process], log.read_text)
    assert place.datasets() == [24, 25]
    told = log.read_text()
    assert f"retrain {NAME}: list: 25 files in 2 classes, 24 of them built already" in told
    became = "(champion|challenger; (held|champion kept): .+)"
    end = rf"^\d\d:\d\d retrain {NAME}: version 2, \d\.\d\d\d \([+-]\d\.\d\d\d\), {became}$"
    assert re.search(end, told, re.MULTILINE), told


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_at_the_start_of_a_run_leaves_no_traceback(prefect_api: str, place: Place, whole_group: bool) -> None:
    """In a terminal: the key goes to every process of it, `kill -INT` to serve alone."""
    command = [str(Path(sys.executable).with_name("safelight")), "serve", "--name", NAME, "--inbox", str(place.inbox)]
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [*command, "--workspace", str(place.work), "--every", f"{SECONDS}s"],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(inside)
    told = bytearray()

    def is_starting() -> bool:
        told.extend(read_terminal(terminal))
        return has_run(process.pid)

    def has_ended() -> bool:
        told.extend(read_terminal(terminal))
        return process.poll() is not None

    try:
        wait_for(is_starting, [process], told.decode)
        if whole_group:
            os.write(terminal, b"\x03")
        else:
            process.send_signal(signal.SIGINT)
        wait_for(has_ended, [], told.decode)
        told.extend(read_terminal(terminal))
    finally:
        process.terminate()
        process.wait(60)
        os.close(terminal)
    assert process.returncode == 0, told.decode()
    assert f"score {NAME}: stopped; what was finished is kept" in told.decode(), "\n".join(told.decode().splitlines())
    assert not re.search("Traceback|KeyboardInterrupt|Error", told.decode()), told.decode()


def test_serve_ends_soon_when_its_server_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's client asks again for a minute, and the schedules that are paused at the end are two requests."""
    monkeypatch.setenv("SAFELIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    safelight, log = str(Path(sys.executable).with_name("safelight")), tmp_path / "log"
    write_image_folder(tmp_path / "inbox", ("unsorted",), 1)
    command = [safelight, "serve", "--name", NAME, "--inbox", str(tmp_path / "inbox"), "--every", "1d"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=tmp_path, start_new_session=True)
    try:
        wait_for(lambda: "next score" in log.read_text(), [process], log.read_text)
        subprocess.run([safelight, "down"], check=True, capture_output=True)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
        assert time.monotonic() - began < 25  # two times five seconds, and a busy machine
    finally:
        process.kill()
        subprocess.run([safelight, "down"], check=True, capture_output=True)
    assert "Prefect's server does not answer: the schedules stay active there" in log.read_text()
    assert "Traceback" not in log.read_text()


def has_run(pid: int) -> bool:
    """Whether the process of a run has been started by this one."""
    for child in psutil.Process(pid).children():
        with suppress(psutil.Error):  # it may end while it is looked at
            if "flows.serving.process" in child.cmdline():
                return True
    return False


def take_terminal() -> None:
    """Make standard input the terminal of this session, so that its keys send signals."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_terminal(terminal: int) -> bytes:
    """What was printed since, after a moment at most."""
    ready, _, _ = select.select([terminal], [], [], 0.05)
    try:
        return os.read(terminal, 65536) if ready else b""
    except OSError:  # all who had it open have ended
        return b""


def test_a_worker_retrains_and_scores_when_it_is_time(api: str, place: Place, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with work_pool(place, tmp_path) as worker:
        check_scoring(place, [worker], log.read_text)  # two runs of score/birds at the least
        wait_for(lambda: count_done(f"retrain/{NAME}") >= 2, [worker], log.read_text)
    assert place.datasets() == [24]  # the second one has found nothing new
