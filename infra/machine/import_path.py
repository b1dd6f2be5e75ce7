"""Where Python looks for modules (sys.path, PYTHONPATH): the installation's folders first, the working folder never.

A `random.py` or a `numpy.py` in the folder where a command is run, or in one that PYTHONPATH names, is not what the
libraries mean by these names. Nothing is imported here that could be shadowed: `os` and `sys` are there from the start.
"""

import os
import sys
from collections.abc import Mapping

# Of this project: site-packages, or a checkout.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

NEEDED = (
    "cv2",
    "dask",
    "distributed",
    "keras",
    "mlflow",
    "numpy",
    "PIL",
    "prefect",
    "pyarrow",
    "tensorflow",
    "uvicorn",
)
INSTALLED = (".dist-info", ".egg-info")
CUSTOM = ("sitecustomize.", "usercustomize.")

# What a child does before it imports anything: the same order as that of `order_folders`.
_START = """
import os, sys
root, module = sys.argv[1:3]
del sys.argv[1:3]
given = list(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))
own = [path for path in sys.path if path not in given]
first = [] if root in own else [root]
sys.path[:] = [*first, *own, *(path for path in sys.path if path in given and path != root)]
import runpy
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def order_folders(folders: list[str], environment: Mapping[str, str], here: str | None) -> list[str]:
    """`sys.path` as it should be: those of PYTHONPATH last, the working folder (`here`) gone;
    the project's own stays.

    What PYTHONPATH names may hold packages that are wanted, so it is kept, but what is installed goes before it.
    """
    given = _read_given(environment)
    own = [path for path in folders if path == ROOT or (os.path.isabs(path) and path not in (here, *given))]
    first = [] if ROOT in own else [ROOT]
    return [*first, *own, *(path for path in given if path not in (here, ROOT))]


def secure_import_path() -> None:
    """Put the folders of this process in order, and have the Python processes that it starts find the same.

    Programs of others are among these (Prefect's server, the runs that it starts), and PYTHONPATH goes first in all:
    it keeps only what is no mere folder of scripts.
    """
    sys.path[:] = order_folders(sys.path, os.environ, find_working_folder())
    given = [path for path in _read_given(os.environ) if path in sys.path and _is_wanted(path)]
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ.pop("PYTHONPATH", None)
    if given:
        os.environ["PYTHONPATH"] = os.pathsep.join(given)


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this project as a program, wherever it is called."""
    return [sys.executable, "-P", "-c", _START, ROOT, module, *arguments]


def python_environment() -> dict[str, str]:
    """The environment of a Python process that is no stranger's: no working folder among its folders of modules."""
    here = find_working_folder()
    given = [path for path in _read_given(os.environ) if path != here or path == ROOT]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": os.pathsep.join(given)} if given else {})


def find_working_folder() -> str | None:
    """Where this process is; None where that folder is gone."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _is_wanted(folder: str) -> bool:
    """Whether a folder of PYTHONPATH holds installed packages, this project, a package that it needs, or what is to
    happen at the start of every Python process."""
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    if folder == ROOT or any(name.startswith(CUSTOM) or name.endswith(INSTALLED) for name in names):
        return True
    from importlib.util import find_spec

    origins = (spec.origin or "" for spec in map(find_spec, NEEDED) if spec is not None)
    return any(origin.startswith(folder + os.sep) for origin in origins)


def _read_given(environment: Mapping[str, str]) -> list[str]:
    """The folders of PYTHONPATH; empty and relative ones mean the working folder, whichever that is, and are left."""
    return [
        os.path.abspath(path) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)
    ]
