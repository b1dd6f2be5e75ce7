"""Everything that is promised about speed, memory and fidelity, measured beside its reference in the same run.

    python tests/bench/bench.py [--quick | --full] [--only GROUP] [--json FILE] [--markdown [FILE]]

About twenty minutes on two cores, four with --quick. Figures are medians of rounds in which a thing and its reference
take turns; read the ratios, since the rest is the machine's. Status 1: a group failed; a missed target is no failure.
"""

import argparse
import importlib
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from bench_table import Figure, not_measured, print_table, to_json, to_markdown, write_text
from rich.console import Console
from workbench import Workbench, describe_machine

MODULES = {
    "throughput": "bench_throughput",
    "peers": "bench_peers",
    "fidelity": "bench_fidelity",
    "incremental": "bench_incremental",
    "memory": "bench_memory",
    "scaling": "bench_scaling",
    "s3": "bench_s3",
    "copies": "bench_copies",
    "looks": "bench_looks",
    "heads": "bench_heads",
    "features": "bench_features",
    "scoring": "bench_scoring",
    "start": "start_figures",
    "loader": "bench_loader",
}


def main() -> int:
    """Measure the groups asked for and print the table."""
    given = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped and files removed
    groups: dict[str, list[Figure]] = {}
    failed = False
    if given.scratch is not None:
        given.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="bench-") as scratch:
        os.environ["SAFELIGHT_HOME"] = f"{scratch}/home"
        bench = Workbench(Path(scratch), given.peers, given.photos, given.quick, given.full)
        for group in given.only or MODULES:
            began = time.monotonic()
            print(group, file=sys.stderr, flush=True)
            try:
                groups[group] = importlib.import_module(MODULES[group]).measure(bench)
            except Exception as error:  # what other groups have measured in minutes is not lost
                failed = True
                traceback.print_exc()
                groups[group] = [not_measured(group, f"failed: {type(error).__name__}: {' '.join(str(error).split())}")]
            print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    report(given, groups)
    return 1 if failed else 0


def report(given: argparse.Namespace, groups: dict[str, list[Figure]]) -> None:
    """Print the table, and write the files asked for."""
    machine = describe_machine()
    console = Console(width=None if sys.stdout.isatty() else 160)
    print_table(console, machine, groups)
    write_text(given.json, to_json(machine, groups))
    if given.markdown == Path("-"):
        print(to_markdown(machine, groups), end="")
    elif given.markdown:
        write_text(given.markdown, to_markdown(machine, groups))


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="smaller folders, in about four minutes")
    size.add_argument("--full", action="store_true", help="up to a million files")
    parser.add_argument("--only", action="append", choices=MODULES, help="one group; may be repeated")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="FILE")
    parser.add_argument(
        "--markdown", type=Path, nargs="?", const=Path("-"), metavar="FILE", help="the table for a page"
    )
    parser.add_argument("--photos", type=Path, metavar="DIR", help="take these JPEG files, copied up to the number")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safelight-bench"
    parser.add_argument("--peers", type=Path, default=cache, metavar="DIR", help=f"their environments ({cache})")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where files are made and removed again")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
