"""What every test stands on: a home of its own, real servers started once, small pictures; and nothing left running."""

import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest
from disk_waits import skip_disk_waits
from hypothesis import HealthCheck, configuration, settings
from image_folders import NOBODY, MakeImageFolder, write_image_folder
from s3server import choose_ports, find_obstacle, run_s3_server

HOME = pytest.StashKey[str]()
CLEARED = (
    *("AWS_", "DASK_", "MLFLOW_", "PREFECT_", "SAFELIGHT_HOME", "SAFELIGHT_TRUST", "XDG_"),
    "PYTHONDONTWRITEBYTECODE",  # each process that a test starts would compile TensorFlow and Prefect again
)
BUCKETS = itertools.count()
# Files whose tests take longest come first: one of a minute that came last would run while the other cores rest.
# Those of cnn come before all that leaves threads behind: hypothesis fails where another thread draws from `random`.
LONGEST_FIRST = ("end_to_end", "cnn", "faults", "tasks", "infra", "flows")


def pytest_configure(config: pytest.Config) -> None:
    """Before any module is imported: a fresh home, and no setting of the person who runs the tests."""
    # A shell that starts jobs in the background has them ignore Ctrl-C, and what they start inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    home = tempfile.mkdtemp(prefix="safelight-tests-")
    config.stash[HOME] = home
    for name in [name for name in os.environ if name.startswith(CLEARED) or name.lower().endswith("_proxy")]:
        del os.environ[name]
    sys.dont_write_bytecode = False
    os.environ |= {
        "HOME": home,
        "SAFELIGHT_HOME": f"{home}/safelight",
        "PREFECT_HOME": f"{home}/prefect",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    skip_disk_waits()
    configuration.set_hypothesis_home_dir(f"{home}/hypothesis")
    settings.register_profile("safelight", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("safelight")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the home."""
    shutil.rmtree(config.stash[HOME], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The rooms in the order of what their tests take, those of a file one after the other."""
    tests = Path(__file__).parent
    rank = {room: place for place, room in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(tests).parts[0], len(rank)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what `make soak` injected."""
    if config.getoption("markexpr") == "soak" and (faults := sys.modules.get("faults")) is not None:
        terminalreporter.section("faults injected")
        terminalreporter.write_line(faults.make_table())


@pytest.fixture(scope="session", autouse=True)
def nothing_left_running(pytestconfig: pytest.Config) -> Iterator[None]:
    """Fail when a process that a test started outlives the session; set up first, so torn down last."""
    yield
    left = find_left_over(pytestconfig.stash[HOME])
    _, left = psutil.wait_procs(left, timeout=10)
    names = [f"{process.pid} {process.name()}" for process in left]
    for process in left:
        process.kill()
    assert not names, f"processes left running: {names}"


def find_left_over(home: str) -> list[psutil.Process]:
    """This user's other processes that live in this session's home, children of this one or not."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.pid != os.getpid() and process.environ().get("HOME") == home
            # multiprocessing's own helper ends with this process, by design.
            if ours and not any("resource_tracker" in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue  # gone, or another user's
    return found


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The API address of a real Prefect server of this session; see `prefect_api` for tests in this process."""
    from infra.server.local_server import start_server, stop_server, wait_for_server

    state = wait_for_server(start_server())
    yield state.url
    stop_server()


@pytest.fixture
def prefect_api(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The session's Prefect server as the configured one, for this process and for those it starts.

    What a test leaves deployed there goes with it: `safelight status` would show it to every later test.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    with temporary_settings({PREFECT_API_URL: prefect_server}), get_client(sync_client=True) as client:
        before = {each.id for each in client.read_deployments()}
        yield prefect_server
        for deployment in client.read_deployments():
            if deployment.id not in before:
                client.delete_deployment(deployment.id)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables that reach a real S3 server of this session; see `s3_bucket`."""
    folder = tmp_path_factory.mktemp("s3")
    if obstacle := find_obstacle(folder):
        if os.environ.get("SAFELIGHT_REQUIRE_SERVERS") == "1":
            pytest.fail(f"no S3 server, though SAFELIGHT_REQUIRE_SERVERS=1: {obstacle}")
        pytest.skip(f"no S3 server: {obstacle}")
    with run_s3_server(folder) as environment:
        yield environment


@pytest.fixture
def s3_bucket(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The s3:// address of a fresh bucket; the environment reaches it, for this process and for those it starts."""
    import boto3

    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{next(BUCKETS)}"
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture
def impatient_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request to S3 is sent again."""
    for limit in ("PATIENCE_SECONDS", "FIRST_SECONDS"):
        monkeypatch.setattr(f"infra.storage.s3_patience.{limit}", 0.0)


@pytest.fixture(scope="session")
def make_image_folder() -> MakeImageFolder:
    """A function that writes class folders of small pictures which differ from each other, and by class."""
    return write_image_folder


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """A block in which permissions count: root, who may do anything, is another user for as long as it lasts."""
    doors = [folder for folder in (tmp_path, *tmp_path.parents) if folder.stat().st_uid == os.getuid() == 0]
    modes = [folder.stat().st_mode for folder in doors]

    @contextmanager
    def as_nobody() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        for folder, mode in zip(doors, modes, strict=True):
            folder.chmod(mode | 0o011)  # pytest keeps its folders to the user who runs it
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
            for folder, mode in zip(doors, modes, strict=True):
                folder.chmod(mode & 0o7777)

    yield as_nobody
    for path in tmp_path.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)  # so that it can be removed


@pytest.fixture
def unused_port() -> int:
    """A port of 127.0.0.1 where nothing listens."""
    return choose_ports(1)[0]
