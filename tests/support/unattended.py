"""What a model needs that runs unattended: PostgreSQL, Prefect, MLflow, S3, Dask, two workers; each can be killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from dask_servers import SCHEDULER, WORKER, DaskServers
from mlflow_server import MlflowServer, run_mlflow_server
from postgres import PostgresServer, serve_postgres
from prefect_servers import PrefectServer
from s3server import S3Server, choose_ports, serve_s3

POOL = "nights"
MACHINES = ("a", "b")
DISK_BYTES = 256 << 20  # of the small disk that the workers share, where one can be mounted


class Unattended:
    """The servers and workers, by name."""

    def __init__(
        self, folder: Path, postgres: PostgresServer, prefect: PrefectServer, mlflow: MlflowServer, s3: S3Server
    ) -> None:
        self.folder, self.postgres, self.prefect, self.mlflow, self.s3 = folder, postgres, prefect, mlflow, s3
        self.disk = folder / "disk"
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.dask = DaskServers(folder, SCHEDULER, [*WORKER, "--memory-limit", "2GiB"])

    def start_dask_worker(self) -> None:
        """One more, which scratches on the small disk."""
        self.dask.start_worker(variables={"TMPDIR": str(self.disk)})

    def restart_dask(self) -> None:
        """End scheduler and workers at once; others take their place, at the same address."""
        self.dask.stop()
        port = self.dask.address.rpartition(":")[2]
        self.dask.scheduler = self.dask._start("scheduler", [*SCHEDULER, "--port", port], Path(__file__).parents[2])
        for _ in MACHINES:
            self.start_dask_worker()

    def start_worker(self, name: str) -> None:
        """A worker of the pool, on a machine of its own as far as a folder can be one."""
        home = self.disk / name
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        names = {"HOME": str(home), "SAFELIGHT_HOME": str(home / "safelight"), "TMPDIR": str(home / "tmp")}
        names |= {"PREFECT_HOME": str(home / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "2"}
        names |= {"PREFECT_CLIENT_MAX_RETRIES": "7"}  # as compose.yaml and the units have it
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", name]
        with (self.folder / f"worker-{name}.log").open("ab") as log:
            self.workers[name] = subprocess.Popen(
                command, env=os.environ | names, cwd=home, stdout=log, stderr=log, start_new_session=True
            )

    def lose_machine(self, name: str) -> None:
        """The worker and all that it has started are gone at once."""
        worker = self.workers.pop(name)
        kill_all(list_family(worker.pid))
        worker.wait(30)

    def stop_worker(self, name: str) -> None:
        """As a service manager does: asked to end, and killed after a while with what it has started."""
        worker = self.workers[name]
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(50)
        except subprocess.TimeoutExpired:
            self.lose_machine(name)
        self.workers.pop(name, None)

    def find(self, *words: str) -> list[psutil.Process]:
        """The processes below the workers in whose command line these words stand."""
        family = [process for worker in self.workers.values() for process in list_family(worker.pid)]
        return [process for process in family if all(word in read_command(process) for word in words)]

    def count_memory(self) -> int:
        """Bytes that what runs all the time holds: Prefect's server, MLflow's, scheduler, workers of both kinds."""
        roots = [self.prefect.pid, self.mlflow.pid, self.dask.scheduler.pid, *(each.pid for each in self.dask.workers)]
        family = [each for root in filter(None, roots) for each in list_family(root)]
        family += [each for worker in self.workers.values() for each in list_family(worker.pid)[:1]]
        return sum(map(read_memory, family))

    def count_disk(self) -> int:
        """Bytes in the S3 store, at MLflow's and on the workers' disk."""
        places = (self.folder / "s3", self.folder / "mlflow", self.disk)
        files = (Path(top) / name for place in places for top, _, names in os.walk(place) for name in names)
        return sum(read_size(path) for path in files)

    def stop(self) -> None:
        """End what was started here."""
        for name in tuple(self.workers):
            self.lose_machine(name)
        self.dask.stop()


@contextmanager
def run_unattended(folder: Path) -> Iterator[Unattended]:
    """All of it, answering, for the length of the block; the environment leads to it."""
    with ExitStack() as stack:
        postgres = stack.enter_context(serve_postgres())
        for name in ("prefect", "mlflow", "s3", "disk"):
            (folder / name).mkdir()
        stack.enter_context(mount_small_disk(folder / "disk"))
        names = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{postgres.address}",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        prefect = PrefectServer(names, folder / "prefect", choose_ports(1)[0])
        stack.callback(prefect.stop)
        prefect.start()
        s3 = stack.enter_context(serve_s3(folder / "s3"))
        mlflow = stack.enter_context(run_mlflow_server(folder / "mlflow"))
        os.environ.update(s3.environment)
        os.environ.update({"PREFECT_API_URL": prefect.address, "MLFLOW_TRACKING_URI": mlflow.address})
        servers = Unattended(folder, postgres, prefect, mlflow, s3)
        stack.callback(servers.stop)
        os.environ["DASK_SCHEDULER_ADDRESS"] = servers.dask.address
        for _ in MACHINES:
            servers.start_dask_worker()
        yield servers


@contextmanager
def mount_small_disk(place: Path) -> Iterator[bool]:
    """Whether a disk of `DISK_BYTES` is there for the length of the block; only root can mount one."""
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "safelight-nights", str(place)]
    is_mounted = os.geteuid() == 0 and subprocess.run(["mount", *options], capture_output=True).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def list_family(pid: int) -> list[psutil.Process]:
    """A process and all below it; none where it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(processes: list[psutil.Process]) -> None:
    """End processes at once, and wait until they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


def read_command(process: psutil.Process) -> str:
    """The command line; nothing of a process that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def read_memory(process: psutil.Process) -> int:
    """Bytes in memory that are its own (proportional shares of what it has in common with others)."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def read_size(path: Path) -> int:
    """Bytes of a file on the disk; 0 where it has just gone."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0
