"""`prepare` against img2dataset and webdataset on the same photographs in the same run, each in its environment."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_table import Figure, not_measured
from bench_throughput import SIZE, preparation
from subject import open_processes
from workbench import Workbench, list_files, tell

SCRIPTS = Path(__file__).with_name("peers")
PEER_SECONDS = 900


class PeerError(Exception):
    """A peer cannot be installed, or ended with an error; one line."""


@dataclass
class Peer:
    """A program to compare with: its script and requirements below peers/, more arguments, and the target."""

    name: str
    program: str
    arguments: tuple[str, ...]
    target: str
    output: str
    tuned: str | None = None


def choose_peers(quick: bool) -> list[Peer]:
    """Who takes part; a quick run leaves out the trials of thread counts."""
    return [
        Peer("img2dataset", "img2dataset", (), ">= 4", "JPEG shards", "4" if quick else None),
        Peer("webdataset + Pillow", "webdataset", ("jpg",), ">= 2", "JPEG shards"),
        Peer("webdataset + Pillow", "webdataset", ("npy",), ">= 2", "raw shards"),
    ]


def measure(bench: Workbench) -> list[Figure]:
    """How many times the peers' images a second `prepare` makes."""
    rows: list[Figure] = []
    ready: list[tuple[Peer, Path]] = []
    for peer in choose_peers(bench.quick):
        try:
            ready.append((peer, install(peer.program, bench.peers)))
        except PeerError as error:
            rows.append(not_measured(f"prepare / {peer.name}, {peer.output}", f"not installed: {error}"))
    return compare(bench, ready) + rows if ready else rows


def compare(bench: Workbench, ready: list[tuple[Peer, Path]]) -> list[Figure]:
    """Everything in turns on one folder; the first round, which does not count, warms caches and tunes."""
    folder = bench.photographs
    paths = [str(Path(path).resolve()) for path in list_files(folder)]
    listing = bench.scratch / "list.txt"
    listing.write_text("".join(f"{path}\n" for path in paths))
    with open_processes(bench.processes) as cluster:
        seconds = preparation(bench, folder, cluster, 0)
        turns: dict[str, Callable[[], float]] = {"prepare": lambda: len(paths) / seconds()}
        for peer, python in ready:
            turns[f"{peer.name}, {peer.output}"] = rate_of(bench, peer, python, listing)
        tell("warming up and tuning")
        for run in turns.values():
            run()
        prepare, *others = bench.take_turns(turns).values()
    return [
        Figure("prepare", prepare, "images/s", describe(peer), rate, peer.target)
        for (peer, _), rate in zip(ready, others, strict=True)
    ]


def describe(peer: Peer) -> str:
    """A peer's name, kind of output and tuned setting."""
    tuned = f", {peer.tuned} threads" if peer.tuned else ""
    return f"{peer.name}, {peer.output}{tuned}"


def rate_of(bench: Workbench, peer: Peer, python: Path, listing: Path) -> Callable[[], float]:
    """A call that gives a peer's images a second; what it has tuned in the first call stays for the next ones."""

    def run() -> float:
        with bench.fresh("peer") as folder:
            fixed = [str(listing), f"{folder}/out", str(SIZE), str(bench.processes), *peer.arguments]
            command = [str(python), str(SCRIPTS / f"peer_{peer.program}.py"), *fixed]
            answer = ask(command + ([peer.tuned] if peer.tuned else []))
        peer.tuned = str(answer["tuned"]) if answer["tuned"] else None  # its first call chose it
        return float(answer["images_per_second"])

    return run


def ask(command: list[str]) -> dict[str, Any]:
    """The JSON line that a peer's script printed last. Raises: PeerError."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_SECONDS)
    if done.returncode != 0:
        raise PeerError((done.stderr.strip().splitlines() or ["no word"])[-1])
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def install(program: str, cache: Path) -> Path:
    """The interpreter of a peer's environment, made from its locked requirements unless it is there.

    Raises:
        PeerError: there is no environment, or pip cannot install in it.
    """
    requirements = SCRIPTS / f"{program}.lock"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache / f"{program}-{version}-{digest}"
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.exists():
        return python
    tell(f"installing {program} in {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(requirements)]
    for command in ([sys.executable, "-m", "venv", str(folder)], pip):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            raise PeerError(lines[-1])
    stamp.touch()
    return python
