"""Time and peak memory of `prepare` from a thousand listed files up, of the flow process and of its largest worker; and
peak memory of `score` over a listing of a million files that nobody decodes."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
from bench_table import Figure, not_measured
from subject import Home, command_line, empty, open_home, parse_answer
from tiny_files import make_specks
from workbench import Workbench, tell

SETTINGS = ("image.size=[8,8]",)
FLOW_LIMIT, WORKER_LIMIT = "< 1024", "< 600"
POLL_SECONDS = 0.05
LISTED_BATCH = Path(__file__).with_name("listed_batch.py")


@dataclass(frozen=True)
class Peak:
    """Seconds that the command reported, and the largest resident sizes in MiB."""

    files: int
    seconds: float
    flow: float
    worker: float


def measure(bench: Workbench) -> list[Figure]:
    """Rows for each number of files, ten times the one before."""
    if not Path("/proc/self/status").exists():
        return [not_measured("peak memory", "needs /proc of Linux")]
    counts = [1_000, 10_000] + [100_000] * (not bench.quick) + [1_000_000] * bench.full
    peaks: list[Peak] = []
    with bench.fresh("memory") as scratch, open_home(Path(scratch, "home")) as home:
        source, made = Path(scratch, "source"), 0
        for count in counts:
            tell(f"{count:,} files")
            make_specks(source, range(made, count), bench.processes)
            made = count
            peaks.append(watch_prepare(home, source, Path(scratch, "workspace"), count))
            empty(Path(scratch, "workspace"))
        return [*tabulate(peaks), *watch_batches(Path(scratch, "batches"), 100_000 if bench.quick else 1_000_000)]


def tabulate(peaks: list[Peak]) -> list[Figure]:
    """Time per file beside that of a tenth of the files; memory beside that of the smallest run."""
    figures = []
    for before, peak in pairwise(peaks):
        name, each = f"time per file, {peak.files:,} files", peak.seconds / peak.files * 1000.0
        reference = before.seconds / before.files * 1000.0
        note = f"{peak.seconds:.1f} s"
        figures.append(Figure(name, each, "ms", f"at {before.files:,} files", reference, "<= 1.2", note=note))
    for who, limit in (("flow", FLOW_LIMIT), ("worker", WORKER_LIMIT)):
        for peak in peaks:
            name, value, least = f"peak memory of the {who}, {peak.files:,} files", *sizes(who, peak, peaks[0])
            figures.append(Figure(name, value, "MiB", f"at {peaks[0].files:,} files", least, limit, "value"))
    return figures


def sizes(who: str, peak: Peak, first: Peak) -> tuple[float, float]:
    """(MiB of this run, MiB of the smallest one)."""
    return (peak.flow, first.flow) if who == "flow" else (peak.worker, first.worker)


def watch_prepare(home: Home, source: Path, workspace: Path, count: int) -> Peak:
    """Run the command and look at its processes twenty times a second; the kernel keeps each one's peak (VmHWM)."""
    peaks: dict[int, float] = {}
    command = command_line(str(source), workspace, SETTINGS)
    with (
        (workspace.parent / "answer").open("w+") as output,
        (workspace.parent / "errors").open("w+") as errors,
        subprocess.Popen(command, env=home.environment, stdout=output, stderr=errors) as process,
    ):
        while process.poll() is None:
            for pid in (process.pid, *children_of(process.pid)):
                peaks[pid] = max(peaks.get(pid, 0.0), peak_of(pid))
            time.sleep(POLL_SECONDS)
        output.seek(0)
        errors.seek(0)
        answer = parse_answer(process.returncode, output.read(), errors.read())
    flow = peaks.pop(process.pid)
    return Peak(count, answer["seconds"], flow, max(peaks.values(), default=0.0))


def watch_batches(workspace: Path, files: int) -> list[Figure]:
    """The peak of a first batch of so many files, and of the next one, in which 500 of them are new."""
    figures = []
    for name, changed in (("a first batch", 0), ("a batch with 500 new files", 500)):
        tell(f"score of {files:,} listed files: {name}")
        command = [sys.executable, str(LISTED_BATCH), str(files), str(changed), str(workspace)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks = json.loads(done.stdout)["peaks"]
        what = f"peak memory of score, {files:,} files listed, {name}"
        figures.append(Figure(what, peaks["publish"], "MiB", "at its start", peaks["start"], FLOW_LIMIT, "value"))
    return figures


def children_of(pid: int) -> list[int]:
    """Process ids below a process that lives, or has ended just now."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def peak_of(pid: int) -> float:
    """MiB that a process has held at most; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024.0 for line in lines if line.startswith("VmHWM:")), default=0.0)
