"""The training process: a child of its own for each training, because TensorFlow takes seconds and 400 MB.

The child gets jobs as lines on stdin: backbones to export, then one training or one trial of a search. It answers each
with JSON lines on a pipe of its own: what it does at the moment, the figures of each evaluation, servers that do not
answer, then one line with the result or the error. What TensorFlow prints goes to `train.log` in the job's folder. The
child ends when its stdin does, so it never outlives the parent; it ignores Ctrl-C, because the parent decides.
"""

import ctypes
import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import cnn.errors
from cnn.digest import canonical_json
from cnn.errors import InstallationError, SafelightError, TrainingError
from cnn.text import shorten
from infra.machine.import_path import python_command, python_environment
from infra.machine.memory_limits import GIB, check_memory_limits, is_short_of_memory, kill_when_starved, mentions_memory
from infra.machine.outages import announce_outages, log_outage
from tasks.features.backbone import export_to_workspace
from tasks.features.spec import BackboneRecord, ExportJob
from tasks.train.spec import OnEvaluation, OnProgress, TrainingResult, TrainJob, TrialResult

TRAINING_PACKAGES = ("keras", "matplotlib", "onnx", "pandas")  # what both extras, `cpu` and `gpu`, bring
LOG = "train.log"
TRAIN, TRIAL, EXPORT = "train", "trial", "export"  # kinds of jobs
STOP_SECONDS = 10.0
PROGRESS_SECONDS = 0.2  # between two messages on steps
LEAST_MEMORY = 3 * GIB  # of address space, to load TensorFlow
MOST_READ = 8192  # bytes at the end of a log
BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # ends that somebody else gave it
BY_MEMORY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)  # ends that a want of it may have, unsaid
SHORT = "MemoryError"  # how the child names a want of memory, whatever the class of the error
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def check_training_packages() -> None:
    """Nothing, where the packages that only training needs are installed.

    Raises:
        InstallationError: Safelight was installed for preparing and scoring alone.
    """
    if missing := [name for name in TRAINING_PACKAGES if find_spec(name) is None]:
        raise InstallationError(
            f"training needs {', '.join(missing)}, and this installation is for preparing and scoring: install "
            "'safelight[cpu]' in place of 'safelight' ('safelight[gpu]' on a machine with an NVIDIA GPU)"
        )


@dataclass(frozen=True)
class _Listener:
    """Who hears of a training while it runs; an export has nothing to say."""

    on_evaluation: OnEvaluation = lambda figures: None
    on_progress: OnProgress = lambda phase, step, steps: None


class TrainingProcess:
    """The parent's end of a training process, which loads TensorFlow at once and waits for its jobs. Use it in a
    `with`, or `stop` it."""

    def __init__(self) -> None:
        check_training_packages()
        check_memory_limits(LEAST_MEMORY)
        self._ready = False
        self._early: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process; see stop)
        reading, writing = os.pipe()
        on_main_thread = threading.current_thread() is threading.main_thread()
        facts = (str(writing), str(int(on_main_thread)), str(os.getpid()))
        try:
            self._process = subprocess.Popen(
                python_command("tasks.train.process", *facts),
                stdin=subprocess.PIPE,
                stdout=self._early,
                stderr=self._early,
                pass_fds=(writing,),
                process_group=0,  # Ctrl-C at the terminal reaches the parent alone
                env=python_environment(),
            )
        finally:
            os.close(writing)
        self._events = os.fdopen(reading, encoding="utf-8")

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(
        self, job: TrainJob, on_evaluation: OnEvaluation, on_progress: OnProgress = lambda phase, step, steps: None
    ) -> TrainingResult:
        """Train, the last that this process does; `on_evaluation` gets the figures of each evaluation, `on_progress`
        the step that training has reached.

        Raises:
            SafelightError: the fault that training met, as the same class.
            TrainingError: the process died; the line names the signal and the log.
        """
        answer = self._train(TRAIN, job, _Listener(on_evaluation, on_progress))
        return TrainingResult.model_validate_json(json.dumps(answer))

    def measure(self, job: TrainJob, on_evaluation: OnEvaluation, on_progress: OnProgress) -> TrialResult:
        """Train and ask the validation images alone, the last that this process does; what either callback raises ends
        it, with the checkpoints kept. Raises: as `run`."""
        answer = self._train(TRIAL, job, _Listener(on_evaluation, on_progress))
        return TrialResult.model_validate_json(json.dumps(answer))

    def _train(self, kind: str, job: TrainJob, listener: _Listener) -> Any:
        if not self._ready:
            listener.on_progress("loading TensorFlow", 0, job.plan.steps)
        return self._ask({kind: job.model_dump(mode="json")}, Path(job.folder), job.plan.batch_size, listener)

    def export(self, job: ExportJob) -> BackboneRecord:
        """Write a backbone into the workspace as ONNX. Raises: as `run`."""
        answer = self._ask({EXPORT: job.model_dump(mode="json")}, Path(job.folder), 1, _Listener())
        return BackboneRecord.model_validate_json(json.dumps(answer))

    def _ask(self, job: dict[str, Any], folder: Path, batch: int, listener: _Listener) -> Any:
        """The answer to a job, whose log lies in a folder and which looks at so many images at a time."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / LOG
        with suppress(BrokenPipeError):  # a process that died already is described below
            if self._process.stdin is not None:
                self._process.stdin.write(canonical_json(job).encode() + b"\n")
                self._process.stdin.flush()
        with kill_when_starved(self._process) as starved:
            if (result := self._follow(log, batch, listener)) is not None:
                return result
        raise _out_of_memory(log, batch) if starved.is_set() else self._describe_death(log, batch)

    def _follow(self, log: Path, batch: int, listener: _Listener) -> Any | None:
        """The answer of the process; None when it has ended without one."""
        for line in self._events:
            message = _read_line(line)
            if "ready" in message:
                self._ready = True
            elif "progress" in message:
                listener.on_progress(*message["progress"])
            elif "evaluation" in message:
                listener.on_evaluation(message["evaluation"])
            elif "outage" in message:
                log_outage(message["outage"])
            elif "result" in message:
                return message["result"]
            elif "error" in message:
                raise _rebuild_error(message["error"], log, batch)
        return None

    def stop(self) -> None:
        """End the process, by force after ten seconds. Stopping it again is no fault."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._events.close()
            self._early.close()

    def _describe_death(self, log: Path, batch: int) -> SafelightError:
        code = self._process.wait()
        self._early.seek(0)
        if early := self._early.read():
            with log.open("ab") as file:
                file.write(early)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        last_words = _read_end(log)
        if -code not in BY_OTHERS and mentions_memory(last_words):
            return _out_of_memory(log, batch)
        if not self._ready and -code not in BY_OTHERS:
            last = shorten((last_words.strip().splitlines() or [""])[-1])
            end = f"code {code}" if code >= 0 else name
            return InstallationError(f"the training process does not start ({end}: {last}); see {log}")
        if code >= 0:
            return TrainingError(f"the training process ended with code {code} and no result; see {log}")
        memory = f" (out of memory? if so, {_smaller(batch)})" if -code in BY_MEMORY else ""
        return TrainingError(
            f"training was ended by {name}{memory}, see {log}; the same command goes on from its last evaluation"
        )


def _read_end(log: Path) -> str:
    """The last lines of a log; nothing where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - MOST_READ))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _smaller(batch: int) -> str:
    """What to write to need less."""
    return f"--set fit.batch_size={batch // 2} in place of {batch}" if batch > 1 else "lower image.size"


def _out_of_memory(log: Path, batch: int) -> TrainingError:
    return TrainingError(
        f"training ran out of memory: lower fit.batch_size, {_smaller(batch)}, or give it more; see {log}"
    )


def _read_line(line: str) -> dict[str, Any]:
    """One message; a line that was cut short by the end of the process is none."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _rebuild_error(error: dict[str, str], log: Path, batch: int) -> SafelightError:
    if error["class"] == SHORT:
        return _out_of_memory(log, batch)
    kind = getattr(cnn.errors, error["class"], None)
    if isinstance(kind, type) and issubclass(kind, SafelightError):
        return kind(error["message"])
    return TrainingError(f"training failed ({error['class']}: {error['message']}); see {log}")


def run_child(events: int, watch_parent: bool, parent: int) -> int:
    """The child: wait for a job, train, answer. 0 when an answer was given."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if watch_parent:
        _die_with(parent)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_watch_stdin, args=(jobs,), daemon=True).start()
    with os.fdopen(events, "w", encoding="utf-8", buffering=1) as pipe:
        lock = threading.Lock()

        def send(message: dict[str, Any]) -> None:
            with lock:  # outages are told by whatever thread meets them
                pipe.write(json.dumps(message) + "\n")
                pipe.flush()

        failure = _catch(_load_keras, "TensorFlow cannot be loaded")
        if not failure:
            send({"ready": True})
        kind = EXPORT
        while kind == EXPORT:  # a training is the last job
            kind, given = json.loads(jobs.get()).popitem()
            _redirect_output(Path(given["folder"], LOG))
            if found := failure or _catch(partial(_answer, kind, given, send)):
                send({"error": found})
    return 0


def _answer(kind: str, given: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
    """Do a job, and send what came of it."""
    text = json.dumps(given)
    result: TrainingResult | TrialResult | BackboneRecord
    with announce_outages(lambda line: send({"outage": line})):
        if kind == EXPORT:
            result = export_to_workspace(ExportJob.model_validate_json(text))
        else:
            result = _train(kind, TrainJob.model_validate_json(text), send)
    send({"result": result.model_dump(mode="json")})


def _load_keras() -> None:
    from cnn.backend import import_keras

    import_keras()


def _train(kind: str, job: TrainJob, send: Callable[[dict[str, Any]], None]) -> TrainingResult | TrialResult:
    from tasks.train.train import train_dataset
    from tasks.train.trial import fit_trial

    told_at, told = -math.inf, ""

    def send_progress(phase: str, step: int, steps: int) -> None:
        nonlocal told_at, told
        now = time.monotonic()
        if phase != told or step == steps or now - told_at > PROGRESS_SECONDS:
            told_at, told = now, phase
            send({"progress": [phase, step, steps]})

    work = train_dataset if kind == TRAIN else fit_trial
    return work(job, lambda figures: send({"evaluation": figures}), send_progress)


def _catch(work: Callable[[], None], loading: str = "") -> dict[str, str] | None:
    """The error that the work met, as a message for the parent; its traceback goes to the log.

    `loading` says what a fault other than those that are known means, where it is one of the installation.
    """
    try:
        work()
    except SafelightError as error:
        return {"class": type(error).__name__, "message": str(error)}
    except Exception as error:  # whatever Keras raises: the log keeps the traceback, the parent gets one line
        traceback.print_exc()
        kind, message = type(error).__name__, shorten(error, 300)
        if is_short_of_memory(error):
            return {"class": SHORT, "message": message}
        if loading:
            return {"class": InstallationError.__name__, "message": f"{loading} ({kind}: {message}); reinstall it"}
        return {"class": kind, "message": message}
    return None


def _watch_stdin(jobs: "queue.SimpleQueue[str]") -> None:
    """Pass the job on; end the process when the parent is gone or has enough."""
    for line in sys.stdin:
        jobs.put(line)
    os._exit(1)


def _die_with(parent: int) -> None:
    """Ask Linux to end this process with its parent, even while C code holds the interpreter.

    Linux sends the signal when the *thread* that started us ends, so this is only for children of a main thread.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before we asked
            os._exit(1)


def _redirect_output(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


if __name__ == "__main__":
    sys.exit(run_child(int(sys.argv[1]), sys.argv[2] == "1", int(sys.argv[3])))
