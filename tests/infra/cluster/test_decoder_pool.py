"""A file that crashes or hangs its decoder costs itself alone, wherever it is decoded."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import built_paths, make_job, plan_job, prepare, rows_of, run_job, write_image, write_photos

import cnn.errors
import infra.cluster.decoder_pool
import infra.cluster.threads
from cnn.errors import BadImage, ConfigError, InstallationError
from cnn.images.decoder import GarbledMessageError, read_message, write_message
from cnn.images.read import read_image
from cnn.images.spec import ImageSpec
from infra.cluster.decoder_pool import DecoderPool, DecodersClosedError
from infra.cluster.spec import ClusterSpec, WorkEstimate
from infra.cluster.workers import open_workers
from tasks.files.decoding import read_limit
from tasks.prepare.build import BuiltChunk
from tasks.prepare.pipeline import build_chunks

SPEC = ImageSpec(size=(8, 8))
# Stands in for decoders with faults: every Python process that is started from here on has it.
FAULTY = """
import os, signal, sys
import PIL.Image
real = PIL.Image.open
def open(stream, *args, **kwargs):
    data = stream.getvalue()
    if data.endswith(b"CRASH"):
        os.write(2, b"free(): invalid pointer\\n")
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith(b"EXITS"):
        raise SystemExit(3)
    if data.endswith(b"KILLED"):
        os.kill(os.getpid(), signal.SIGKILL)
    if data.endswith(b"HANG") and "TOLD_OF_HANGS" in os.environ:
        os.close(os.open(os.environ["TOLD_OF_HANGS"], os.O_WRONLY))  # returns when the test reads there
    while data.endswith(b"HANG"):
        pass
    if data.endswith(b"NOISE"):
        sys.stdout.write("x" * 100_000 + sys.stdin.read())
        sys.stdout.flush()
    if data.endswith(b"ENVIRONMENT"):
        raise OSError(",".join(sorted(os.environ)))
    return real(stream, *args, **kwargs)
PIL.Image.open = open
"""


@pytest.fixture
def faulty_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "faulty"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAULTY)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("SAFELIGHT_DECODE_SECONDS", "2")


@pytest.fixture
def hanging(faulty_decoders: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What returns when a decoder hangs."""
    fifo = tmp_path / "hangs"
    os.mkfifo(fifo)
    monkeypatch.setenv("TOLD_OF_HANGS", str(fifo))
    monkeypatch.setenv("SAFELIGHT_DECODE_SECONDS", "600")
    return lambda: fifo.open("rb").close()


@pytest.fixture
def isolation(faulty_decoders: None) -> Iterator[DecoderPool]:
    apart = DecoderPool()
    yield apart
    apart.close()


def make_picture(tmp_path: Path, end: bytes = b"") -> bytes:
    write_image(tmp_path / "picture.png", 1)
    return (tmp_path / "picture.png").read_bytes() + end


def test_a_good_file_and_a_bad_one_are_as_without_isolation(tmp_path: Path, isolation: DecoderPool) -> None:
    data = make_picture(tmp_path)
    mine, theirs = read_image(data, SPEC), isolation.read(data, SPEC, 60)
    assert mine.pixels.tobytes() == theirs.pixels.tobytes()
    assert (mine.width, mine.height) == (theirs.width, theirs.height) == (16, 20)
    with pytest.raises(BadImage, match=r"^not_an_image$"):
        isolation.read(b"text", SPEC, 60)
    assert isolation.read(data, SPEC, 60).pixels.shape == (8, 8, 3)


def test_a_crash_and_a_hang_are_told_with_their_cause(tmp_path: Path, isolation: DecoderPool) -> None:
    with pytest.raises(BadImage, match=r"^decoder_crashed: SIGSEGV: free\(\): invalid pointer$"):
        isolation.read(make_picture(tmp_path, b"CRASH"), SPEC, 60)
    with pytest.raises(BadImage, match=r"^decoder_timeout: no picture after 0.5 s$"):
        isolation.read(make_picture(tmp_path, b"HANG"), SPEC, 0.5)
    with pytest.raises(BadImage, match=r"^decoder_crashed: status 3$"):
        isolation.read(make_picture(tmp_path, b"EXITS"), SPEC, 60)
    assert isolation.read(make_picture(tmp_path), SPEC, 60).width == 16


def test_what_a_library_prints_and_reads_is_no_answer_and_no_request(tmp_path: Path, isolation: DecoderPool) -> None:
    assert isolation.read(make_picture(tmp_path, b"NOISE"), SPEC, 60).width == 16
    assert isolation.read(make_picture(tmp_path), SPEC, 60).width == 16


def write_frame(facts: bytes, body: bytes) -> bytes:
    stream = io.BytesIO()
    write_message(stream, facts, body)
    return stream.getvalue()


@given(st.binary(max_size=40), st.binary(max_size=40), st.integers(0, 200), st.integers(1, 255), st.integers(0, 40))
def test_what_is_not_a_whole_message_is_none(facts: bytes, body: bytes, place: int, change: int, most: int) -> None:
    """Whatever byte is another one, and wherever the message is cut off."""
    frame = write_frame(facts, body)
    wrong = bytearray(frame)
    wrong[place % len(frame)] ^= change
    for data, limit in ((bytes(wrong), 80), (frame[: place % len(frame)], 80), (frame, most)):
        try:
            found = read_message(io.BytesIO(data), limit)
        except GarbledMessageError:
            continue
        assert found is None or (data, limit) == (frame, most)
        assert found is None or (found == (facts, body) and len(body) <= most)


@given(st.binary(max_size=200))
def test_what_others_write_is_no_message(data: bytes) -> None:
    with suppress(GarbledMessageError):
        assert read_message(io.BytesIO(data)) is None


# Writes into every pipe of the process before the third picture is decoded: the first two prove that it can.
WRITES_BETWEEN = """
import os, sys
import PIL.Image
real, seen = PIL.Image.open, []
def open(*args, **kwargs):
    seen.append(1)
    if len(seen) > 2:
        os.write(int(sys.argv[2]), b"a line from elsewhere, as long as a head")
    return real(*args, **kwargs)
PIL.Image.open = open
"""


def test_an_answer_with_foreign_bytes_in_it_gives_no_pixels(tmp_path: Path, isolation: DecoderPool) -> None:
    (tmp_path / "faulty" / "sitecustomize.py").write_text(WRITES_BETWEEN)
    with pytest.raises(BadImage, match=r"^decoder_crashed: what it answered was no answer$"):
        isolation.read(make_picture(tmp_path), SPEC, 60)


def find_children() -> list[psutil.Process]:
    """Return the running decoders of this process; what ended and was not waited for yet has no command line."""
    alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in alive if "cnn.images.decoder" in one.cmdline()]


def test_a_child_that_somebody_killed_is_replaced(tmp_path: Path, isolation: DecoderPool) -> None:
    data = make_picture(tmp_path)
    isolation.read(data, SPEC, 60)
    (child,) = find_children()
    child.kill()
    assert isolation.read(data, SPEC, 60).width == 16
    isolation.close()
    assert find_children() == []


def test_a_child_that_is_dead_before_it_is_asked_is_replaced(tmp_path: Path, isolation: DecoderPool) -> None:
    """What was written for it, and not read, breaks the pipe a second time when that is closed."""
    data = make_picture(tmp_path)
    isolation.read(data, SPEC, 60)
    (child,) = find_children()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert isolation.read(data, SPEC, 60).width == 16


def test_callers_do_not_wait_for_each_other_and_learn_that_the_decoders_are_closed(
    tmp_path: Path, isolation: DecoderPool, hanging: Callable[[], None]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        try:
            stuck = pool.submit(isolation.read, make_picture(tmp_path, b"HANG"), SPEC, 600)
            hanging()
            assert isolation.read(make_picture(tmp_path), SPEC, 60).width == 16
            assert len(find_children()) == 2
        finally:
            isolation.close()
        with pytest.raises(DecodersClosedError):
            stuck.result()
    assert find_children() == []
    with pytest.raises(DecodersClosedError):
        isolation.read(make_picture(tmp_path), SPEC, 60)


def test_a_child_whose_answer_was_not_taken_gives_no_other_file_its_pixels(
    tmp_path: Path, isolation: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_picture(tmp_path)
    isolation.read(data, SPEC, 60)
    with monkeypatch.context() as patch:
        patch.setattr(infra.cluster.decoder_pool, "read_message", fail_for_memory)
        with pytest.raises(MemoryError):
            isolation.read(data, SPEC, 60)
    write_image(tmp_path / "other.png", 2)
    other = (tmp_path / "other.png").read_bytes()
    assert isolation.read(other, SPEC, 60).pixels.tobytes() == read_image(other, SPEC).pixels.tobytes()


def fail_for_memory(stream: object, most: int) -> None:
    raise MemoryError


def test_a_decoder_that_is_killed_is_no_verdict_on_the_file(tmp_path: Path, isolation: DecoderPool) -> None:
    with pytest.raises(BadImage, match=r"^out_of_memory: its decoder was killed$") as caught:
        isolation.read(make_picture(tmp_path, b"KILLED"), SPEC, 60)
    assert caught.value.is_transient


def test_an_interrupt_ends_small_work_at_once_and_says_nothing_false_of_the_file_at_work(
    tmp_path: Path, hanging: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its decoder is ended too, and has not crashed; what the other thread had finished is kept."""
    monkeypatch.setattr(infra.cluster.threads, "count_cores", lambda: 2)
    source = write_photos(tmp_path / "photos", 3)
    write_image(source / "owl" / "hang.png", 1000)
    with (source / "owl" / "hang.png").open("ab") as file:
        file.write(b"HANG")
    job = make_job(source, tmp_path / "work", files=1, budget=0.5)

    built: list[BuiltChunk] = []

    def interrupt(chunk: BuiltChunk) -> None:
        built.append(chunk)
        hanging()
        raise KeyboardInterrupt

    with open_workers(ClusterSpec()) as workers:
        plan = plan_job(job)
        with pytest.raises(KeyboardInterrupt):
            build_chunks(job, plan, workers.run, interrupt)
        assert find_children() == []
    monkeypatch.delenv("TOLD_OF_HANGS")
    monkeypatch.setenv("SAFELIGHT_DECODE_SECONDS", "2")
    again = run_job(make_job(source, tmp_path / "work", files=1, budget=0.5), workers=None)
    rows = rows_of(tmp_path / "work", again.manifest)
    assert 0 < len(again.plan.todo) <= len(plan.todo) - len(built)
    assert rows["owl/hang.png"]["reason"].startswith("decoder_timeout")


def test_a_decoder_finds_no_credentials(
    tmp_path: Path, isolation: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(BadImage) as caught:
        isolation.read(make_picture(tmp_path, b"ENVIRONMENT"), SPEC, 60)
    assert "AWS" not in caught.value.detail


@pytest.mark.parametrize("given", ["", "soon", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_time_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_DECODE_SECONDS", given)
    with pytest.raises(ConfigError, match="is no time; give seconds"):
        read_limit()


@pytest.mark.parametrize("workers", [pytest.param(None, marks=pytest.mark.long), 2])
def test_the_culprits_alone_are_quarantined_and_asked_again(
    workers: int | None, tmp_path: Path, faulty_decoders: None
) -> None:
    """In small work, which is done without workers, and on workers, which die."""
    source, work = write_photos(tmp_path / "photos"), tmp_path / "work"
    _, good = prepare(source, tmp_path / "good")
    for name, end in (("crash", b"CRASH"), ("hang", b"HANG")):
        write_image(source / "owl" / f"{name}.png", 1000)
        with (source / "owl" / f"{name}.png").open("ab") as file:
            file.write(end)
    manifest = run_job(make_job(source, work, files=70), workers).manifest
    rows = rows_of(work, manifest)
    reasons = {path: row["reason"].split(":")[0] for path, row in rows.items() if row["outcome"] == "quarantined"}
    assert reasons == {"owl/crash.png": "decoder_crashed", "owl/hang.png": "decoder_timeout"}
    assert manifest.digest == good.digest
    again = run_job(make_job(source, work, files=70), workers)
    same = again.manifest
    assert {path.rsplit("/")[-1] for path in built_paths(again.plan)} == {
        "crash.png",
        "hang.png",
    }  # both are asked again
    assert same.digest == good.digest


DIES = """
import os, sys
if len(sys.argv) > 1 and "cnn.images.decoder" in sys.orig_argv:
    print("libjpeg.so.8: cannot open shared object file", file=sys.stderr, flush=True)
    os._exit(127)
"""
CRASHES_ALWAYS = FAULTY.replace('data.endswith(b"CRASH")', 'data[1:4] == b"PNG" and len(data) > 500')


def damage_decoders(tmp_path: Path, code: str) -> None:
    (tmp_path / "faulty" / "sitecustomize.py").write_text(code)


def test_a_decoder_that_dies_before_its_first_answer_says_nothing_of_any_file(
    tmp_path: Path, faulty_decoders: None
) -> None:
    """The same command works once the installation does: no verdict was kept."""
    source, work = write_photos(tmp_path / "photos"), tmp_path / "work"
    damage_decoders(tmp_path, DIES)
    said = r"^no image can be decoded here: .*python.* \(status 127: libjpeg.so.8: cannot open shared object file\);"
    with pytest.raises(InstallationError, match=said):
        run_job(make_job(source, work), workers=None)
    damage_decoders(tmp_path, "")
    manifest = run_job(make_job(source, work), workers=None).manifest
    assert manifest.outcomes["ok"] == 60


@pytest.mark.parametrize("workers", [pytest.param(None, marks=pytest.mark.long), 2])
def test_a_chunk_whose_every_file_crashes_its_decoder_stops_the_run(
    workers: int | None, tmp_path: Path, faulty_decoders: None
) -> None:
    source, work = write_photos(tmp_path / "photos", 6), tmp_path / "work"
    damage_decoders(tmp_path, CRASHES_ALWAYS)
    said = r"^all [3-6] files of a chunk ended their decoders.*\(decoder_crashed: SIGSEGV: free\(\): invalid pointer\)"
    with pytest.raises(InstallationError, match=said):
        run_job(make_job(source, work, files=6), workers)
    damage_decoders(tmp_path, "")
    assert run_job(make_job(source, work, files=6), workers=None).manifest.outcomes["ok"] == 6


@pytest.mark.long
def test_known_culprits_alone_do_not_stop_a_run(tmp_path: Path, faulty_decoders: None) -> None:
    """The second run asks these files and no others: that all of them crash is then no news."""
    source, work = write_photos(tmp_path / "photos"), tmp_path / "work"
    for number in range(4):
        write_image(source / "owl" / f"crash-{number}.png", 1000 + number)
        with (source / "owl" / f"crash-{number}.png").open("ab") as file:
            file.write(b"CRASH")
    manifest = run_job(make_job(source, work, files=70, budget=0.2), workers=None).manifest
    assert manifest.outcomes["quarantined"] == 4
    again = run_job(make_job(source, work, files=70, budget=0.2), workers=None)
    assert again.manifest.digest == manifest.digest
    assert len(built_paths(again.plan)) == 4


def test_verdicts_that_were_kept_for_good_are_asked_again(
    tmp_path: Path, faulty_decoders: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workspaces of earlier versions hold deaths of decoders with the file's digest, as if they were facts of it."""
    source, work = write_photos(tmp_path / "photos"), tmp_path / "work"
    with (source / "owl" / "02.png").open("ab") as file:
        file.write(b"CRASH")
    with monkeypatch.context() as patch:
        patch.setattr(cnn.errors, "TRANSIENT_REASONS", ("out_of_memory",))
        patch.setattr("tasks.prepare.plan.LISTING_RULES", 1)
        row = rows_of(work, run_job(make_job(source, work, files=70), workers=None).manifest)["owl/02.png"]
    assert row["digest"] is not None
    damage_decoders(tmp_path, "")
    rows = rows_of(work, run_job(make_job(source, work, files=70), workers=None).manifest)
    assert rows["owl/02.png"]["outcome"] == "ok"


def test_small_work_is_done_without_workers_unless_they_are_asked_for() -> None:
    seen: list[int] = []
    with open_workers(ClusterSpec()) as workers:
        workers.run(_where, range(3), seen.append, WorkEstimate(3, 0.1))
        assert (workers.start_up, seen) == (0.0, [os.getpid()] * 3)
    with open_workers(ClusterSpec(workers=1)) as workers:
        workers.run(_where, range(3), seen.append, WorkEstimate(3, 0.1))
        assert workers.start_up > 0
    assert os.getpid() not in seen[3:]


def _where(_: int) -> int:
    return os.getpid()


def test_the_child_is_found_where_this_process_found_its_modules() -> None:
    assert str(Path(__file__).parents[2] / "support") in sys.path  # so that what follows shows something
    apart = DecoderPool()
    try:
        with pytest.raises(BadImage, match="empty_file"):
            apart.read(b"", SPEC, 60)
    finally:
        apart.close()
