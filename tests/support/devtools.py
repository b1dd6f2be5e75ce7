"""Chromium steered over its DevTools protocol: pages as a person sees them, what they log, and what axe-core finds.

https://chromedevtools.github.io/devtools-protocol/, spoken over one WebSocket; no driver and no other browser.
"""

import itertools
import json
import os
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from browsers import list_options, require_chromium
from websockets.sync.client import connect
from websockets.sync.connection import Connection

SECONDS = 120.0  # for one answer, on a machine that does much else
PORT_FILE = "DevToolsActivePort"  # where Chromium says on which port it listens, once it does
# axe-core 4.4 knows no color(srgb …), which is what color-mix() comes to: it is told the same colour as rgb().
PLAIN_COLOURS = """
for (const element of document.querySelectorAll('*')) for (const name of ['color', 'backgroundColor']) {
  const parts = getComputedStyle(element)[name].match(/^color\\(srgb ([\\d.e-]+) ([\\d.e-]+) ([\\d.e-]+)\\)$/);
  if (parts) element.style[name] = `rgb(${parts.slice(1).map(part => Math.round(255 * part)).join(',')})`;
}"""
RUN_AXE = """axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(rule => {
  const places = rule.nodes.map(node => node.target.join(' ')).slice(0, 5).join(' | ');
  return `${rule.impact}: ${rule.id}: ${rule.help}: ${places}`; }))"""
# What reaches beyond the right edge, but for what lies in a box that scrolls or cuts.
FIND_WIDE = """(() => { const width = document.documentElement.clientWidth; const clipped = element => {
    for (let box = element.parentElement; box && box !== document.body; box = box.parentElement)
      if (getComputedStyle(box).overflowX !== 'visible') return true;
    return false; };
  return [...document.body.querySelectorAll('*')].filter(element => {
      const place = element.getBoundingClientRect();
      return place.width && place.right > width + 1 && !clipped(element); })
    .map(element => `${element.tagName} ${element.className} ${element.textContent.trim().slice(0, 40)}`); })()"""


@dataclass(frozen=True)
class Look:
    """How a page is looked at: `width` in CSS pixels, and the values of the media features."""

    width: int = 1280
    scheme: str = "light"
    media: str = "screen"


LOOKS = {
    "light": Look(),
    "dark": Look(scheme="dark"),
    "phone": Look(width=390),
    "dark phone": Look(width=390, scheme="dark"),
    "print": Look(width=688, media="print"),  # A4 less the margins of the page
}


@dataclass
class Browser:
    """One tab of a running Chromium; `errors` is what the page logged as one, its policy's refusals among them."""

    connection: Connection
    session: str = ""
    errors: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _loaded: bool = False

    def open(self, path: Path, look: Look) -> None:
        """Load a page as a look has it, with all that is folded unfolded."""
        self.errors.clear()
        size = {"width": look.width, "height": 900, "deviceScaleFactor": 1, "mobile": look.width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": look.scheme}]
        self.ask("Emulation.setScrollbarsHidden", hidden=True)
        self.ask("Emulation.setEmulatedMedia", media=look.media, features=features)
        self._loaded = False
        self.ask("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._receive()
        self.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")

    def evaluate(self, script: str) -> Any:
        """What a script comes to in the page, which need not allow any; promises are waited for."""
        done = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def find_violations(self) -> list[str]:
        """What axe-core has against the page, of any impact."""
        self.evaluate(PLAIN_COLOURS)
        self.evaluate(read_axe())
        return list(self.evaluate(RUN_AXE))

    def find_wide(self) -> list[str]:
        """The elements that reach beyond the right edge, by which a page must be moved sideways."""
        inside = self.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        return list(self.evaluate(FIND_WIDE)) or ([] if inside else ["something wider than the page"])

    def draw(self, path: Path) -> None:
        """Write the whole page as a PNG file."""
        drawn = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(b64decode(drawn["data"]))

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The browser's answer to one command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self.connection.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while (answer := self._receive()).get("id") != number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.connection.recv(timeout=SECONDS))
        said = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.errors.append(str(said["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "assert"):
                self.errors.append(str(said["args"]))
            case "Log.entryAdded" if said["entry"]["level"] == "error":
                self.errors.append(said["entry"]["text"])
        return message


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A tab of a Chromium without a window, whose files lie in `folder`; the test is skipped where there is none."""
    command = [require_chromium(), *list_options(folder), "--remote-debugging-port=0", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with connect(wait_for_address(folder, process), max_size=None, proxy=None) as connection:
                yield _attach(Browser(connection))
                connection.send(json.dumps({"id": -1, "method": "Browser.close"}))
                process.wait(SECONDS)
        finally:
            process.kill()


def wait_for_address(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """The WebSocket of the browser as soon as it listens."""
    until = time.monotonic() + SECONDS
    while len(lines := _read_lines(folder / PORT_FILE)) < 2:
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        assert time.monotonic() < until, "Chromium opened no port"
        time.sleep(0.05)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"


def read_axe() -> str:
    """axe-core's own script, from the package that brings it; SAFELIGHT_AXE names another release's axe.min.js."""
    if path := os.environ.get("SAFELIGHT_AXE"):
        return Path(path).read_text("utf-8")
    return files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")


def _read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _attach(browser: Browser) -> Browser:
    target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
    browser.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log"):
        browser.ask(f"{domain}.enable")
    return browser
