"""A command whose lines are read while it runs, so that a test can act at the right moment."""

import queue
import signal
import subprocess
import threading
import time
from typing import Any

from commands import start

LINE_SECONDS = 180.0


class ListenedCommand:
    """A `safelight` command; `wait_for` a line on stderr, then `finish`."""

    def __init__(self, *words: object, **options: Any) -> None:
        self.process: subprocess.Popen[str] = start(*words, **options)
        self.told: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, words: str) -> str:
        """The next line that holds these words."""
        deadline = time.monotonic() + LINE_SECONDS
        while True:
            line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
            assert line is not None, f"it ended without {words!r}: {self.told}"
            if words in line:
                return line

    def finish(self) -> str:
        """What it printed on stdout; it must end well."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        self._reader.join()
        assert self.process.wait() == 0, "\n".join(self.told)
        return out

    def stop(self) -> None:
        """Have it end as on Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(LINE_SECONDS)

    def kill(self) -> None:
        """End it, whatever it does."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.told.append(line.rstrip())
            self._lines.put(line.rstrip())
        self._lines.put(None)
