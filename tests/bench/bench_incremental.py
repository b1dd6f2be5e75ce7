"""What running again costs after each kind of change, as a share of the full run on the same folder in the same run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_table import Figure
from photographs import SETTINGS as PHOTOGRAPHS
from photographs import collect_photos, copy_photos
from subject import Home, open_home
from tiny_files import make_patterns
from workbench import Workbench, list_files, tell

SETTINGS = ("image.size=[48,48]",)
FULL = "full run"


def measure(bench: Workbench) -> list[Figure]:
    """Tiny files, where what is done for each file weighs most; photographs, which are what is run every night."""
    return [*measure_tiny(bench), *([] if bench.quick else measure_photographs(bench))]


def measure_photographs(bench: Workbench) -> list[Figure]:
    """The full run on photographs of about 100 KB, then nothing changed, then new ones."""
    count = 100_000 if bench.full else 20_000
    found = [Path(path) for path in list_files(bench.photographs)]
    new = range(count, count + count // 100)
    with bench.fresh("photographs") as scratch, open_home(Path(scratch, "home")) as home:
        source, workspace = Path(scratch, "source"), Path(scratch, "workspace")
        tell(f"copying {count:,} photographs")
        collect_photos(bench.photographs, source, count)
        full = run(home, source, workspace, *PHOTOGRAPHS)
        same = run(home, source, workspace, *PHOTOGRAPHS)
        copy_photos(found, source, new)
        more = run(home, source, workspace, *PHOTOGRAPHS)
    rows = (("nothing changed, photographs", same), ("1 % new photographs", more))
    return [compare(name, answer, full["seconds"], "< 0.05", count) for name, answer in rows]


def measure_tiny(bench: Workbench) -> list[Figure]:
    """The full run before and after, and between them: nothing changed, new files, moved ones, a class renamed."""
    count = 2_000 if bench.quick else 100_000
    with bench.fresh("incremental") as scratch, open_home(Path(scratch, "home")) as home:
        source, workspace = Path(scratch, "source"), Path(scratch, "workspace")
        tell(f"making {count:,} files")
        make_patterns(source, range(count), bench.processes)
        first = run(home, source, Path(scratch, "first"), *SETTINGS)  # the server's and the decoder's caches
        before = run(home, source, workspace, *SETTINGS)
        answers = []
        for name, target, change in steps(bench, count):
            change(source)
            answers.append((name, target, run(home, source, workspace, *SETTINGS)))
        augmented = run(home, source, workspace, *SETTINGS, "augment.copies=1")
        fresh = run(home, source, Path(scratch, "again"), *SETTINGS, "augment.copies=1")
    full = (first["seconds"] + before["seconds"]) / 2
    figures = [compare(name, answer, full, target, count) for name, target, answer in answers]
    moved = next(answer for name, _, answer in answers if name.startswith("all files moved"))
    built, all_built = moved["shards"]["built"], before["shards"]["built"]
    figures.append(Figure("all files moved: shards built", built, "shards", FULL, all_built, "<= 0"))
    figures.append(Figure("augmentation changed", augmented["seconds"], "s", f"{FULL} with it", fresh["seconds"]))
    return figures


def steps(bench: Workbench, count: int) -> list[tuple[str, str, Callable[[Path], None]]]:
    """(name, target, what changes the source) of each run, in their order."""
    new = range(count, count + max(1, count // 100))
    return [
        ("nothing changed", "< 0.05", lambda source: None),
        ("1 % new files", "< 0.05", lambda source: make_patterns(source, new, bench.processes)),
        ("all files moved to other names", "", move_files),
        ("one class folder of ten renamed", "", rename_class),
    ]


def compare(name: str, answer: dict[str, Any], full: float, target: str, count: int) -> Figure:
    """Seconds of a run beside those of the full run."""
    note = f"{count:,} files, {answer['shards']['built']} shards built"
    return Figure(name, answer["seconds"], "s", FULL, full, target, note=note)


def run(home: Home, source: Path, workspace: Path, *settings: str) -> dict[str, Any]:
    """The answer of one preparation."""
    tell(f"prepare {workspace.name} {' '.join(settings)}")
    return home.prepare(str(source), workspace, *settings)


def move_files(source: Path) -> None:
    """Give every file another name, in another folder of its class."""
    for path in sorted(source.rglob("*.jpg")):
        folder = path.parent.with_name(f"{path.parent.name}-moved")
        folder.mkdir(exist_ok=True)
        path.rename(folder / f"moved-{path.name}")


def rename_class(source: Path) -> None:
    """Give one class another name, which sorts last, so that the numbers of other classes change too."""
    (source / "class-3").rename(source / "class-x")
