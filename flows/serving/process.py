"""The process of one run that `safelight serve` starts: Prefect's engine, and the flow's answer or its fault in a file.

    python -P -m flows.serving.process FLOW FILE     (which run it is, Prefect's engine learns from the environment)

The file holds one JSON object: the flow's answer, or {"error": ...} as the command line would tell it. A run that is
cancelled or killed leaves none.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any


def run_engine() -> None:
    """Run Prefect's engine as if it had been started itself, with two hooks on the flow that it will load."""
    name, path = sys.argv[1:]
    sys.argv[1:] = []
    add_hooks(load_flow(name), Path(path))
    runpy.run_module("prefect.engine", run_name="__main__")


def load_flow(name: str) -> Any:
    """The flow of this name, the same object that its deployment's entrypoint leads to."""
    if name == "retrain":
        from flows.retrain import retrain

        return retrain
    if name == "gc":
        from flows.upkeep.gc import gc

        return gc
    from flows.score import score

    return score


def add_hooks(flow: Any, path: Path) -> None:
    """Have the flow's answer, or its fault, written when it ends."""

    def keep_answer(flow: Any, run: Any, state: Any) -> None:
        write_answer(path, complete_answer(flow.name, run.parameters, state.result()))

    def keep_fault(flow: Any, run: Any, state: Any) -> None:
        write_answer(path, {"error": describe_fault(state.result(raise_on_failure=False), str(run.id))})

    flow.on_completion(keep_answer)
    flow.on_failure(keep_fault)


def complete_answer(flow: str, parameters: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, for `score` with how many images of each decision there are, as the batch's record says."""
    if flow != "score":
        return answer
    from infra.storage.layout import batch_path
    from infra.storage.store import open_store
    from tasks.score.batch import BatchRecord

    stored = open_store(parameters["workspace"]).read(batch_path(answer["batch"], "batch.json"))
    return answer | {"decisions": BatchRecord.model_validate_json(stored).decisions}


def describe_fault(fault: object, run: str) -> str:
    """A known fault in its own words; of any other its kind too, and where the rest of it is to be read."""
    from cnn.errors import SafelightError
    from cnn.text import shorten

    if isinstance(fault, SafelightError):
        return shorten(fault, None)
    if isinstance(fault, OSError) and fault.strerror:
        return f"{fault.filename}: {fault.strerror}" if fault.filename else fault.strerror
    return f"{type(fault).__name__}: {shorten(fault, 300)}; `prefect flow-run logs {run}` tells where"


def write_answer(path: Path, answer: dict[str, Any]) -> None:
    """Write the file at once or not at all."""
    from cnn.files import replace_file

    with replace_file(path) as file:
        file.write(json.dumps(answer).encode())


def read_answer(path: Path) -> dict[str, Any] | None:
    """What a run wrote when it ended; None when it did not come so far."""
    try:
        answer = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def start_command(flow: str, path: Path) -> list[str]:
    """The command line of a run's process; nothing in the working folder can take the place of a module."""
    return [sys.executable, "-P", "-m", "flows.serving.process", flow, str(path)]


if __name__ == "__main__":
    run_engine()
