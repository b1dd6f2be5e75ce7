"""A folder in, a real S3 server on loopback out: OpenStack Swift behind its S3 API, one node, from Debian packages."""

import configparser
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("swift-proxy", "swift-account", "swift-container", "swift-object", "memcached")
COMMANDS = tuple(f"swift-{name}-server" for name in ("proxy", "account", "container", "object"))
SECRET = "canary-testing-7c1e"  # to be recognised wherever it must not be
START_SECONDS = 60.0
STOP_SECONDS = 10.0
PIPELINE = (
    "catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy slo dlo symlink"
    " versioned_writes proxy-server"
)
RINGS = """
import sys
from swift.common.ring import RingBuilder
for name, port in (argument.split("=") for argument in sys.argv[1:]):
    ring = RingBuilder(4, 1, 1)
    place = {"ip": "127.0.0.1", "replication_ip": "127.0.0.1", "port": int(port), "replication_port": int(port)}
    ring.add_dev(place | {"id": 0, "region": 1, "zone": 1, "device": "d1", "weight": 1.0, "meta": ""})
    ring.rebalance()
    ring.get_ring().save(name + ".ring.gz")
"""  # what nine calls of swift-ring-builder do, in one process
OPTIONS = {
    "cache": {"use": "egg:swift#memcache"},
    "tempauth": {"user_test_tester": f"{SECRET} .admin"},
    "versioned_writes": {"allow_object_versioning": "true"},
}


def find_obstacle(folder: Path) -> str | None:
    """Why the server cannot run here, with the way out; None when it can."""
    if missing := [name for name in (*COMMANDS, "memcached") if shutil.which(name) is None]:
        return f"no {missing[0]}; `apt-get install -y {' '.join(PACKAGES)}`"
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.metadata", b"1")
    except OSError as error:
        return f"{folder} takes no extended attributes ({error.strerror}); point TMPDIR to a file system that does"
    return None


@dataclass
class S3Server:
    """A server, by the environment that boto3 needs to reach it. Its proxy, which is what answers, can be taken away
    for a while."""

    folder: Path
    ports: dict[str, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return client_variables(self.ports["proxy"], "test:tester", SECRET)

    def start(self) -> None:
        cache = ["memcached", "-u", getpass.getuser(), "-l", "127.0.0.1", "-p", str(self.ports["memcached"])]
        self.processes["memcached"] = launch(self.folder, "memcached", cache)
        for name in ("account", "container", "object", "proxy"):
            self._launch(name)
        wait_for(list(self.ports.values()), list(self.processes.values()), self.folder)

    def kill_proxy(self) -> None:
        """From here on connections are refused."""
        process = self.processes.pop("proxy")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def start_proxy(self) -> None:
        """Everything is there as it was."""
        self._launch("proxy")
        wait_for([self.ports["proxy"]], [self.processes["proxy"]], self.folder)

    def _launch(self, name: str) -> None:
        command = [f"swift-{name}-server", str(self.folder / f"{name}-server.conf")]
        self.processes[name] = launch(self.folder, name, command)


@contextmanager
def serve_s3(folder: Path) -> Iterator[S3Server]:
    """A fresh, empty server, which ends with the block."""
    ports = dict(zip(("proxy", "account", "container", "object", "memcached"), choose_ports(5), strict=True))
    configure(folder, ports)
    server = S3Server(folder, ports)
    try:
        server.start()
        yield server
    finally:
        stop(list(server.processes.values()))


@contextmanager
def run_s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment that boto3 needs to reach a fresh, empty server, which ends with the block."""
    with serve_s3(folder) as server:
        yield server.environment


def client_variables(port: int, key: str, secret: str) -> dict[str, str]:
    """The environment in which boto3 reaches a server on loopback that knows none of AWS' checksums."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def upload(folder: Path, address: str) -> str:
    """The address, such as s3://bucket/photos, after the files of a folder were put there under their paths."""
    import boto3

    client = boto3.session.Session().client("s3")
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")
    return address


def choose_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that were free a moment ago."""
    attempts = [socket.socket() for _ in range(count)]
    try:
        for attempt in attempts:
            attempt.bind(("127.0.0.1", 0))
        return [int(attempt.getsockname()[1]) for attempt in attempts]
    finally:
        for attempt in attempts:
            attempt.close()


def configure(folder: Path, ports: dict[str, int]) -> None:
    """Write rings and configuration files: one device, one replica, nobody else's user."""
    (folder / "node" / "d1").mkdir(parents=True)
    hashes = {"swift_hash_path_suffix": "suffix", "swift_hash_path_prefix": "prefix"}
    write(folder / "swift.conf", {"swift-hash": hashes, "storage-policy:0": {"name": "default", "default": "yes"}})
    common = {"bind_ip": "127.0.0.1", "workers": "0", "user": getpass.getuser(), "swift_dir": str(folder)}
    for name in ("account", "container", "object"):
        place = {"bind_port": str(ports[name]), "devices": str(folder / "node"), "mount_check": "false"}
        server = {"use": f"egg:swift#{name}"}
        pipeline = {"pipeline": f"{name}-server"}
        sections = {"DEFAULT": common | place, "pipeline:main": pipeline, f"app:{name}-server": server}
        write(folder / f"{name}-server.conf", sections)
    sections = {
        "DEFAULT": common | {"bind_port": str(ports["proxy"])},
        "pipeline:main": {"pipeline": PIPELINE},
        "app:proxy-server": {"use": "egg:swift#proxy", "account_autocreate": "true"},
    }
    for name in PIPELINE.split()[:-1]:
        sections[f"filter:{name}"] = {"use": f"egg:swift#{name}"} | OPTIONS.get(name, {})
    sections["filter:cache"]["memcache_servers"] = f"127.0.0.1:{ports['memcached']}"
    write(folder / "proxy-server.conf", sections)
    rings = [f"{name}={ports[name]}" for name in ("account", "container", "object")]
    command = ["/usr/bin/python3", "-c", RINGS, *rings]  # the interpreter that Debian's packages are for
    subprocess.run(command, cwd=folder, env=environment(folder), check=True, capture_output=True)


def write(path: Path, sections: dict[str, dict[str, str]]) -> None:
    """Write an INI file."""
    parser = configparser.RawConfigParser(default_section="no such section")
    parser.read_dict(sections)
    with path.open("w") as file:
        parser.write(file)


def environment(folder: Path) -> dict[str, str]:
    """What Debian's own Python programs need: none of the virtual environment's variables."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}


def launch(folder: Path, name: str, command: list[str]) -> subprocess.Popen[bytes]:
    """Start a server in a process group of its own, its output in `name`.log."""
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=folder, env=environment(folder), stdout=log, stderr=log, start_new_session=True
        )


def wait_for(ports: list[int], processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Return when every port accepts connections; fail when a server has ended, or one is too slow."""
    until = time.monotonic() + START_SECONDS
    while ports:
        try:
            socket.create_connection(("127.0.0.1", ports[0]), timeout=2).close()
            ports = ports[1:]
        except OSError:
            ended = [process.args for process in processes if process.poll() is not None]
            if ended or time.monotonic() > until:
                logs = "".join(path.read_text(errors="replace")[-500:] for path in sorted(folder.glob("*.log")))
                raise RuntimeError(f"the S3 server did not start; ended: {ended}; logs: {logs}") from None
            time.sleep(0.05)


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """End the process groups, by force when asking was not enough."""
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
