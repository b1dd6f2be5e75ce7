"""README.md and docs/: links lead somewhere, commands parse, paths exist, tables hold what the code holds."""

import ast
import inspect
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from commands import help_of
from pydantic import BaseModel

from cnn.dataset.manifest import Manifest
from cnn.dataset.tfrecord import raw_layout
from cnn.formats.reasons import REASONS
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import CALIBRATION, INFO, NOVELTY, PARTS, SEEN
from cnn.models.architecture import ModelSpec, count_parameters
from cnn.models.backbones import BACKBONES
from cnn.models.presets import PRESETS
from flows.cli.main import app
from flows.config import Config, load_config
from flows.results import PrepareResult, ScoreResult, SearchResult, TrainResult
from flows.upkeep.gc import clean_workspace
from flows.upkeep.retention import Retention
from infra.storage import layout
from tasks.dataset.gc import Collected
from tasks.dataset.ledger import LEDGER, OUTCOMES
from tasks.score.predictions import PREDICTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
OURS = re.compile(r"(?:flows|tasks|infra|cnn|tests|docs|\.ci|\.github)/[\w./-]*|[A-Za-z]+\.(?:md|toml|lock)|Makefile")
MADE = {"safelight.toml", "infra/deploy/.env"}  # named in the pages, and made by users
SHELL = ("", "console")  # what a block of commands, or of what they print, is marked with
STAND_INS = {"VERSION": "3", "COMMAND": "models"}  # what the pages put for a word that must be one
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@by_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(read_prose(page)):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not heading or heading in find_anchors(linked), f"{page.name}: {target}"


@by_page
def test_paths_of_the_repository_exist(page: Path) -> None:
    blocks = [body for kind, body in FENCE.findall(page.read_text()) if kind in SHELL]
    words = [word for text in [*INLINE.findall(read_prose(page)), *blocks] for word in text.split()]
    for word in words:
        if OURS.fullmatch(word) and word not in MADE:
            assert (ROOT / word).exists(), f"{page.name}: {word}"


@by_page
def test_commands_parse(page: Path) -> None:
    for line in list_commands(page, "safelight"):
        parse_command(line)


@by_page
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in list_commands(page, "make"):
        words = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
        assert set(words) <= targets, f"{page.name}: {line}"


@by_page
def test_settings_are_settings(page: Path) -> None:
    for kind, body in FENCE.findall(page.read_text()):
        if kind == "toml":
            Config.model_validate(tomllib.loads(body))


@pytest.mark.long
@pytest.mark.parametrize(("program", "depth"), [("prefect", 3), ("dask", 2), ("mlflow", 2)])
def test_commands_of_servers_exist_in_the_locked_versions(program: str, depth: int) -> None:
    lines = list(list_commands(ROOT / "docs/deploy.md", program))
    assert lines
    for line in lines:
        words = [word for word in shlex.split(line, comments=True) if word not in ("&", "--no-prompt")]
        known = help_of(*takewhile(re.compile(r"[a-z-]*[a-z]").fullmatch, words[:depth]))
        assert [word for word in words if word.startswith("--") and word not in known] == [], line


def test_the_version_of_mlflow_is_the_locked_one() -> None:
    shown = re.findall(r"mlflow==([\d.]+)", (ROOT / "docs/deploy.md").read_text())
    assert shown
    assert set(shown) == set(re.findall(r"^mlflow-skinny==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.M))


def test_the_settings_that_the_readme_shows_are_the_defaults() -> None:
    shown = tomllib.loads(next(body for kind, body in FENCE.findall(PAGES[0].read_text()) if kind == "toml"))
    assert len(shown) > 3
    defaults = Config().model_dump(mode="json")
    assert shown == {name: {key: defaults[name][key] for key in section} for name, section in shown.items()}


def test_the_page_of_networks_lists_every_backbone_and_preset() -> None:
    page = ROOT / "docs/networks.md"
    assert set(INLINE.findall(read_section(page, "A pretrained backbone").split("Backbones: ")[1])) == set(BACKBONES)
    rows = re.findall(r'`model.preset = "(\w+)"` \| .* \| ([\d,]+) \|', page.read_text())
    assert {name for name, _ in rows} == set(PRESETS)
    for name, parameters in rows:
        counted = count_parameters(ModelSpec.model_validate({"preset": name}), ImageSpec(), 10)
        assert f"{sum(row.parameters for row in counted):,}" == parameters


def test_the_readme_lists_every_command() -> None:
    rows = read_table(PAGES[0], "Commands")
    assert {name for row in rows for name in re.findall(r"safelight (\w+)", row[0])} == set(find_group().commands)


@pytest.mark.parametrize(
    ("command", "answer"),
    [("prepare", PrepareResult), ("train, retrain", TrainResult), ("search", SearchResult), ("score", ScoreResult)],
)
def test_the_keys_of_an_answer_are_those_of_the_page(command: str, answer: type[BaseModel]) -> None:
    assert find_keys(command) == list(answer.model_fields)


def test_the_keys_of_gc_are_those_of_the_page(tmp_path: Path) -> None:
    own = {*Collected.__dataclass_fields__, "dry_run", "batches", "trainings", "versions"}
    assert set(find_keys("gc")) == own
    assert set(clean_workspace(str(tmp_path), Retention())) == own


def test_reasons_mean_what_the_page_says() -> None:
    shown = {reason.strip("`"): meaning for reason, meaning in read_table(ROOT / "docs/faults.md", "Reasons")}
    assert shown.pop("no_class_folder")
    assert shown == REASONS
    assert set(REASONS) - set(INLINE.findall(read_section(ROOT / "docs/faults.md", "Verdicts"))) <= {
        "symlink_nested"  # "…"
    }


def test_every_outcome_is_in_its_table() -> None:
    assert [row[0].strip("`") for row in read_table(ROOT / "docs/faults.md", "Outcomes")] == list(OUTCOMES)


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Datasets", [*Manifest.model_fields, *LEDGER.names]),
        ("Batches", PREDICTIONS.names),
        ("MLflow", [INFO, SEEN, CALIBRATION, NOVELTY, *PARTS]),
    ],
)
def test_the_page_of_the_workspace_names_every_key_and_column(heading: str, names: list[str]) -> None:
    rows = read_table(ROOT / "docs/workspace.md", heading)
    shown = [name for row in rows for name in INLINE.findall(row[0])]
    assert sorted(shown) == sorted(names)


LAYOUT = [(name, make) for name, make in inspect.getmembers(layout, inspect.isfunction) if name.endswith("_path")]


@pytest.mark.parametrize(("name", "make"), LAYOUT)
def test_the_page_of_the_workspace_names_every_place(name: str, make: Callable[..., str]) -> None:
    called = {"dataset": "NAME", "batch": "ID", "name": ""}
    path = make(*(called.get(parameter, parameter.upper()) for parameter in inspect.signature(make).parameters))
    shown = re.sub(
        r"[0-9a-f]{16}", "KEY", re.sub(r"source-[0-9a-f]{12}", "SOURCE", re.sub(r"source-[0-9a-f]{8}/", "INBOX/", path))
    ).replace("DIGEST-sums", "KEY")
    assert f"`{shown}" in (ROOT / "docs/workspace.md").read_text()


def test_the_walk_in_signatures_is_that_of_the_code() -> None:
    body = read_section(ROOT / "docs/architecture.md", "The walk in signatures")
    lines = re.findall(r"^ *(\w+)\((.*?)\) -> (.+?) {2,}(\S+\.py)$", body, re.MULTILINE)
    assert len(lines) > 15
    assert len(lines) == body.count(" -> ")
    for name, parameters, result, path in lines:
        tree = ast.parse((ROOT / path).read_text())
        function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
        given = [argument.arg for argument in function.args.args]
        assert given[: parameters.count(",") + 1] == parameters.split(", "), name
        assert function.returns is not None
        assert ast.unparse(function.returns) == result, name


def test_the_drawing_of_a_record_is_to_scale() -> None:
    body = read_section(ROOT / "docs/architecture.md", "The bytes of a record")
    pieces = [(int(start), int(size)) for start, size in re.findall(r"^ +(\d+) +(\d+)   ", body, re.MULTILINE)]
    places = raw_layout(96 * 96 * 3)
    assert [start for start, _ in pieces] == [sum(size for _, size in pieces[:place]) for place in range(len(pieces))]
    assert sum(size for _, size in pieces) == places.stride
    assert {places.copy, places.image, places.key, places.label} <= {start for start, _ in pieces}


def list_commands(page: Path, program: str) -> Iterator[str]:
    """The command lines of a program in a page, in blocks and in the text, as they would be typed."""
    text = page.read_text()
    for kind, body in FENCE.findall(text):
        if kind in SHELL:
            lines = (line.removeprefix("$ ").removeprefix(".venv/bin/") for line in body.splitlines())
            yield from (line for line in lines if line.startswith(f"{program} "))
    yield from (line for line in INLINE.findall(FENCE.sub("", text)) if line.startswith(f"{program} "))


def parse_command(line: str) -> None:
    """Parse a command line, and load the settings in it. Raises: click.UsageError, ConfigError."""
    typed = list(takewhile(lambda word: word not in ("&", ">"), shlex.split(line, comments=True)))[1:]
    words = [STAND_INS.get(word, word) for word in (word.strip("[]") for word in typed)]
    if words[0].startswith("-"):  # safelight --help
        find_group().make_context("safelight", words, resilient_parsing=True)
        return
    name, command, rest = find_group().resolve_command(click.Context(find_group()), words)
    assert command is not None
    if rest and "…" not in rest:  # else it is the name of a command in a sentence
        given = command.make_context(name, rest, resilient_parsing="--help" in rest).params
        load_config(Path("/dev/null"), given.get("settings") or [])


@cache
def find_group() -> Any:
    return typer.main.get_command(app)


@cache
def find_anchors(page: Path) -> set[str]:
    """What a link may put behind '#': the headings of a page, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_keys(command: str) -> list[str]:
    """The keys that the page lists for a command's answer."""
    rows = dict(read_table(ROOT / "docs/python.md", "From other programs"))
    return INLINE.findall(rows[command])


def read_prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def read_section(page: Path, heading: str) -> str:
    """What stands under a heading of the second level."""
    return page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def read_table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the rows of all tables under a heading, without the heads."""
    lines = [line for line in read_section(page, heading).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    heads = {place + step for place, line in enumerate(lines) if line.startswith("|---") for step in (-1, 0)}
    return [row for place, row in enumerate(rows) if place not in heads]
