"""Start the process of one due run, log what it prints, and log in one line what it came to."""

import asyncio
import shlex
import signal
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException
from prefect.runner._starter_engine import EngineCommandStarter

from flows.runs.lost_runs import HEARTBEAT_SECONDS
from flows.serving.due_runs import due_time
from flows.serving.log import RunOutput
from flows.serving.process import read_answer, start_command
from flows.serving.summary import describe_answer

if TYPE_CHECKING:
    from flows.serving.runner import ServingRunner

FAULTS = (httpx.HTTPError, PrefectException, OSError)  # of a server that does not answer


@dataclass
class StartedRun:
    """A run whose process has been started."""

    name: str
    began: datetime
    process: Any = None


class RunStarter:
    """Starts the process of one run, and logs what it prints and what it came to."""

    def __init__(self, runner: "ServingRunner", run: FlowRun) -> None:
        self.runner, self.run = runner, run
        self.flow, self.name = runner.titles[run.deployment_id]  # type: ignore[index]
        self.path = Path(runner._tmp_dir) / f"{run.id}.json"

    async def start(self, flow_run: FlowRun, task_status: Any = None) -> None:
        """Run the process to its end; see Prefect's ProcessStarter."""
        runner, log = self.runner, self.runner.log
        if flow_run.auto_scheduled:
            runner.watch.note_begin(self.name, due_time(flow_run))
        running = runner.running[flow_run.id] = StartedRun(self.name, log.now())
        runner._begun[flow_run.deployment_id] = running.began
        sinks = RunOutput(log, self.name), RunOutput(log, self.name)
        starter = EngineCommandStarter(
            tmp_dir=runner._tmp_dir,
            command=shlex.join(start_command(self.flow, self.path)),
            stream_output=sinks,  # type: ignore[arg-type]
            deployment_name=self.name,
            control_channel=runner._control_channel,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            isolate_process_group=True,  # Ctrl-C is for this process, which ends the run: at any moment without a word
        )
        try:
            status: Any = _Status(task_status, running)
            await starter.start(flow_run, task_status=status)
            for sink in sinks:
                sink.close()
            if runner.is_ending and read_answer(self.path) is None:
                return  # it was ended with serve: `_give_up_runs` logs it
            said = await self._describe_end(running)
            log.write_line(f"{self.name}: {said}")
            runner.log_next()
            await runner.notifier.tell_end(self.flow, self.name.partition(" ")[2], read_answer(self.path), said)
        except asyncio.CancelledError:
            raise  # serve ends: `_give_up_runs` comes after this when the process is just being started
        except BaseException:
            if not runner.is_ending:  # else it may be the end of a process that has just been started
                del runner.running[flow_run.id]
            raise
        del runner.running[flow_run.id]

    async def _describe_end(self, running: StartedRun) -> str:
        if (answer := read_answer(self.path)) is not None:
            return describe_answer(self.flow, answer)
        state = None
        with suppress(*FAULTS):
            state = (await self.runner._client.read_flow_run(self.run.id)).state
        if state is not None and state.type in (StateType.CANCELLED, StateType.CANCELLING):
            return "cancelled in Prefect; what was finished is kept, the next run goes on from there"
        if state is not None and state.type is StateType.SCHEDULED:
            return f"put off by Prefect ({state.name}): {state.message or 'it is tried again'}"
        number = running.process.returncode if running.process is not None else None
        return f"failed: its process ended {describe_exit(number)}; `prefect flow-run logs {self.run.id}` tells more"


class _Status:
    """Hands the process of a run on to Prefect, and remembers it."""

    def __init__(self, status: Any, running: StartedRun) -> None:
        self._status, self._running = status, running

    def started(self, process: Any) -> None:
        self._running.process = process
        self._status.started(process)


def describe_exit(number: int | None) -> str:
    """How a process ended, from its return code."""
    if number is None or number >= 0:
        return "without an answer" if not number else f"with exit code {number}"
    with suppress(ValueError):
        return f"by {signal.Signals(-number).name}"
    return f"by signal {-number}"
