"""The N-th request to an S3 source goes wrong: no file gets other bytes, and the next run makes good what was lost."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import TALLY, is_fit
from faulty_s3 import BUCKET, Fault, Memory, reach_faulty_s3
from steps import make_job, prepare, rows_of, run_job, write_photos

from cnn.dataset.manifest import Manifest
from cnn.errors import SafelightError

SOURCE = f"s3://{BUCKET}/in"
KINDS = [
    "500 InternalError",
    "503 SlowDown",
    "403 AccessDenied",
    "404 NoSuchKey",
    "302 Found",
    "reset",
    "lost",
    "cut",
    "slow",
]
FILES = 12


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    with reach_faulty_s3(monkeypatch) as memory:
        yield memory


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_photos(tmp_path_factory.mktemp("photos"), FILES)
    pictures = {f"in/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*.png")}
    return {**pictures, "login": b"<html>Who are you?</html>"}  # where the server that is not ours sends everyone


def try_every(memory: Memory, files: dict[str, bytes], folder: Path, kind: str, step: int) -> int:
    """Let every `step`-th request of a preparation go wrong; returns how many runs that was."""
    memory.reset(files, Fault())
    _, wanted = prepare(SOURCE, folder / "wanted", budget=1.0)
    asked, numbers = memory.passed, range(1, memory.passed + 1, step)
    assert asked > FILES
    for number in numbers:
        work = folder / f"{kind[:3]}-{number}"
        memory.reset(files, Fault(number, kind))
        told, manifest = "", None
        try:
            manifest = run_job(make_job(SOURCE, work, budget=1.0), workers=None).manifest
        except SafelightError as error:
            told = str(error)
        if manifest is None:
            assert is_fit(told), told
            TALLY[f"S3 source: {kind}", "told"] += 1
        else:
            assert memory.passed >= number
            for path, row in rows_of(work, manifest).items():
                expected = hashlib.sha256(files[f"in/{path}"]).hexdigest()
                assert row["digest"] == (None if row["outcome"] == "quarantined" else expected), row
            TALLY[f"S3 source: {kind}", "absorbed"] += 1
        TALLY[f"S3 source: {kind}", "injected"] += 1
        memory.reset(files, Fault())
        _, again = prepare(SOURCE, work, budget=1.0)
        if manifest is None or not manifest.outcomes["quarantined"]:
            assert again.digest == wanted.digest
        else:  # a version was published without that image: what its class's splits came to then stays
            assert pictures_of(work, again) == pictures_of(folder / "wanted", wanted)
    return len(numbers)


def pictures_of(work: Path, manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """Path → digest, label and outcome of every file of a version."""
    rows = rows_of(work, manifest).items()
    return {path: tuple(str(row[name]) for name in ("digest", "label", "outcome")) for path, row in rows}


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_every_request_to_a_source_goes_wrong_in_turn(
    memory: Memory, files: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    assert try_every(memory, files, tmp_path, kind, 1) > FILES


@pytest.mark.parametrize("kind", KINDS)
def test_some_requests_to_a_source_go_wrong(memory: Memory, files: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    assert try_every(memory, files, tmp_path, kind, 4) > 2
