"""A folder in, the address of a real PostgreSQL server on loopback out, which ends with the block."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s3server import choose_ports

PLACES = "/usr/lib/postgresql/*/bin"  # where Debian puts what is on nobody's PATH
PASSWORD = "canary-testing-5e02"
START_SECONDS = 60.0


def find_program(name: str) -> str | None:
    """The path of a program of PostgreSQL, the newest one there is; None without any."""
    found = sorted(Path("/").glob(f"{PLACES[1:]}/{name}"), key=lambda path: float(path.parts[4]))
    return str(found[-1]) if found else shutil.which(name)


def find_obstacle() -> str | None:
    """Why the server cannot run here, with the way out; None when it can."""
    if missing := [name for name in ("initdb", "postgres") if find_program(name) is None]:
        return f"no {missing[0]}; `apt-get install -y postgresql`"
    return None


class PostgresServer:
    """A fresh, empty server in a folder; it can be stopped for a while, and holds what it held."""

    def __init__(self, folder: Path) -> None:
        [self.port] = choose_ports(1)
        self.folder, self._options = folder, run_as_other(folder)
        self.address = f"safelight:{PASSWORD}@127.0.0.1:{self.port}/postgres"  # USER:PASSWORD@HOST:PORT/DATABASE
        self._process: subprocess.Popen[bytes] | None = None
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        make = [str(find_program("initdb")), "-D", str(folder / "data"), "-U", "safelight", "--auth=scram-sha-256"]
        command = [*make, "--no-sync", f"--pwfile={password}"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **self._options)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        place = ["-D", str(self.folder / "data"), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        command = [str(find_program("postgres")), *place, "-c", "unix_socket_directories=", "-F"]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._options)
        wait_for_server(self._process, self.folder / "log")

    def stop(self) -> None:
        """End it, and the connections that are open."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None


@contextmanager
def run_postgres() -> Iterator[str]:
    """`USER:PASSWORD@HOST:PORT/DATABASE` of a fresh, empty server. As root, who may not run it, another user does."""
    with serve_postgres() as server:
        yield server.address


@contextmanager
def serve_postgres() -> Iterator[PostgresServer]:
    """A fresh, empty server that answers, for the length of the block."""
    folder = Path(tempfile.mkdtemp(prefix="safelight-postgres-"))
    try:
        server = PostgresServer(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_as_other(folder: Path) -> dict[str, Any]:
    """What has a process run as another user, to whom the folder is given, where this one is root."""
    if os.geteuid() != 0:
        return {}
    users = [entry for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")]
    user = max(users, key=lambda entry: entry.pw_name)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def wait_for_server(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the server takes connections."""
    until = time.monotonic() + START_SECONDS
    while b"ready to accept connections" not in log.read_bytes():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
