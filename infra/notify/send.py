"""Send a message to a person: by a program of this machine, and to a webhook."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Callable
from http.client import HTTPException

from cnn.text import redact, redact_text, shorten
from infra.notify.spec import Notice, NotifySpec, split_words

COMMAND_SECONDS = 60.0
WEBHOOK_SECONDS = 10.0


def send_notice(spec: NotifySpec, notice: Notice) -> list[str]:
    """Send a message every way that is set; what did not work, each as a line for a log. Never raises."""
    ways: list[Callable[[], str | None]] = []
    if spec.command is not None:
        command = spec.command
        ways.append(lambda: run_command_with(command, notice))
    if spec.webhook is not None:
        address = spec.webhook
        ways.append(lambda: post_notice(address, notice))
    return [fault for way in ways if (fault := way()) is not None]


def run_command_with(command: str, notice: Notice) -> str | None:
    """Start the program with the message on its standard input; why it failed, or None."""
    facts = {"SAFELIGHT_MESSAGE": notice.text, "SAFELIGHT_KIND": notice.kind, "SAFELIGHT_MODEL": notice.model}
    words = split_words(command)
    try:
        done = subprocess.run(
            words,
            input=f"{notice.text}\n",
            env=os.environ | facts,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"notify.command ({words[0]}) did not end within {COMMAND_SECONDS:.0f} s; the message may not be sent"
    except OSError as error:
        return f"notify.command ({words[0]}) cannot be started: {error.strerror}; the message was not sent"
    if done.returncode == 0:
        return None
    said = shorten(redact_text(done.stderr or done.stdout))
    return f"notify.command ({words[0]}) ended with exit code {done.returncode}" + (f": {said}" if said else "")


def post_notice(address: str, notice: Notice) -> str | None:
    """Post the message as JSON; why that failed, or None. The path of such an address is a secret: it is not told."""
    body = json.dumps({"text": notice.text, "kind": notice.kind, "model": notice.model}).encode()
    request = urllib.request.Request(  # noqa: S310 - the setting takes http and https alone
        address, body, {"Content-Type": "application/json", "User-Agent": "safelight"}
    )
    try:
        with urllib.request.build_opener().open(request, timeout=WEBHOOK_SECONDS):
            return None
    except (OSError, HTTPException, ValueError) as error:
        host = redact(address).split("/")[2]
        return f"notify.webhook at {host} did not take the message ({redact_text(shorten(error))})"
