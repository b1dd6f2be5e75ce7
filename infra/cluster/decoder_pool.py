"""Child processes that decode files, so that a crash or a hang costs one file and not the run."""

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
from typing import IO, Any, BinaryIO
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
        self._idle: list[_Child] = []
        self._busy: set[_Child] = set()
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
            child = self._idle.pop() if self._idle else _Child()
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
                    child.reap(0.0)
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
            child.reap(0.0)


class _Child:
    """One child process, started with the first file; it is started anew after a file has ended it."""

    def __init__(self) -> None:
        self.closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._printed: IO[bytes] | None = None
        self._requests: BinaryIO | None = None
        self._answers: BinaryIO | None = None
        self._garbled = False

    def read(self, data: bytes, spec: ImageSpec, seconds: float) -> DecodedImage:
        request = _write_request(spec, seconds)
        for last in (False, True):  # a child may have been killed for a reason that has nothing to do with the file
            if self._process is None:
                self._start_and_check()
            if (message := self._ask(request, data, math.prod(spec.shape))) is not None:
                return _to_decoded(*message, spec)
            fault = self.reap(seconds)
            if self.closed:
                raise DecodersClosedError
            if last or fault.reason == "decoder_timeout":
                raise fault
        raise AssertionError("the second try is the last")

    def kill(self) -> None:
        """End the process for good; whoever waits for its answer gets none."""
        self.closed = True
        if (process := self._process) is not None:
            process.kill()

    def _ask(self, request: bytes, data: bytes, size: int) -> tuple[bytes, bytes] | None:
        """The child's answer, with pixels of so many bytes or none; None when it died over the file."""
        if self._requests is None or self._answers is None:
            raise AssertionError("a child without pipes")
        try:
            write_message(self._requests, request, data)
        except BrokenPipeError:
            return None
        return self._receive(size)

    def _receive(self, size: int) -> tuple[bytes, bytes] | None:
        try:
            return read_message(self._answers, size)  # type: ignore[arg-type]
        except GarbledMessageError:
            self._garbled = True
            return None

    def _start_and_check(self) -> None:
        """Start the process, a second time when it ends before it is ready. Raises: InstallationError."""
        for last in (False, True):
            self._start()
            if self.closed:  # while it was started: `kill` may not have seen it
                self._process.kill()  # type: ignore[union-attr]
            elif self._is_ready():
                return
            fault = self.reap(DECODER_START_SECONDS)
            if self.closed:
                raise DecodersClosedError
            if last:
                raise InstallationError(
                    f"no image can be decoded here: {python_command(DECODER)[0]} ends before the first file"
                    f" ({fault.detail}); mend or reinstall what it names, then run again"
                )

    def _is_ready(self) -> bool:
        """Whether the child has said, in time, that it can decode."""
        waiting = select.poll()
        waiting.register(self._answers, select.POLLIN)  # type: ignore[arg-type]
        return bool(waiting.poll(DECODER_START_SECONDS * 1000)) and self._receive(0) is not None

    def _start(self) -> None:
        environment = {name: value for name, value in python_environment().items() if not name.startswith(SECRETS)}
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        (asked, asking), (answering, answered) = os.pipe(), os.pipe()
        self._requests, self._answers = os.fdopen(asking, "wb"), os.fdopen(answering, "rb")
        self._garbled = False
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
            raise InstallationError(f"no process can be started to decode images: {error.strerror}") from None
        finally:
            os.close(asked)
            os.close(answered)

    def reap(self, seconds: float) -> BadImage:
        """Why the child is dead; it is forgotten."""
        process, printed, pipes = self._process, self._printed, (self._requests, self._answers)
        self._process = self._printed = self._requests = self._answers = None
        if process is not None and self._garbled:
            process.kill()
        code = None if process is None else _wait_for_end(process)
        for pipe in filter(None, pipes):
            with suppress(OSError):  # a part of the file may still wait for a reader that is gone
                pipe.close()
        if process is None or printed is None:
            return BadImage("decoder_crashed", "it was never started")
        with printed:
            printed_last = _read_last(printed)
        if self._garbled:
            return BadImage("decoder_crashed", "what it answered was no answer")
        return _judge_end(code, printed_last, seconds)


def _judge_end(code: int | None, printed_last: str, seconds: float) -> BadImage:
    """What the end of a decoder, and the last that it printed, say of the file."""
    if code == -signal.SIGALRM:
        return BadImage("decoder_timeout", f"no picture after {seconds:g} s")
    if code is None:
        return BadImage("decoder_crashed", "it stopped answering")
    if code == -signal.SIGKILL:  # the kernel, for want of memory
        return BadImage("out_of_memory", "its decoder was killed")
    return BadImage("decoder_crashed", ": ".join(filter(None, (_name_end(code), printed_last))))


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
    isolation: DecoderPool | None = None


_every: "WeakSet[DecoderPool]" = WeakSet()
_of_process = DecoderPool()
_of_thread = _OfThread()


@atexit.register
def _close_all() -> None:
    for isolation in list(_every):
        isolation.close()


def use_decoders(isolation: DecoderPool) -> None:
    """Have `decode_in_child` in this thread use these decoders."""
    _of_thread.isolation = isolation


def decode_in_child(data: bytes, spec: ImageSpec, seconds: float) -> DecodedImage:
    """`DecoderPool.read`, by the decoders that this thread has adopted, else by those of the process."""
    return (_of_thread.isolation or _of_process).read(data, spec, seconds)
