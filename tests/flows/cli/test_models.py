"""What `safelight models` and the other commands print: complete in 80 columns, and one line a value when piped."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registries import METRICS, add_versions, open_registry
from rich.cells import cell_len
from rich.console import Console

from flows.cli.console import make_table, show_values
from flows.cli.models import show_models
from flows.models import list_models, promote_version, rollback_version
from infra.registry.registry import Registry

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
words = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=90)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("work")
    with open_registry(folder) as registry:
        add_versions(registry, "birds", 2)
        registry.move_champion("birds", 1, "gate: first version", "gate", NOON)
        registry.move_champion("birds", 2, "gate: better " * 20, "gate", NOON)
        facts = {"metric.test_images": "329.0", "safelight.judged_on": "test split of birds-3ae7d81ed566"}
        registry.set_tags("birds", 2, facts | {"safelight.images": "1617", "safelight.unjudged": '["owl"]'})
        add_versions(registry, "candidates")
        yield str(folder)


def print_models(workspace: str, name: str | None, capsys: pytest.CaptureFixture[str]) -> str:
    show_models(list_models(workspace, name))
    printed = capsys.readouterr().out
    assert max(map(cell_len, printed.splitlines())) <= 80
    assert "…" not in printed
    return printed


def test_the_list_shows_what_each_champion_is_worth(workspace: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = list_models(workspace, None)
    assert answer["models"] == ["birds", "candidates"]
    [birds, candidates] = answer["champions"]
    assert birds | {"created": "then"} == {
        "model": "birds",
        "champion": 2,
        "created": "then",
        "accuracy": METRICS["accuracy"],
        "judged_on": "test split of birds-3ae7d81ed566",
        "test_images": 329,
        "unjudged": ["owl"],
        "images": 1617,
    }
    assert (candidates["champion"], candidates["accuracy"]) == (None, None)
    printed = " ".join(print_models(workspace, None, capsys).split())
    for told in ("0.9800", "1,617", birds["created"][:10], "329 images", "owl", "candidates - - - - -"):
        assert told in printed


def test_versions_and_history_fit_a_pipe(workspace: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = print_models(workspace, "birds", capsys)
    for told in ("champion", "0.9800", "0.9700", "329", "2026-03-01 12:00", "first version"):
        assert told in printed
    assert printed.count("better") == 20
    [first, second] = list_models(workspace, "birds")["versions"]
    assert (first["judged_on"], first["test_images"], second["test_images"]) == (None, None, 329)


def test_promote_and_rollback_go_back_and_forth(workspace: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(list_models(workspace, "birds")["history"])
    assert promote_version(workspace, "birds", 1, "a look")["before"] == 2
    assert rollback_version(workspace, "birds", "it was the light")["champion"] == 2
    assert rollback_version(workspace, "birds", "no, really")["champion"] == 1
    assert promote_version(workspace, "birds", 2, "as it was")["champion"] == 2
    history = list_models(workspace, "birds")["history"][before:]
    assert [(move["from"], move["to"]) for move in history] == [(2, 1), (1, 2), (2, 1), (1, 2)]


def test_a_history_edited_by_hand_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_registry(tmp_path) as registry:
        add_versions(registry, "birds")
        registry._client.set_registered_model_tag("birds", "move.000001.x", "gone")
        printed = print_models(str(tmp_path), "birds", capsys)
    assert "not readable, edited in MLflow: move.000001.x" in printed


@given(st.lists(st.tuples(words, st.integers(), words), max_size=4), words)
def test_nothing_is_cut_off_a_table(rows: list[tuple[Any, ...]], title: str) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(make_table(title, ("name", "number", "why"), rows, ("name", "why")))
    printed = console.export_text()
    assert all(cell_len(line) <= 80 for line in printed.splitlines())
    shown = Counter(printed)
    for row in rows:
        shown.subtract(letter for cell in (row[0], f"{row[1]:,}", row[2]) for letter in cell if letter.isprintable())
    assert min((count for letter, count in shown.items() if not letter.isspace()), default=0) >= 0


def test_piped_values_stay_on_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/home/ada/" + "deep/" * 60 + "report.html"
    show_values({"report": path, "seconds": 4.25, "outcomes": {"ok": 3, "leak": 0}})
    assert capsys.readouterr().out.splitlines() == [
        f"report    {path}",
        "seconds   4.25",
        "outcomes  ok 3, leak 0",
    ]


def test_registry_is_asked_little(workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = Registry._ask

    def note(self: Registry, verb: str, *values: Any, **named: Any) -> Any:
        asked.append(verb)
        return ask(self, verb, *values, **named)

    monkeypatch.setattr(Registry, "_ask", note)
    list_models(workspace, None)
    assert len(asked) <= 1 + 3 * 2
