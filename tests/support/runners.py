"""A scene and how it shall end in; what a preparation in a process of its own told before it ended, out."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scenes import SECRET, Scene, Told

HERE = Path(__file__).parent


class Runner:
    """A process that works on one case after the other, each in a fork; see killing.py."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def send(self, scene: Scene, workspace: Path, **case: Any) -> None:
        """Begin a case; without more facts it is never killed."""
        facts = {"at": "store", "number": 0, "after": False, "copies": 1, "work": "prepare"}
        facts |= {"source": str(scene.source), "workspace": str(workspace), **case}
        print(json.dumps(facts), file=self.process.stdin, flush=True)

    def receive(self) -> tuple[Told, bool]:
        """(what was told, whether it was killed) of the case that was sent, when it has ended."""
        lines, was_killed = self.receive_lines()
        words = [line.split() for line in lines]
        chunks = [rest[0] for kind, *rest in words if kind == "chunk"]
        return Told(chunks, [rest[0] for kind, *rest in words if kind == "version"]), was_killed

    def receive_lines(self) -> tuple[list[str], bool]:
        """The same with the lines as they were told."""
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline())
        assert answer["status"] in (0, -signal.SIGKILL), answer
        return answer["lines"], answer["status"] != 0

    def has_ended(self) -> bool:
        """Whether `receive` would not wait."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], 0)[0])


@contextmanager
def open_runner() -> Iterator[Runner]:
    """A runner for the length of the block; it must end well and have told no secret."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    environment = os.environ | {"PYTHONPATH": path, "AWS_SECRET_ACCESS_KEY": SECRET}
    command = [sys.executable, str(HERE / "killing.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Runner(process)
        _, errors = process.communicate()
        assert SECRET not in errors
        assert process.returncode == 0, errors
