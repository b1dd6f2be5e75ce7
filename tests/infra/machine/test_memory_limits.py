"""With too little memory a command either works or ends by itself, with one line that says what to write."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from small_dataset import write_dataset
from tiny_jobs import make_plan

import infra.machine.memory_limits
from cnn.errors import ConfigError, InstallationError, TrainingError
from cnn.models.architecture import ModelSpec
from flows.cli.console import run_command
from infra.machine.memory_limits import check_memory_limits, is_short_of_memory, kill_when_starved
from tasks.train import process as fitting
from tasks.train.process import LOG, TrainingProcess
from tasks.train.spec import TrainJob

SAFELIGHT = f"{sys.executable} -P -c 'from flows.cli.start import main; main()'"
NETWORK = {"preset": None, "layers": [{"kind": "conv", "filters": 64, "kernel": 3}, {"kind": "global_pool"}]}


@pytest.mark.parametrize("limit", ["-v 500000", "-v 1000000", "-v 1500000", "-d 1500000"])
@pytest.mark.parametrize("words", ["prepare {}", "score {} --name birds", "retrain {} --name birds"])
def test_a_command_with_too_little_memory_ends_by_itself(limit: str, words: str, tmp_path: Path) -> None:
    command = f"ulimit {limit}; exec {SAFELIGHT} {words.format(tmp_path)} --workspace {tmp_path}/work"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    kind = limit.split()[0]
    said = (
        rf"error: this process may have [0-9.]+ GiB .* \(ulimit {kind}\), .* run again after `ulimit {kind} [0-9]+`\n"
    )
    assert re.fullmatch(said, done.stderr)


def test_what_is_said_to_be_enough_is(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"given": 1 << 30}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits["given"], resource.RLIM_INFINITY))
    with pytest.raises(ConfigError) as caught:
        check_memory_limits()
    found = re.search(r"ulimit -v ([0-9]+)`", str(caught.value))
    assert found is not None
    limits["given"] = int(found[1]) << 10
    check_memory_limits()


def test_no_thread_is_started_for_linear_algebra() -> None:
    code = "import os; from infra.machine.memory_limits import limit_blas_threads; limit_blas_threads()\n"
    code += "import numpy; numpy.ones((9, 9))"
    code += "; print(len(os.listdir('/proc/self/task')), os.environ['OPENBLAS_NUM_THREADS'])"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "1 1\n"
    environment["OPENBLAS_NUM_THREADS"] = "2"  # what somebody has set stays
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split()[1] == "2"


def chain(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class ResourceExhaustedError(Exception):
    """As TensorFlow's: its class says it, whatever the words are."""


SHORT = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ImportError("libarrow.so: failed to map segment from shared object"),
    RuntimeError("can't start new thread"),
    ResourceExhaustedError("{{function_node}}"),
    chain(RuntimeError("flow failed"), MemoryError()),
]
OTHER = [ValueError("no memory of it"), OSError(errno.ENOENT, "gone"), ImportError("No module named 'birds'")]


@pytest.mark.parametrize("error", [*SHORT, *OTHER], ids=repr)
def test_errors_that_tell_of_memory_are_known(error: Exception) -> None:
    assert is_short_of_memory(error) == (error in SHORT)


@pytest.mark.parametrize("error", [SHORT[0], SHORT[2], SHORT[3]], ids=repr)
def test_a_command_that_runs_out_of_memory_says_so_in_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Any:
        raise error

    with pytest.raises(typer.Exit) as caught:
        run_command(fail, True, lambda answer: None)
    assert caught.value.exit_code == 1
    assert re.fullmatch(r"error: memory ran out \(.+\); give it more .*\n", capsys.readouterr().err)


def test_an_error_of_another_kind_is_not_taken_for_it() -> None:
    def fail() -> Any:
        raise ImportError("No module named 'birds'")

    with pytest.raises(ImportError, match="birds"):
        run_command(fail, True, lambda answer: None)


# Training


def make_job(folder: Path, size: int = 8) -> TrainJob:
    manifest = write_dataset(folder / "w", folder / "s")
    plan, model = make_plan(36, epochs=2, batch_size=size), ModelSpec.model_validate(NETWORK)
    place = {"workspace": str(folder / "w"), "folder": str(folder / "run")}
    return TrainJob(**place, dataset=manifest.dataset, model=model, plan=plan)


@pytest.mark.slow
def test_training_that_runs_out_of_memory_says_what_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In earnest: from its first evaluation on the process gets no more than it has; some libraries then say nothing,
    and some stand still."""
    monkeypatch.setattr(infra.machine.memory_limits, "STARVED_SECONDS", 10.0)

    def shrink(figures: dict[str, float]) -> None:
        if figures["step"] == 5:
            pages = int(Path(f"/proc/{trainer.pid}/statm").read_text().split()[0])
            size = pages * resource.getpagesize()
            resource.prlimit(trainer.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

    said = rf"out of memory.* --set fit\.batch_size=4 in place of 8.* see {tmp_path}/run/{LOG}"
    with TrainingProcess() as trainer, pytest.raises(TrainingError, match=said):
        trainer.run(make_job(tmp_path), shrink)


SLEEPER = """
import resource, sys
pages = int(open("/proc/self/statm").read().split()[0])
if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20), resource.RLIM_INFINITY))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("limit", "ended"), [("limited", True), ("free", False)])
def test_a_process_that_stands_still_at_its_limit_is_ended(limit: str, ended: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER, limit], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        with kill_when_starved(process, 0.5) as starved:
            assert starved.wait(20.0 if ended else 1.5) == ended
        process.stdin.close()
    assert process.returncode == -signal.SIGKILL * ended


def test_training_that_cannot_have_enough_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2 << 30, resource.RLIM_INFINITY))
    with pytest.raises(ConfigError, match=r"needs 3\.[0-9]+ GiB"):
        TrainingProcess()


@pytest.mark.parametrize(("code", "printed"), [(-signal.SIGABRT, b"what():  std::bad_alloc\n"), (1, b"MemoryError\n")])
def test_a_death_whose_last_words_tell_of_memory(code: int, printed: bytes, tmp_path: Path) -> None:
    with TrainingProcess() as trainer:
        (tmp_path / LOG).write_bytes(b"earlier\n" + printed)
        trainer._process.wait = lambda timeout=None: code  # type: ignore[method-assign]
        found = trainer._describe_death(tmp_path / LOG, 64)
        del trainer._process.wait
    assert str(found).startswith("training ran out of memory: lower fit.batch_size, --set fit.batch_size=32")


def test_a_trainer_that_does_not_start_names_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'tasks.train.process' in sys.orig_argv:\n"
        "    print('libcudart.so: no such file', file=sys.stderr, flush=True)\n    os._exit(9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with TrainingProcess() as trainer, pytest.raises(InstallationError) as caught:
        trainer.run(make_job(tmp_path), lambda figures: None)
    assert "does not start (code 9: libcudart.so: no such file)" in str(caught.value)


def test_what_keeps_tensorflow_from_being_loaded_is_a_fault_of_the_installation() -> None:
    def fail() -> None:
        raise ImportError("libcudart.so")

    told = fitting._catch(fail, "TensorFlow cannot be loaded")
    assert told == {
        "class": "InstallationError",
        "message": "TensorFlow cannot be loaded (ImportError: libcudart.so); reinstall it",
    }
