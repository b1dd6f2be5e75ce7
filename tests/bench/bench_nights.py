"""Forty-eight nights in a hurry: a model retrains and scores on real servers, and every third night something breaks.

    python tests/bench/bench_nights.py --nights 48 --tick 45

PostgreSQL under Prefect, MLflow's server, an S3 server for the workspace, a Dask scheduler with two workers, and two
workers of one pool; deployments as `safelight deploy` makes them, with schedules of seconds. One line for each night,
and as soon as the last is over the verdict: each night ended, or somebody was told within two ticks; every ledger adds
up; memory and disk stay bounded. Then, for seven minutes at most, what still works must end, which has a verdict of its
own. Exit code 1 where one of them does not hold.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "support")]

from night_run import NightPlan, run_nights  # noqa: E402


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=48)
    parser.add_argument("--tick", type=int, default=45, help="seconds from night to night")
    parser.add_argument("--pause", type=int, default=3, help="nights from one accident to the next")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    with tempfile.TemporaryDirectory(prefix="safelight-nights-") as folder:
        os.environ["SAFELIGHT_HOME"] = str(Path(folder, "home"))
        os.environ.setdefault("HOME", folder)
        faults = run_nights(NightPlan(Path(folder), given.nights, given.tick, given.pause))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
