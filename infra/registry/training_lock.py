"""One training of a model at a time: a file lock between processes, a lease in MLflow between machines.

The lease is Lamport's bakery over tags, of which MLflow only promises that each can be read and written whole. Whoever
wants to train writes a tag of its own, takes a number above all that it sees, and waits for the lower ones. A tag that
does not change for `DEAD_SECONDS` of the waiter's own clock belongs to somebody who is gone; no two machines' clocks
are ever compared. A process that finds its own tag removed, or somebody before it, has lost the lease.
"""

import fcntl
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from cnn.errors import RegistryError, SafelightError, StorageError
from infra.storage.locks import take_lock

PREFIX = "safelight.training."
BEAT_SECONDS = 20.0
DEAD_SECONDS = 180.0
LOOK_SECONDS = 1.0
Announce = Callable[[str], None]


class Tags(Protocol):
    """Tags in MLflow that every machine sees."""

    def read(self) -> Mapping[str, str]:
        """All of them."""

    def write(self, key: str, value: str) -> None:
        """Set one."""

    def remove(self, key: str) -> None:
        """Take one away; one that is not there is no fault."""


@dataclass(frozen=True)
class Waiting:
    """How one waits: who gets a line on it, its clock and its sleep."""

    announce: Announce
    elapsed: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def wait_for_others(self, name: str, find_other: Callable[[], Mapping[str, object] | None]) -> None:
        """Return when nobody else trains the model; who does is announced once."""
        is_announced = False
        while (other := find_other()) is not None:
            if not is_announced:
                self.announce(_describe_waiting(name, other))
                is_announced = True
            self.sleep(LOOK_SECONDS)
        if is_announced:
            self.announce(f"train: the other run of {name} has ended; going on")


@contextmanager
def lock_training(path: Path, name: str, waiting: Waiting) -> Iterator[str]:
    """Hold this machine's lock on the training of a model; waits for its holder, which is announced.

    Yields the lock's token: whatever carries it was written under this lock, so its writer is gone. The lock ends with
    its process. Where a file system has no locks nothing is held, and the token is a new one.

    Raises:
        StorageError: the lock file cannot be written.
    """
    try:
        path.parent.resolve().mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: the lock cannot be made ({error.strerror}); check the folder") from None
    with file:
        waiting.wait_for_others(name, lambda: None if _try_lock(file) else _read_json(path))
        yield _sign(file)


@dataclass
class Lease:
    """One that wants to train, or does. `tags` are those of the model's experiment."""

    tags: Tags
    name: str
    token: str
    waiting: Waiting
    key: str = field(default_factory=lambda: PREFIX + secrets.token_hex(8))
    number: int = 0
    beat: int = 0
    since: str = field(default_factory=lambda: _now())
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)

    @contextmanager
    def held(self) -> Iterator["Lease"]:
        """In the block no other machine trains the model, as long as `check` finds the lease."""
        ended = threading.Event()
        beating = threading.Thread(target=self._keep_beating, args=(ended,), daemon=True)
        try:
            self._write()  # number 0: about to choose
            self.number = 1 + max(map(_number, self._read_others().values()), default=0)
            self._write()
            beating.start()
            self._wait_for_choices()
            self.waiting.wait_for_others(self.name, lambda: next(reversed(self._find_earlier()), None))
            yield self
        finally:
            ended.set()
            if beating.is_alive():
                beating.join()
            with suppress(SafelightError):  # it is found dead by the others, and by the next run here at once
                self.tags.remove(self.key)

    def check(self) -> None:
        """See that the lease is still held. Raises: RegistryError."""
        overtaken = any(map(_number, self._find_earlier()))
        if overtaken or self.key not in self.tags.read():
            raise RegistryError(
                f"model {self.name}: another machine began to train it while this one did not answer for"
                f" {DEAD_SECONDS:.0f} s; nothing is registered: run the same command again"
            )

    def _wait_for_choices(self) -> None:
        """Give those that are just choosing a number the time for it: who trains is not known, and not announced."""
        until = self.waiting.elapsed() + BEAT_SECONDS
        while self.waiting.elapsed() < until and not all(map(_number, self._read_others().values())):
            self.waiting.sleep(LOOK_SECONDS)

    def _find_earlier(self) -> list[dict[str, object]]:
        """The living whose turn comes before, and those just choosing a number (0), which may be a lower one."""
        others = self._read_others()
        return [other for key, other in others.items() if (_number(other), key) < (self.number, self.key)]

    def _read_others(self) -> dict[str, dict[str, object]]:
        """The others that are alive; the tags of those that are gone are taken away."""
        now, others = self.waiting.elapsed(), {}
        for key, text in self.tags.read().items():
            if not key.startswith(PREFIX) or key == self.key or not text:
                continue
            value = _decode(text)
            if value is not None and value.get("token") != self.token and not self._is_dead(key, text, now):
                others[key] = value
            else:
                self.tags.remove(key)
        return others

    def _is_dead(self, key: str, text: str, now: float) -> bool:
        before, since = self._seen.get(key, ("", now))
        if before != text:
            self._seen[key] = (text, now)
            return False
        return now - since > DEAD_SECONDS

    def _keep_beating(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(SafelightError):  # the server may be away for a while; `check` decides
                if self.key not in self.tags.read():
                    return
                self._write()

    def _write(self) -> None:
        self.beat += 1
        value = {"number": self.number, "beat": self.beat, "token": self.token} | _describe_self(self.since)
        self.tags.write(self.key, json.dumps(value))


def _try_lock(file: IO[str]) -> bool:
    try:
        if not take_lock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB):
            file.seek(0)
            file.truncate()  # a token means a lock: here each process has its own
    except BlockingIOError:
        return False
    return True


def _sign(file: IO[str]) -> str:
    """Write into the lock file who holds it; returns its token, which stays the same as long as the file."""
    file.seek(0)
    known = _decode(file.read()) or {}
    token = str(known.get("token") or secrets.token_hex(8))
    file.seek(0)
    file.truncate()
    json.dump({"token": token, "number": 0} | _describe_self(_now()), file)
    file.flush()
    return token


def _describe_self(since: str) -> dict[str, object]:
    return {"who": f"process {os.getpid()} on {platform.node() or 'an unnamed machine'}", "since": since}


def _describe_waiting(name: str, other: Mapping[str, object]) -> str:
    who = f"{other.get('who')} (since {other.get('since')})" if other else "another process"
    return f"train: {name} is being trained by {who}; waiting until that has ended (Ctrl-C stops)"


def _number(other: Mapping[str, object]) -> int:
    return int(str(other["number"]))


def _decode(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and type(value.get("number")) is int else None


def _read_json(path: Path) -> dict[str, object]:
    """Who holds the lock, as the file says; nothing where it does not."""
    try:
        return _decode(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError):
        return {}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
