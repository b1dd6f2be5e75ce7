"""A folder and lines of JSON on stdin in; for each, a fork that works until it kills itself; what it told, out.

The modules are imported once: a fork costs milliseconds where a fresh process costs a second. Run as a program.
"""

import json
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from batch_scenes import score_folder
from disk_waits import skip_disk_waits
from faults import SYSTEM_CALLS, Gate, gated_store, gated_system
from feature_steps import compute_latest
from scenes import Scene, Told, prepare_told


def main() -> None:
    """Work on one line after the other; the answer to each is one line, sent when its fork has ended."""
    skip_disk_waits()
    for line in sys.stdin:
        print(json.dumps(run_forked(json.loads(line))), flush=True)


def run_forked(case: dict[str, Any]) -> dict[str, Any]:
    """{"lines": what the fork told before it ended, "status": how it ended}."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            work_and_die(case, writing)
        except BaseException as error:  # nothing may come back into the loop of the parent
            os.write(writing, f"raised {type(error).__name__} {error}\n".encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    return {"lines": lines, "status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


def work_and_die(case: dict[str, Any], told: int) -> None:
    """Prepare, score or compute features; at the N-th call, or after some time, this process kills itself."""
    scene, workspace = Scene(Path(case["source"]), Path(case["workspace"])), Path(case["workspace"])
    tell: Callable[[str], Any] = lambda line: os.write(told, f"{line}\n".encode())  # noqa: E731
    with ExitStack() as stack:
        if case["at"] == "random":
            timer = threading.Timer(random.Random(case["seed"]).uniform(0, case["within"]), die, ("time",))
            timer.daemon = True
            timer.start()
        else:
            gate = Gate(case["number"], die, case["after"])
            calls = tuple(SYSTEM_CALLS)
            stack.enter_context(gated_store(gate) if case["at"] == "store" else gated_system(gate, workspace, calls))
        if case["work"] == "score":
            score_folder(scene.source, workspace)
        elif case["work"] == "features":
            compute_latest(workspace, lambda block: tell(f"block {block.path}"))
        else:
            prepare_told(scene, workspace, Told(), tell, case["copies"])


def die(name: str) -> None:
    """End this process at once, with nothing tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
