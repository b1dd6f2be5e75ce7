"""A bar that fits its terminal; without one, lines now and then and one at the end."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

import flows.progress
from flows.progress import Stage, describe_speed, describe_time, show_stage


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(flows.progress, "monotonic", clock)
    return clock


def run(clock: Clock, work: Callable[[Stage], None], unit: str = "images") -> None:
    with show_stage("build", 1000, unit, Console(file=io.StringIO())) as stage:
        work(stage)


def test_without_a_terminal_a_long_stage_says_how_far_it_is(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def work(stage: Stage) -> None:
        for _ in range(10):
            clock.now += 10.0
            stage.advance(100, "2 quarantined", size=5_000_000)

    run(clock, work)
    assert capsys.readouterr().err.splitlines() == [
        "build: 400 of 1,000 images, 10 images/s, 0.5 MB/s, 1 min 0 s left, 2 quarantined",
        "build: 800 of 1,000 images, 10 images/s, 0.5 MB/s, 20 s left, 2 quarantined",
        "build: 1,000 of 1,000 images in 100.0 s, 10 images/s, 0.5 MB/s, 2 quarantined",
    ]


def test_a_stage_that_is_stopped_says_so(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def work(stage: Stage) -> None:
        clock.now += 2.0
        stage.advance(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(clock, work)
    assert capsys.readouterr().err == "build: 10 of 1,000 images in 2.0 s, 5 images/s (stopped)\n"


def test_epochs_have_no_speed_and_no_lines_of_their_own(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def work(stage: Stage) -> None:
        clock.now += 100.0
        stage.advance(1)

    run(clock, work, "epochs")
    assert capsys.readouterr().err == "build: 1 of 1,000 epochs in 100.0 s\n"


@pytest.mark.parametrize(("width", "shown"), [(120, True), (100, True), (60, False)])
def test_the_bar_is_one_line_with_every_figure_whole(clock: Clock, width: int, shown: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    with show_stage("build", 100_000, console=console) as stage:
        clock.now += 5.0
        stage.advance(10_240, "3 quarantined", size=10**9)
    last = [line for line in out.getvalue().splitlines() if "build" in line][-1]
    assert "10240/100000" in last
    assert "3 quarantined" in last
    assert "2,048 images/s" in last
    assert ("200.0 MB/s" in last) == shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in last


def test_speeds_and_times_as_people_read_them() -> None:
    assert describe_speed(0, 0, 1.0) == ""
    assert describe_speed(5, 0, 0.0) == ""
    assert describe_speed(3000, 0, 2.0) == "1,500 images/s"
    assert describe_speed(3000, 25_000_000, 2.0) == "1,500 images/s, 12.5 MB/s"
    assert describe_speed(3000, 80_000, 2.0) == "1,500 images/s"  # not "0.0 MB/s"
    assert [describe_time(seconds) for seconds in (4.4, 59.6, 150, 3900)] == [
        "4 s",
        "1 min 0 s",
        "2 min 30 s",
        "1 h 5 min",
    ]
