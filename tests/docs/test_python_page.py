"""docs/python.md: each snippet runs, in the order of the page, on a dataset that is there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from champions import write_champion
from image_folders import write_image_folder
from registries import open_registry, register
from steps import prepare, write_photos

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/python.md").read_text()
DATASET = "photos-0123456789ab"  # what the page puts for the name of a dataset
Names = dict[str, Any]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """The names that snippets share; they run beside a workspace with a dataset."""
    monkeypatch.chdir(tmp_path)
    _, manifest = prepare(write_photos(Path("photos")), Path("workspace"))
    shared: Names = {}
    run_section(PAGE.split("\n## ")[0], shared)
    assert shared["dataset"] == DATASET
    shared["dataset"] = manifest.dataset
    yield shared
    shared.clear()  # maps of shards


def run_snippets(heading: str, names: Names) -> None:
    """Run what stands under a heading of the page."""
    run_section(read_section(heading), names)


def run_section(text: str, names: Names) -> None:
    """Run the snippets of a piece of the page."""
    for snippet in read_snippets(text):
        exec(compile(snippet, "docs/python.md", "exec"), names)  # noqa: S102 - the page is this project's own


def read_section(heading: str) -> str:
    """What stands under a heading of the page."""
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def read_snippets(text: str) -> list[str]:
    """The snippets of a piece of the page."""
    snippets = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert snippets
    return snippets


def test_the_names_that_snippets_import_are_there() -> None:
    imports = re.findall(r"^from ((?:cnn|infra|tasks|flows)[\w.]*) import (.+)$", PAGE, re.MULTILINE)
    assert len(imports) > 5
    for module, imported in imports:
        text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        for name in imported.split(", "):
            assert re.search(rf"^(?:def|class) {name}\b", text, re.MULTILINE), f"{module}: {name}"


@pytest.mark.integration
@pytest.mark.long
def test_a_flow_is_called(tmp_path: Path, prefect_server: str) -> None:
    write_image_folder(tmp_path / "photos")
    page = [PAGE.split("\n## ")[0], read_section("Call a flow"), read_section("Read a dataset with NumPy")]
    program = "\n".join(snippet for section in page for snippet in read_snippets(section))
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"photos-[0-9a-f]{12} \{'train': \d+, .*\}", first)
    assert re.fullmatch(r"\(\d+, 32, 32, 3\) uint8 (cat|dog)", second)


def test_a_dataset_is_read_with_numpy(names: Names, capsys: pytest.CaptureFixture[str]) -> None:
    run_snippets("Read a dataset with NumPy", names)
    assert len(names["images"]) == names["manifest"].images["train"]
    assert capsys.readouterr().out.startswith(f"{names['images'].shape} uint8 ")


def test_a_dataset_is_read_with_tf_data(names: Names) -> None:
    run_snippets("Read a dataset with NumPy", names)
    expected = sum_by_label(names["images"], names["labels"])
    run_snippets("tf.data", names)
    assert sum_by_label(names["images"].numpy(), names["labels"].numpy()) == expected


def test_a_dataset_is_read_with_pytorch(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "torch.utils", "torch.utils.data"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules["torch.utils.data"], "IterableDataset", object, raising=False)
    monkeypatch.setattr(sys.modules["torch.utils.data"], "DataLoader", load_unchanged, raising=False)
    run_snippets("Read a dataset with NumPy", names)
    expected = sum_by_label(names["images"], names["labels"])
    run_snippets("PyTorch", names)
    images = names["images"]
    assert images.shape[1:] == (3, 8, 8)
    assert images.flags.c_contiguous  # as torch.as_tensor wants it
    assert sum_by_label(images, names["labels"]) == expected
    batches = names["Split"](names["manifest"], "train", "workspace", batch_size=4)
    orders = [np.concatenate([labels for _, labels in batches]).tolist() for _ in range(2)]
    assert orders[0] != orders[1]  # each epoch in an order of its own
    assert sorted(orders[0]) == sorted(orders[1])


def test_a_ledger_is_read_with_pandas(names: Names, capsys: pytest.CaptureFixture[str]) -> None:
    run_snippets("Read a dataset with NumPy", names)
    run_snippets("pandas", names)
    assert len(names["ledger"]) == 60
    assert "train" in capsys.readouterr().out


def test_a_ledger_is_asked_with_duckdb(names: Names) -> None:
    run_snippets("DuckDB", names)
    assert sum(count for *_, count in names["rows"].fetchall()) == 60


def test_a_champion_is_loaded(names: Names, capsys: pytest.CaptureFixture[str]) -> None:
    import mlflow

    with open_registry(Path("workspace").resolve()) as registry:
        register(registry, "birds", write_champion(Path("bundle")))
        registry.move_champion("birds", 1, "the first", "a test", datetime.now(UTC))
    shutil.copy("photos/owl/02.png", "owl.jpg")  # bytes decide, not the name
    names["Path"] = Path
    try:
        run_snippets("Load a champion", names)
    finally:
        # It is a variable of the environment too, and would be that of every later test.
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert re.search(r"0 +(blue|green|red) +0\.\d+ .* ok ", capsys.readouterr().out)


def test_transforms_of_your_own_are_a_setting(names: Names, capsys: pytest.CaptureFixture[str]) -> None:
    names["Path"] = Path
    run_snippets("Augment with transforms of your own", names)
    assert "Compose" in capsys.readouterr().out
    own = names["compose_transforms"](names["config"].augment)
    assert [type(step).__name__ for step in own] == ["HorizontalFlip", "GaussianBlur"]


def load_unchanged(dataset: Any, batch_size: int | None) -> Any:
    """In the place of DataLoader, which makes tensors of the arrays."""
    assert batch_size is None
    return dataset


def sum_by_label(images: Any, labels: Any) -> dict[int, int]:
    """label → the sum over all pixels of its images: the same in any order of images and channels."""
    return {label: int(images[labels == label].sum(dtype=np.int64)) for label in sorted(set(labels.tolist()))}
