"""What our own source never does: unpickle, run text as code, read YAML, unpack archives, leave out escaping."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from modules import MODULES, ROOT

# Modules that turn bytes into objects or code, and those that unpack what others packed.
BANNED = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "tarfile", "code"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
LOADERS = {
    "unpack_archive",
    "extractall",
    "ZipFile",
    "read_pickle",
    "to_pickle",
    "load_model",
    "unsafe_load",
    "full_load",
}


def find_faults(source: str) -> list[str]:
    """What a module does that it must not, as "line: what"."""
    return [f"{line}: {what}" for node in ast.walk(ast.parse(source)) for line, what in judge(node)]


def judge(node: ast.AST) -> Iterator[tuple[int, str]]:
    """The faults of one node of the syntax tree."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names]
        origins = names if isinstance(node, ast.Import) else [node.module or "", *names]
        yield from ((node.lineno, f"imports {name}") for name in origins if name.partition(".")[0] in BANNED | LOADERS)
    elif isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Name) and called.id in BUILTINS | LOADERS:
            yield node.lineno, f"calls {called.id}"
        if isinstance(called, ast.Attribute) and called.attr in LOADERS | {"__import__"}:
            yield node.lineno, f"calls {called.attr}"
        given = {word.arg: word.value for word in node.keywords}
        yield from judge_words(node.lineno, given)
        if is_numpy_load(called) and "allow_pickle" not in given:
            yield node.lineno, "leaves allow_pickle to NumPy"


def judge_words(line: int, given: dict[str | None, ast.expr]) -> Iterator[tuple[int, str]]:
    """Faults in the keywords of a call; what is not written out as a constant cannot be judged, and counts as one."""
    for name, wanted in {"allow_pickle": False, "shell": False, "autoescape": True, "safe_mode": True}.items():
        value = given.get(name)
        if value is not None and not (isinstance(value, ast.Constant) and value.value is wanted):
            yield line, f"{name} is not {wanted}"


def is_numpy_load(called: ast.expr) -> bool:
    """Whether `np.load` is called."""
    return (
        isinstance(called, ast.Attribute)
        and called.attr == "load"
        and isinstance(called.value, ast.Name)
        and called.value.id in ("np", "numpy")
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_turns_bytes_into_code(path: Path) -> None:
    assert find_faults(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, pickle as p",
        "from pickle import loads",
        "def f():\n    from joblib.memory import x",
        "import yaml",
        "zipfile.ZipFile(path)",
        "from tarfile import open",
        "eval('1')",
        "exec(text)",
        "__import__('pickle')",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "shutil.unpack_archive(path)",
        "from shutil import unpack_archive",
        "pd.read_pickle(path)",
        "keras.models.load_model(path)",
        "Environment(autoescape=False)",
        "subprocess.run(text, shell=True)",
        "importlib.__import__(name)",
    ],
)
def test_each_fault_is_seen(source: str) -> None:
    assert len(find_faults(source)) == 1


def test_what_is_allowed_is_no_fault() -> None:
    allowed = "import json, re\nre.compile('x')\njson.load(file)\nnp.load(path, allow_pickle=False)\nload_weights(path)"
    assert find_faults(allowed) == []
    assert len(MODULES) > 60


def test_markup_is_never_marked_as_safe() -> None:
    for template in (ROOT / "tasks").rglob("*.html"):
        text = template.read_text("utf-8")
        assert "|safe" not in text.replace(" ", "")
        assert "autoescape" not in text
        assert "<script" not in text
