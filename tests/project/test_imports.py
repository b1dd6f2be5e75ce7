"""What importing a module costs: no training framework and no server client where nobody asked for one."""

import json
import subprocess
import sys

import pytest
from modules import MODULES, ROOT

HEAVY = ("tensorflow", "keras", "mlflow", "prefect", "tf2onnx", "torch", "jax")
COMMAND_LINE = ("flows.cli.main", "flows.cli.console", "flows.cli.start")  # what `safelight --help` imports
SLOW_TO_START = (
    *HEAVY,
    *("albumentations", "boto3", "botocore", "dask", "distributed", "fastapi", "jinja2", "matplotlib", "onnx"),
    *("onnxruntime", "pandas", "pyarrow", "scipy", "sklearn", "sqlalchemy"),
)

# Imports modules one after the other, in a process where the forbidden libraries cannot be imported. Asking for one is
# written down even where a library would go on without it: in an environment that has it, it would be loaded.
PROBE = """
import importlib, json, sys
modules, forbidden = json.loads(sys.argv[1])
asked = []
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            asked.append(name)
            raise ImportError(f"{name} is not for this module")
sys.meta_path.insert(0, Guard())
found = {}
for module in modules:
    asked.clear()
    try:
        importlib.import_module(module)
    except ImportError as error:
        found[module] = [*asked] or [f"{type(error).__name__}: {error}"]
    else:
        found[module] = [*asked]
print(json.dumps(found))
"""


def list_modules() -> list[str]:
    """Every module of the product, by its import name."""
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES)
    return [name.removesuffix(".__init__") for name in names]


def probe_imports(modules: list[str], forbidden: tuple[str, ...]) -> dict[str, list[str]]:
    """For each module the forbidden names that its import asks for."""
    command = [sys.executable, "-c", PROBE, json.dumps([modules, forbidden])]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    found: dict[str, list[str]] = json.loads(answer.stdout.splitlines()[-1])
    return found


FLOWS = [name for name in list_modules() if name.startswith("flows.") and name not in COMMAND_LINE]
OTHERS = [name for name in list_modules() if name not in FLOWS]


@pytest.fixture(scope="module")
def asked_for() -> dict[str, list[str]]:
    beside_prefect = tuple(name for name in HEAVY if name != "prefect")
    return probe_imports(OTHERS, HEAVY) | probe_imports(FLOWS, beside_prefect)


@pytest.mark.parametrize("module", [*OTHERS, *FLOWS])
def test_importing_it_loads_no_framework(module: str, asked_for: dict[str, list[str]]) -> None:
    assert asked_for[module] == []


@pytest.mark.parametrize("module", COMMAND_LINE)
def test_the_command_line_starts_light(module: str) -> None:
    assert probe_imports([module], SLOW_TO_START)[module] == []


def test_the_probe_sees_an_import() -> None:
    assert probe_imports(["mlflow.version"], HEAVY)["mlflow.version"] != []
