"""A kind of fault and a number in; a block in which the N-th call that touches a workspace fails, out."""

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scenes import SECRET, Scene, Told, prepare_told, silent

from cnn.errors import SafelightError, StorageError
from infra.cluster.spec import ClusterSpec
from infra.storage.local import LocalStore

TALLY: Counter[tuple[str, str]] = Counter()  # (kind of fault, injected | told | absorbed) → how often
VERBS = ("list", "read", "write", "put_file", "take_file", "fetch", "exists", "delete")
SYSTEM_CALLS = {
    "replace": (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES),
    "fsync": (errno.EIO, errno.ENOSPC),
    "writev": (errno.EIO, errno.ENOSPC),
    "open": (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE),
    "mkdir": (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES),
    "unlink": (errno.EIO, errno.EROFS, errno.EACCES),
}


class Gate:
    """Calls `act` at the N-th passage, before or after what passes; N = 0: never, it only counts."""

    def __init__(self, number: int, act: Callable[[str], None], after: bool = False) -> None:
        self.number, self.act, self.after, self.passed = number, act, after, 0
        self._counting = threading.Lock()
        self._thread = threading.local()

    @property
    def inside(self) -> bool:
        """Whether this thread is in something that has passed; what it is made of is not counted."""
        return getattr(self._thread, "inside", False)

    @inside.setter
    def inside(self, value: bool) -> None:
        self._thread.inside = value

    def run(self, name: str, call: Callable[[], Any]) -> Any:
        if self.inside:
            return call()  # what a storage operation is made of
        with self._counting:
            self.passed += 1
            hit = self.passed == self.number
        if hit and not self.after:
            self.act(name)
        self.inside = True
        try:
            return call()
        finally:
            self.inside = False
            if hit and self.after:
                self.act(name)


def run_faulty(
    scene: Scene,
    workspace: Path,
    kind: str,
    fault: Callable[[], AbstractContextManager[Gate]],
    cluster: ClusterSpec = ClusterSpec(workers=0),  # noqa: B008 - frozen
) -> tuple[Told, bool]:
    """(what was told, whether the gate was reached) of a run under `fault`, a context of a Gate.

    A run that fails must say so as one line that is fit for people.
    """
    told = Told()
    with fault() as gate:
        try:
            prepare_told(scene, workspace, told, silent, cluster=cluster)
        except SafelightError as error:
            told.error = str(error)
    for thread in threading.enumerate():
        if thread.name.startswith("chunk-"):  # a loaded machine: it must not come into the next run
            thread.join(60)
    reached = gate.number <= gate.passed
    if reached:
        TALLY[kind, "injected"] += 1
        TALLY[kind, "told" if told.error else "absorbed"] += 1
    assert told.error is None or is_fit(told.error), told.error
    return told, reached


def is_fit(message: str) -> bool:
    """Whether it is one line, says what to do, and tells no secret."""
    return "\n" not in message and ";" in message and SECRET not in message


@contextmanager
def failing_store(number: int, after: bool = False, verbs: tuple[str, ...] = VERBS) -> Iterator[Gate]:
    """In the block the N-th operation of a `LocalStore` fails, before or after it had its effect."""

    def fail(name: str) -> None:
        raise StorageError(f"cannot {name} a file: an injected fault; run again")

    gate = Gate(number, fail, after)
    with gated_store(gate, verbs):
        yield gate


@contextmanager
def gated_store(gate: Gate, verbs: tuple[str, ...] = VERBS) -> Iterator[None]:
    """In the block every operation of a `LocalStore` goes through the gate."""

    def wrap(verb: str) -> Callable[..., Any]:
        method = getattr(LocalStore, verb)

        @wraps(method)
        def gated(self: LocalStore, *values: Any) -> Any:
            return gate.run(verb, lambda: list(method(self, *values)) if verb == "list" else method(self, *values))

        return gated

    with ExitStack() as stack:
        for verb in verbs:
            stack.enter_context(patch.object(LocalStore, verb, wrap(verb)))
        yield


@contextmanager
def failing_system(workspace: Path, call: str, number: int, code: int, after: bool = False) -> Iterator[Gate]:
    """In the block the N-th system call of a kind that touches the workspace fails with an error number."""

    def fail(name: str) -> None:
        raise OSError(code, os.strerror(code), str(workspace))

    gate = Gate(number, fail, after)
    with gated_system(gate, workspace, (call,)):
        yield gate


@contextmanager
def gated_system(gate: Gate, workspace: Path, calls: tuple[str, ...] = tuple(SYSTEM_CALLS)) -> Iterator[None]:
    """In the block every such system call that touches the workspace goes through the gate."""

    def wrap(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        @wraps(real)
        def gated(first: Any, *values: Any, **named: Any) -> Any:
            call = partial(real, first, *values, **named)
            return gate.run(name, call) if touches(first, named.get("dir_fd"), workspace) else call()

        return gated

    with ExitStack() as stack:
        for name in calls:
            stack.enter_context(patch.object(os, name, wrap(name)))
        yield


def touches(target: Any, folder: Any, workspace: Path) -> bool:
    """Whether a path or a file descriptor is (of) something in the workspace."""
    if folder is not None:
        target = folder
    place = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
    return os.fsdecode(place).startswith(str(workspace))


def make_table() -> str:
    """The faults injected by this process, as a table in Markdown; one that broke a promise is a failed test."""
    lines = ["| fault | injected | told in one line | absorbed |", "|---|---:|---:|---:|"]
    for kind in sorted({kind for kind, _ in TALLY}):
        counts = (TALLY[kind, name] for name in ("injected", "told", "absorbed"))
        lines.append(f"| {kind} | {' | '.join(f'{count:,}' if count else '' for count in counts)} |")
    total = sum(count for (_, name), count in TALLY.items() if name == "injected")
    return "\n".join([*lines, f"| all | {total:,} | | |"])
