"""How Dask's worker processes start: deaf to Ctrl-C, without this command's main module or the working folder's."""

import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from infra.cluster.decoder_pool import WORKER_NAME
from infra.machine.import_path import find_working_folder, order_folders, python_environment
from infra.machine.user_dirs import state_dir

FOLDERS = ("PYTHONPATH", "PYTHONSAFEPATH")  # what decides where a new process looks for modules


@contextmanager
def block_interrupts() -> Iterator[None]:
    """Threads and processes started in the block never see Ctrl-C: this process ends them, and they print nothing."""
    with safe_import_folders():
        multiprocessing.resource_tracker.ensure_running()  # started inside, it would undo the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def safe_import_folders() -> Iterator[None]:
    """In the block no Python process looks for a module in the working folder; see `infra.machine.import_path`."""
    before = {name: os.environ.get(name) for name in FOLDERS}
    _set_variables({name: python_environment().get(name) for name in FOLDERS})
    try:
        yield
    finally:
        _set_variables(before)


def leave_working_folder() -> None:
    """Go on in an empty folder of this user. Raises: StorageError, OSError.

    Prefect puts the folder where it is started before all others when it imports a flow, and reads settings there.
    """
    if given := os.environ.get("SAFELIGHT_HOME"):
        os.environ["SAFELIGHT_HOME"] = os.path.abspath(given)
    folder = state_dir() / "served"
    folder.mkdir(mode=0o700, exist_ok=True)
    os.chdir(folder)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@contextmanager
def skip_main_module() -> Iterator[None]:
    """Worker processes started in the block do not import this process's main module, nor one of the working folder.

    Spawned processes import it to unpickle what it defines. Here that is the command line or Prefect's engine: seconds
    per worker for nothing, since functions that are sent to workers are in modules of their own.
    """
    original = multiprocessing.spawn.get_preparation_data

    def prepare(name: str) -> dict[str, Any]:
        data = original(name)
        if name.startswith(WORKER_NAME):
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
            data["sys_path"] = order_folders(data["sys_path"], os.environ, find_working_folder())
        return data

    multiprocessing.spawn.get_preparation_data = prepare
    try:
        with safe_import_folders():
            yield
    finally:
        multiprocessing.spawn.get_preparation_data = original
