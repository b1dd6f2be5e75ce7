"""The commands of docs/deploy.md for Dask over TLS, as they stand there, and what `safelight doctor` finds of it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed  # noqa: F401 - its defaults come before what is set here
import pytest
from dask_servers import ROOT, SCHEDULER, run_dask_servers
from s3server import choose_ports

from flows.upkeep.exposure import OpenPort, find_exposed, list_open_ports, refuses_strangers
from infra.cluster.dask import open_cluster, run_chunks
from infra.cluster.spec import ClusterSpec

pytestmark = [pytest.mark.integration, pytest.mark.long]


def read_commands(port: int) -> str:
    """The block of docs/deploy.md that makes certificates and starts scheduler and workers, without Safelight's own."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    [block] = [block for block in blocks if "openssl req" in block and "dask scheduler" in block]
    lines = [line for line in block.splitlines() if not line.startswith("safelight")]
    return "\n".join(lines).replace("8786", str(port)).replace("8787", "0").replace("HOST", "127.0.0.1")


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The folder of the certificates and the port of a scheduler with two workers, as documented."""
    folder, [port] = tmp_path_factory.mktemp("tls"), choose_ports(1)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            ["bash", "-euc", f"{read_commands(port)}\necho started\nwait"],
            cwd=folder,
            env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            text=True,
        ) as shell,
    ):
        assert shell.stdout is not None
        try:
            assert "started\n" in iter(shell.stdout.readline, "")
            yield folder, port
        finally:
            os.killpg(shell.pid, signal.SIGKILL)


def find_own(group: int) -> list[OpenPort]:
    return [port for port in list_open_ports() if os.getpgid(port.pid) == group]


def test_the_documented_commands_work_and_expose_nothing(documented: tuple[Path, int]) -> None:
    folder, port = documented
    settings = {"ca-file": "dask.pem", "client.cert": "dask.pem", "client.key": "dask.key"}
    results: list[str] = []
    with (
        dask.config.set({f"distributed.comm.tls.{name}": str(folder / file) for name, file in settings.items()}),
        open_cluster(ClusterSpec(address=f"tls://127.0.0.1:{port}")) as cluster,
    ):
        assert cluster.client is not None
        cluster.client.wait_for_workers(2, timeout=60)
        run_chunks(cluster, str, range(4), results.append)
        [group] = {os.getpgid(each.pid) for each in list_open_ports() if each.port == port}
        ports = find_own(group)
        assert {each.address for each in ports} >= {"0.0.0.0", "127.0.0.1"}  # noqa: S104 - other machines are to reach it
        assert [*find_exposed(iter(ports))] == []
    assert sorted(results) == ["0", "1", "2", "3"]


def test_a_worker_that_was_started_without_a_host_is_exposed(tmp_path: Path) -> None:
    worker = ["--nworkers", "1", "--nthreads", "1", "--dashboard-address", "127.0.0.1:0"]
    with run_dask_servers(tmp_path, SCHEDULER, worker) as servers:
        servers.start_worker()
        exposed = [*find_exposed(iter(find_own(servers.workers[0].pid)))]
        assert len(exposed) == 1
        assert "runs any code that whoever reaches it sends" in exposed[0].what
        assert [*find_exposed(iter(find_own(servers.scheduler.pid)))] == []
        scheduler = int(servers.address.rpartition(":")[2])
        assert not refuses_strangers(OpenPort("127.0.0.1", scheduler, "dask", 7))
