"""Names and first lines that lead a stranger to the right file: public names are unique, modules say what they are."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest
from modules import MODULES, ROOT

ENTRY = {"main"}  # what `python -m` and console scripts call, by custom
COSTUME = re.compile(r"\bin[,;] |\bout\.?$")  # "A folder in, a table out" says nothing that one would search for


def find_public_names(path: Path) -> set[str]:
    """The functions and classes that a module offers."""
    body = ast.parse(path.read_text("utf-8")).body
    named = (node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef))
    return {name for name in named if not name.startswith("_")} - ENTRY


def read_first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]


def test_public_names_stand_once() -> None:
    places = defaultdict(list)
    for path in MODULES:
        for name in find_public_names(path):
            places[name].append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_first_line_says_what_a_module_is(path: Path) -> None:
    line = read_first_line(path)
    assert len(line) > 15
    assert not COSTUME.search(line), line


def test_every_room_lies_one_level_deep() -> None:
    depths = {len(path.relative_to(ROOT).parts) for path in MODULES}
    assert depths <= {2, 3}
