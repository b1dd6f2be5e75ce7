"""What goes wrong in the nights: one thing each, struck while the night's run works, and over after some seconds."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from night_pictures import NightPictures
from unattended import Unattended, kill_all

Act = Callable[[Unattended, NightPictures], object]


@dataclass(frozen=True)
class Accident:
    """`strike` is done, so many seconds pass, `mend` is done. `is_early`: before the night's run begins."""

    name: str
    strike: Act
    mend: Act = lambda servers, pictures: None
    seconds: float = 0.0
    is_early: bool = False


def fill_disk(servers: Unattended, pictures: NightPictures) -> None:
    """No byte is free on the workers' disk, if it is one of its own."""
    if not os.path.ismount(servers.disk):
        return
    with (servers.disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 20)):
                continue
        except OSError:
            return


def free_disk(servers: Unattended, pictures: NightPictures) -> None:
    """There is room again."""
    Path(servers.disk, "filler").unlink(missing_ok=True)


def restart_postgres(servers: Unattended, pictures: NightPictures) -> None:
    """Gone for a moment, with all connections."""
    servers.postgres.stop()
    time.sleep(3)
    servers.postgres.start()


def kill_prefect(servers: Unattended, pictures: NightPictures) -> None:
    """The server is gone at once."""
    servers.prefect.stop(signal.SIGKILL)


def restart_worker(servers: Unattended, pictures: NightPictures) -> None:
    """As a new release is installed."""
    servers.stop_worker("b")
    servers.start_worker("b")


def restart_mlflow(servers: Unattended, pictures: NightPictures) -> None:
    """Gone at once; what asks meanwhile is refused."""
    servers.mlflow.kill()


def kill_dask_worker(servers: Unattended, pictures: NightPictures) -> None:
    """One of two; another one takes its place."""
    servers.dask.kill_oldest_worker()


def start_dask_workers(servers: Unattended, pictures: NightPictures) -> None:
    """As many as before."""
    while len(servers.dask.workers) < 2:
        servers.start_dask_worker()


def kill_by_words(*words: str) -> Act:
    """Kill what a worker has started in whose command line these words stand."""
    return lambda servers, pictures: kill_all(servers.find(*words))


def plan_accidents() -> list[Accident]:
    """Each server restarted, each kind of process killed, the disk full, bad data and moved files: once each."""
    return [
        Accident("a Dask worker is killed", kill_dask_worker, start_dask_workers),
        Accident("S3 refuses for 8 s", lambda on, _: on.s3.kill_proxy(), lambda on, _: on.s3.start_proxy(), 8),
        Accident("MLflow is gone for 25 s", restart_mlflow, lambda on, _: on.mlflow.start(), 25),
        Accident("the training process is killed", kill_by_words("tasks.train.process")),
        Accident("Prefect's server is killed, 15 s", kill_prefect, lambda on, _: on.prefect.start(), 15),
        Accident("the run's process is killed", kill_by_words("prefect.engine")),
        Accident("PostgreSQL is restarted", restart_postgres),
        Accident(
            "machine a is lost for 20 s", lambda on, _: on.lose_machine("a"), lambda on, _: on.start_worker("a"), 20
        ),
        Accident("a third of the files moved", lambda _, pictures: pictures.move_some(), is_early=True),
        Accident(
            "40 broken files", lambda _, them: them.break_some(40), lambda _, them: them.mend(), 60, is_early=True
        ),
        Accident("the disk is full for 40 s", fill_disk, free_disk, 40, is_early=True),
        Accident("Dask is restarted", lambda on, _: on.restart_dask()),
        Accident("all Dask workers gone, 15 s", lambda on, _: on.dask.kill_workers(), start_dask_workers, 15),
        Accident("worker b is restarted", restart_worker),
    ]
