"""A message reaches a program and a webhook whole, and what does not work is said without its secrets."""

import json
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest
from web_servers import serving

import infra.notify.send
from infra.notify.send import send_notice
from infra.notify.spec import Notice, NotifySpec

NOTICE = Notice("failed", "birds", 'retrain birds failed: "quoted" é; rm -rf $HOME')


class Hook(BaseHTTPRequestHandler):
    """Keeps what is posted, and answers as it is told."""

    got: ClassVar[list[tuple[str, dict[str, str]]]] = []
    code: ClassVar[int] = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, json.loads(body)))
        self.send_response(self.code)
        self.end_headers()


def test_a_program_gets_the_message_and_no_shell_reads_it(tmp_path: Path) -> None:
    program = "import os,sys; open(sys.argv[1],'w').write(sys.stdin.read()+os.environ['SAFELIGHT_KIND']+sys.argv[2])"
    command = f"{sys.executable} -c \"{program}\" {tmp_path / 'told'} '$HOME ; x'"
    assert send_notice(NotifySpec(command=command), NOTICE) == []
    assert (tmp_path / "told").read_text() == f"{NOTICE.text}\nfailed$HOME ; x"


def test_a_webhook_gets_json_that_slack_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hook, "got", [])
    with serving(Hook) as address:
        assert send_notice(NotifySpec(webhook=f"{address}/services/KEY"), NOTICE) == []
    assert Hook.got == [("/services/KEY", {"text": NOTICE.text, "kind": "failed", "model": "birds"})]


def test_what_does_not_work_is_said_and_the_other_way_is_gone_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hook, "got", [])
    monkeypatch.setattr(Hook, "code", 500)
    with serving(Hook) as address:
        faults = send_notice(NotifySpec(command="no-such-program x", webhook=f"{address}/SECRET"), NOTICE)
    assert faults[0] == (
        "notify.command (no-such-program) cannot be started: No such file or directory; the message was not sent"
    )
    assert "500" in faults[1]
    assert "SECRET" not in faults[1]
    assert len(Hook.got) == 1


def test_a_program_that_fails_or_hangs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = NotifySpec(command=f"{sys.executable} -c \"import sys; sys.exit('no mail server')\"")
    assert send_notice(failing, NOTICE) == [f"notify.command ({sys.executable}) ended with exit code 1: no mail server"]
    monkeypatch.setattr(infra.notify.send, "COMMAND_SECONDS", 0.2)
    assert "did not end within" in send_notice(NotifySpec(command="sleep 60"), NOTICE)[0]


@pytest.mark.parametrize("values", [{"command": " "}, {"command": "'open"}, {"webhook": "hooks.example.org"}])
def test_what_cannot_be_sent_is_refused_as_a_setting(values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"command|webhook"):
        NotifySpec.model_validate(values)
