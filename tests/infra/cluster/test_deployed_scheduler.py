"""A scheduler and a worker started as docs/deploy.md says: nothing of them is reached from another machine."""

import re
import shlex
from pathlib import Path

import psutil
import pytest
from dask_servers import ROOT, DaskServers, run_dask_servers

pytestmark = [pytest.mark.integration, pytest.mark.long]


def read_commands() -> list[list[str]]:
    """The words of the `dask` commands in the page, those of one machine first."""
    lines = re.findall(r"^(dask .*?)&", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def find_listening(servers: DaskServers) -> set[str]:
    """The addresses on which the scheduler, the workers and their children listen."""
    roots = [psutil.Process(process.pid) for process in (servers.scheduler, *servers.workers)]
    processes = [*roots, *(child for root in roots for child in root.children(recursive=True))]
    found = (place for process in processes for place in process.net_connections("inet"))
    return {place.laddr.ip for place in found if place.status == psutil.CONN_LISTEN}


def test_it_listens_on_loopback_alone(tmp_path: Path) -> None:
    (_, _, *scheduler), (_, _, _, *worker) = read_commands()[:2]
    place, port = scheduler.index("--port"), scheduler.index("--dashboard-address")
    options = [word for at, word in enumerate(scheduler) if at not in (place, place + 1)]
    assert options == ["--host", "127.0.0.1", "--dashboard-address", scheduler[port + 1]]
    with run_dask_servers(tmp_path, [*options[:-1], "127.0.0.1:0"], worker) as servers:
        servers.start_worker()
        assert find_listening(servers) == {"127.0.0.1"}
