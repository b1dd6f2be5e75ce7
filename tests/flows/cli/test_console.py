"""Exit codes, one line for each known fault, one JSON object."""

import json
import signal
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import typer

from cnn.errors import SourceError
from flows.cli.console import format_value, run_command


def fail_with(error: BaseException) -> Callable[[], NoReturn]:
    def action() -> NoReturn:
        raise error

    return action


def end_of(action: Callable[[], NoReturn], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    with pytest.raises(typer.Exit) as caught:
        run_command(action, False, print)
    return caught.value.exit_code, capsys.readouterr()


def test_a_known_fault_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = end_of(fail_with(SourceError("/photos\nis no folder; give another")), capsys)
    assert code == 1
    assert printed.err == "error: /photos is no folder; give another\n"
    assert printed.out == ""


def test_a_fault_of_the_system_names_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = end_of(fail_with(PermissionError(13, "Permission denied", "/secret")), capsys)
    assert (code, printed.err) == (1, "error: /secret: Permission denied\n")


def test_what_a_library_prints_does_not_get_into_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """MLflow prints the address of a run's page to stdout, behind an animal."""

    def action() -> dict[str, Any]:
        print("View run at http://mlflow")
        return {"version": 1}

    run_command(action, True, print)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"version": 1}
    assert "View run" in printed.err


def test_ctrl_c_says_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = end_of(fail_with(KeyboardInterrupt()), capsys)
    assert code == 130
    assert "what was finished is kept" in printed.err


def test_sigterm_ends_a_command_as_ctrl_c_does_with_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def action() -> NoReturn:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("not reached")

    code, printed = end_of(action, capsys)
    assert code == 143
    assert "what was finished is kept" in printed.err
    assert signal.getsignal(signal.SIGTERM) is before


def test_json_is_exactly_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(lambda: {"b": 1, "a": [0.5]}, True, print)
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": [0.5], "b": 1}
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.98765, "0.9877"),
        (1234, "1,234"),
        (True, "yes"),
        (None, "-"),
        ({"ok": 3, "leak": 0}, "ok 3, leak 0"),
        (["a", "b"], "a, b"),
        ("owl\x1b[31m\n\u202e.jpg", "owl\\x1b[31m\\n\\u202e.jpg"),
        ("Käuzchen", "Käuzchen"),
    ],
)
def test_values_as_people_read_them(value: Any, text: str) -> None:
    assert format_value(value) == text
