"""What `safelight models` and the other commands print: complete in 80 columns, and one line a value when piped."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registries import METRICS, add_versions, open_registry
from rich.cells import cell_len
from rich.console import Console

from cnn.errors import RegistryError
from flows.cli.console import make_table, show_values
from flows.cli.models import show_models, show_report
from flows.cli.train import show_training
from flows.models import list_models, open_report, promote_version, rollback_version
from infra.registry.registry import REPORT, Registry
from infra.storage.store import open_store
from tasks.train.run_folder import locate_run_folder

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


def publish_page(workspace: str, name: str, number: int, text: str, folder: Path) -> None:
    (folder / REPORT).write_text(text)
    with open_registry(Path(workspace)) as registry:
        registry.log_pages(registry.version(name, number).run_id, [folder / REPORT])


def test_open_names_the_page_of_the_champion_or_of_the_version_that_was_asked_for(
    workspace: str, tmp_path: Path
) -> None:
    for number in (1, 2):
        publish_page(workspace, "birds", number, f"page {number}", tmp_path)
    answer = open_report(workspace, "birds", None)
    assert (answer["model"], answer["version"]) == ("birds", 2)
    assert Path(urlsplit(answer["report"]).path).read_text() == "page 2"
    assert Path(urlsplit(open_report(workspace, "birds", 1)["report"]).path).read_text() == "page 1"


def test_open_names_the_page_that_the_training_printed(workspace: str, tmp_path: Path) -> None:
    publish_page(workspace, "birds", 2, "of the registry", tmp_path)
    with open_registry(Path(workspace)) as registry:
        key = registry.version("birds", 2).tags["run_key"]
    page = locate_run_folder(open_store(workspace), key) / REPORT
    page.parent.mkdir(parents=True)
    page.write_text("of the training")
    assert open_report(workspace, "birds", 2)["report"] == page.as_uri()
    page.unlink()  # as gc does
    assert Path(urlsplit(open_report(workspace, "birds", 2)["report"]).path).read_text() == "of the registry"


def test_open_takes_the_newest_version_of_a_model_without_champion(workspace: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"model candidates version 1 has no report: it was made by a release that"):
        open_report(workspace, "candidates", None)
    publish_page(workspace, "candidates", 1, "page", tmp_path)
    assert open_report(workspace, "candidates", None)["version"] == 1
    with pytest.raises(RegistryError, match="has no version 7"):
        open_report(workspace, "candidates", 7)


@pytest.mark.parametrize(("display", "opened"), [(None, []), (":0", ["file:///w/report.html"])])
def test_a_page_is_opened_where_there_is_a_display(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], display: str | None, opened: list[str]
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    show_report({"model": "birds", "version": 2, "report": "file:///w/report.html"})
    assert shown == opened
    assert capsys.readouterr().out == "file:///w/report.html\n"


def test_the_answer_of_a_training_gives_each_reason_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    gate = {"verdict": "hold", "reasons": ["it is worse, by 2.00 points", "promote it all the same"]}
    show_training({"model": "birds", "gate": gate, "seconds": 1.0})
    assert capsys.readouterr().out.splitlines() == [
        "model    birds",
        "gate     hold",
        "         it is worse, by 2.00 points",
        "         promote it all the same",
        "seconds  1",
    ]


def test_it_is_told_once_that_other_machines_do_not_reach_the_registry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.models import log_lonely_registry, open_registry

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_lonely_registry.cache_clear()
    for _ in range(2):
        open_registry("s3://bucket/told-once")
    assert (
        capsys.readouterr().err.count("registry: models of s3://bucket/told-once are registered on this machine") == 1
    )
