"""Child processes that decode files, so that a crash or a hang costs one file and not the run.

When they are used, `tasks.files.decoding` decides; what runs in a child is `cnn.images.decoder`.
"""

import atexit
import json
import math
import multiprocessing
import os
import select
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from functools import lru_cache
from typing import IO, Any
from weakref import WeakSet

import numpy as np

from cnn.errors import BadImage, InstallationError
from cnn.images.decoder import GarbledMessageError, read_message, write_message
from cnn.images.read import DecodedImage
from cnn.images.spec import ImageSpec
from infra.machine.import_path import python_command, python_environment

DECODER = "cnn.images.decoder"  # the module that a child runs
SECRETS = ("AWS_", "AZURE_", "GOOGLE_", "MLFLOW_", "PREFECT_")  # a decoder that was taken over finds none of these
WORKER_NAME = "Dask Worker process"  # what Dask calls the processes that it starts anew when they have died
DECODER_END_SECONDS = 2.0  # from a process's last word to its end
DECODER_START_SECONDS = 300.0  # until it is ready, on the slowest of disks
MOST_PRINTED = 200  # characters of what a decoder printed last


class DecodersClosedError(Exception):
    """The decoders were closed while one was at work, or before it was asked: what became of the file is not known."""


class DecoderPool:
    """Child processes, one for each caller at a time, which wait for the next file when they have answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_RestartingDecoder] = []
        self._busy: set[_RestartingDecoder] = set()
        self.closed = False
        _every.add(self)

    def read(self, data: bytes, spec: ImageSpec, seconds: float) -> DecodedImage:
        """What `cnn.images.read.read_image` gives for this file, within so many seconds.

        Raises:
            BadImage: as there; or decoder_crashed or out_of_memory, twice in a row, or decoder_timeout.
            InstallationError: no decoder can be started, whatever the file is.
            DecodersClosedError: `close` was called, before this or meanwhile.
        """
        with self._lock:
            if self.closed:
                raise DecodersClosedError
            child = self._idle.pop() if self._idle else _RestartingDecoder()
            self._busy.add(child)
        try:
            return child.read(data, spec, seconds)
        except BadImage:
            raise  # it has answered, or was reaped
        except BaseException:  # what it still has to say would be taken for the answer to the next file
            child.kill()
            raise
        finally:
            with self._lock:
                self._busy.discard(child)
                if child.closed:
                    child.discard()
                else:
                    self._idle.append(child)

    def close(self) -> None:
        """End all children for good; those at work let their callers know."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            for child in self._busy:
                child.kill()
        for child in idle:
            child.kill()
            child.discard()


class _RestartingDecoder:
    """A decoder for one caller: its process is started with the first file, and anew after a file has ended it."""

    def __init__(self) -> None:
        self.closed = False
        self._process: _DecoderProcess | None = None

    def read(self, data: bytes, spec: ImageSpec, seconds: float) -> DecodedImage:
        """As `DecoderPool.read`."""
        request = _write_request(spec, seconds)
        for last in (False, True):  # a process may have been killed for a reason that has nothing to do with the file
            process = self._process or self._start()
            if (message := process.ask(request, data, math.prod(spec.shape))) is not None:
                return _to_decoded(*message, spec)
            fault = self._reap(process, seconds)
            if last or fault.reason == "decoder_timeout":
                raise fault
        raise AssertionError("the second try is the last")

    def kill(self) -> None:
        """End the process for good; whoever waits for its answer gets none."""
        self.closed = True
        if (process := self._process) is not None:
            process.kill()

    def discard(self) -> None:
        """Wait for the end of the process that was killed, if there is one."""
        if (process := self._process) is not None:
            self._process = None
            process.reap(0.0)

    def _start(self) -> "_DecoderProcess":
        """A process that has said that it can decode; a second one when the first ends before.

        Raises:
            InstallationError: the second ends as well.
        """
        for last in (False, True):
            process = self._process = _DecoderProcess()
            if self.closed:  # while it was started: `kill` may not have seen it
                process.kill()
            elif process.is_ready():
                return process
            fault = self._reap(process, DECODER_START_SECONDS)
            if last:
                raise InstallationError(
                    f"no image can be decoded here: {python_command(DECODER)[0]} ends before the first file"
                    f" ({fault.detail}); repair or reinstall what it names, then run again"
                )
        raise AssertionError("the second try is the last")

    def _reap(self, process: "_DecoderProcess", seconds: float) -> BadImage:
        """Why the process has ended. Raises: DecodersClosedError where that is `kill`."""
        self._process = None
        fault = process.reap(seconds)
        if self.closed:
            raise DecodersClosedError
        return fault


class _DecoderProcess:
    """A running decoder with its two pipes, and the file that keeps what it prints."""

    def __init__(self) -> None:
        environment = {name: value for name, value in python_environment().items() if not name.startswith(SECRETS)}
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._is_garbled = False
        (asked, asking), (answering, answered) = os.pipe(), os.pipe()
        self._requests, self._answers = os.fdopen(asking, "wb"), os.fdopen(answering, "rb")
        try:
            self._process = subprocess.Popen(
                python_command(DECODER, str(asked), str(answered)),
                stdin=subprocess.DEVNULL,
                stdout=self._printed,  # what a library prints is no answer
                stderr=self._printed,
                pass_fds=(asked, answered),
                env=environment,
                start_new_session=True,  # Ctrl-C is this process's business; the child ends with its requests
            )
        except OSError as error:
            self._close_files()
            raise InstallationError(f"no process can be started to decode images: {error.strerror}") from None
        finally:
            os.close(asked)
            os.close(answered)

    def is_ready(self) -> bool:
        """Whether it has said, in time, that it can decode."""
        waiting = select.poll()
        waiting.register(self._answers, select.POLLIN)
        return bool(waiting.poll(DECODER_START_SECONDS * 1000)) and self._receive(0) is not None

    def ask(self, request: bytes, data: bytes, size: int) -> tuple[bytes, bytes] | None:
        """Its answer, with pixels of so many bytes or none; None when it died over the file."""
        try:
            write_message(self._requests, request, data)
        except BrokenPipeError:
            return None
        return self._receive(size)

    def kill(self) -> None:
        """End it; `reap` then says how."""
        self._process.kill()

    def reap(self, seconds: float) -> BadImage:
        """Why the process, which answers no more, has ended."""
        if self._is_garbled:
            self._process.kill()
        code = _wait_for_end(self._process)
        last = _read_last(self._printed)
        self._close_files()
        if self._is_garbled:
            return BadImage("decoder_crashed", "what it answered was no answer")
        return _judge_end(code, last, seconds)

    def _receive(self, size: int) -> tuple[bytes, bytes] | None:
        try:
            return read_message(self._answers, size)
        except GarbledMessageError:
            self._is_garbled = True
            return None

    def _close_files(self) -> None:
        for file in (self._requests, self._answers, self._printed):
            with suppress(OSError):  # a part of the file may still wait for a reader that is gone
                file.close()


def _judge_end(code: int | None, last: str, seconds: float) -> BadImage:
    """What the end of a decoder, and the last that it printed, say of the file."""
    if code == -signal.SIGALRM:
        return BadImage("decoder_timeout", f"no picture after {seconds:g} s")
    if code is None:
        return BadImage("decoder_crashed", "it stopped answering")
    if code == -signal.SIGKILL:  # the kernel, for want of memory
        return BadImage("out_of_memory", "its decoder was killed")
    return BadImage("decoder_crashed", ": ".join(filter(None, (_name_end(code), last))))


def _read_last(printed: IO[bytes]) -> str:
    """The last line that was printed, shortened."""
    printed.seek(0)
    lines = printed.read().decode("utf-8", "replace").splitlines()
    return next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "")[-MOST_PRINTED:]


@lru_cache(maxsize=8)
def _write_request(spec: ImageSpec, seconds: float) -> bytes:
    return json.dumps({"image": spec.model_dump(), "seconds": seconds}).encode()


def is_replaced_on_death() -> bool:
    """Whether this process is a worker that is replaced when it dies."""
    return multiprocessing.current_process().name.startswith(WORKER_NAME)


def _wait_for_end(process: subprocess.Popen[bytes]) -> int | None:
    """How a process ended that answers no more; None when it had to be killed for it."""
    try:
        return process.wait(DECODER_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def _name_end(code: int) -> str:
    if code >= 0:
        return f"status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _to_decoded(facts: bytes, pixels: bytes, spec: ImageSpec) -> DecodedImage:
    answer: dict[str, Any] = json.loads(facts)
    if "reason" in answer:
        raise BadImage(answer["reason"], answer["detail"])
    seen = tuple(answer["seen"]) if answer["seen"] else None
    found = np.frombuffer(pixels, np.uint8).reshape(spec.shape)
    return DecodedImage(found, answer["width"], answer["height"], seen, answer["preview"])


class _OfThread(threading.local):
    decoders: DecoderPool | None = None


_every: "WeakSet[DecoderPool]" = WeakSet()
_of_process = DecoderPool()
_of_thread = _OfThread()


@atexit.register
def _close_all() -> None:
    for decoders in list(_every):
        decoders.close()


def use_decoders(decoders: DecoderPool) -> None:
    """Have `decode_in_child` in this thread use these decoders."""
    _of_thread.decoders = decoders


def decode_in_child(data: bytes, spec: ImageSpec, seconds: float) -> DecodedImage:
    """`DecoderPool.read`, by the decoders that this thread uses, else by those of the process."""
    return (_of_thread.decoders or _of_process).read(data, spec, seconds)
