"""The notice that lies in place of a model whose files were removed."""

from pathlib import Path

from cnn.errors import RegistryError

NOTICE = "removed.txt"


def refuse_removed(folder: Path) -> None:
    """Raise RegistryError with the notice in a model's folder, if there is one."""
    try:
        line = (folder / NOTICE).read_text("utf-8").strip()
    except (OSError, ValueError):
        return
    raise RegistryError(line)
