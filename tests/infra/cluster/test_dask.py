"""Chunks run on workers as in a loop; workers are quiet, on loopback, and never outlive what started them."""

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import infra.cluster.dask
from cnn.errors import BadImage, ConfigError, IntegrityError, SafelightError, ServerError
from infra.cluster.address import check_address
from infra.cluster.dask import IN_FLIGHT, Cluster, open_cluster, run_chunks
from infra.cluster.spec import ClusterSpec
from infra.cluster.threads import MOST_THREADS


def double(number: int) -> int:
    return 2 * number


def fail_at(item: int, culprit: int) -> int:
    if item == culprit:
        raise IntegrityError(f"shard {item} is damaged; delete it")
    return item


def fail_badly(item: int) -> None:
    raise BadImage("truncated", f"at {item}")


def describe_worker(item: int) -> dict[str, Any]:
    heavy = ("prefect", "tensorflow", "mlflow", "keras", "boto3")
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    own = psutil.Process().net_connections("inet")
    listening = [place.laddr.ip for place in own if place.status == psutil.CONN_LISTEN]
    return {"heavy": [name for name in heavy if name in sys.modules], "threads": threads, "listening": listening}


def meet(item: int, folder: str) -> int:
    """The process that works on this item, once the other one of 0 and 1 is worked on too."""
    Path(folder, str(item)).touch()
    until = time.monotonic() + 60
    while not Path(folder, str(1 - item)).exists() and time.monotonic() < until:
        threading.Event().wait(0.01)
    if not Path(folder, str(1 - item)).exists():
        raise TimeoutError(f"item {item} was alone")
    return os.getpid()


def die_once(item: int, folder: str) -> int:
    """Every third item kills its worker the first time it is tried."""
    mark = Path(folder, str(item))
    if item % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def die(item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def workers() -> Iterator[Cluster]:
    with open_cluster(ClusterSpec(workers=2)) as cluster:
        yield cluster


@pytest.fixture(params=["in a loop", "in threads", "on workers"])
def run(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`run_chunks` where the parameter says."""
    if request.param == "in a loop":
        return functools.partial(run_chunks, Cluster(0))
    if request.param == "in threads":
        return functools.partial(run_chunks, Cluster(0), isolate=keep)
    return functools.partial(run_chunks, request.getfixturevalue("workers"))


def keep(item: int) -> int:
    """A isolate for items that need none."""
    return item


def test_every_item_gives_one_result(run: Callable[..., None]) -> None:
    results: list[int] = []
    run(double, range(50), results.append)
    assert sorted(results) == [2 * number for number in range(50)]
    run(double, [], results.append)
    assert len(results) == 50


def test_items_are_taken_as_they_are_needed(run: Callable[..., None]) -> None:
    taken, done, most = 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal taken, most
        for number in range(40):
            taken += 1
            most = max(most, taken - done)
            yield number

    def note(result: int) -> None:
        nonlocal done
        done += 1

    run(double, items(), note)
    assert (taken, done) == (40, 40)
    assert most <= max(2 * IN_FLIGHT, MOST_THREADS + 1) + 1  # of two workers, or of threads


def test_the_first_fault_comes_back_as_it_was_and_ends_the_rest(run: Callable[..., None]) -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with pytest.raises(IntegrityError, match=r"^shard 7 is damaged; delete it$"):
        run(functools.partial(fail_at, culprit=7), items(), lambda result: None)
    assert len(taken) < 100
    with pytest.raises(BadImage) as caught:
        run(fail_badly, [3], lambda result: None)
    assert (caught.value.reason, caught.value.detail) == ("truncated", "at 3")


def test_a_fault_of_the_receiver_ends_the_rest_too(run: Callable[..., None]) -> None:
    results: list[int] = []

    def refuse(result: int) -> None:
        results.append(result)
        raise KeyError(result)

    with pytest.raises(KeyError):
        run(double, range(100), refuse)
    assert len(results) == 1
    run(double, [4], results.append)  # the workers go on as if nothing had been
    assert results[1:] == [8]


def test_workers_are_light_and_on_loopback_and_libraries_take_one_thread(workers: Cluster) -> None:
    found: list[dict[str, Any]] = []
    run_chunks(workers, describe_worker, range(4), found.append)
    assert workers.workers == 2
    assert [facts["heavy"] for facts in found] == [[]] * 4
    assert {value for facts in found for value in facts["threads"].values()} == {"1"}
    assert {place for facts in found for place in facts["listening"]} == {"127.0.0.1"}
    assert set(describe_worker(0)["listening"]) == {"127.0.0.1"}  # the scheduler is in this process


def test_a_worker_process_works_on_two_items_at_a_time(tmp_path: Path) -> None:
    found: list[int] = []
    with open_cluster(ClusterSpec(workers=1)) as cluster:
        run_chunks(cluster, functools.partial(meet, folder=str(tmp_path)), range(2), found.append)
        assert cluster.workers == 1
    assert len(set(found)) == 1


def test_workers_that_die_are_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    results: list[int] = []
    with open_cluster(ClusterSpec(workers=2)) as cluster:
        run_chunks(cluster, functools.partial(die_once, folder=str(tmp_path)), range(7), results.append)
    assert sorted(results) == list(range(7))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "3", "6"]


def test_a_chunk_that_always_kills_its_worker_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.cluster.dask, "MOST_RETURNS", 0)
    with (
        open_cluster(ClusterSpec(workers=1)) as cluster,
        pytest.raises(SafelightError, match=r"died 2 times over the same chunk.*lower chunk.files") as caught,
    ):
        run_chunks(cluster, die, [1], lambda result: None)
    assert "\n" not in str(caught.value)


# --- schedulers elsewhere --------------------------------------------------------------------------------------------


def test_a_scheduler_by_address_is_used_and_left_running(workers: Cluster) -> None:
    assert workers.client is not None
    results: list[int] = []
    for _ in range(2):
        with open_cluster(ClusterSpec(address=workers.client.scheduler.address)) as cluster:
            assert cluster.workers == 2
            run_chunks(cluster, double, range(5), results.append)
    assert sorted(results) == sorted([0, 2, 4, 6, 8] * 2)


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    monkeypatch.setattr(infra.cluster.dask, "CONNECT_SECONDS", 0.5)
    message = f"no Dask scheduler answers at tcp://127.0.0.1:{unused_port}"
    with pytest.raises(ServerError, match=message), open_cluster(ClusterSpec(address=f"127.0.0.1:{unused_port}")):
        pass


def test_a_scheduler_without_workers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(infra.cluster.dask, "CONNECT_SECONDS", 0.5)
    options = {"dashboard_address": None, "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}}
    with LocalCluster(n_workers=0, host="127.0.0.1", **options) as empty:  # type: ignore[no-untyped-call]
        address = ClusterSpec(address=empty.scheduler_address)
        with pytest.raises(ServerError, match="has no workers; start some for it"), open_cluster(address):
            pass


@pytest.mark.parametrize(
    ("address", "full"),
    [
        ("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786"),
        ("127.0.0.1:8786", "tcp://127.0.0.1:8786"),
        ("localhost:8786", "tcp://localhost:8786"),
        ("tcp://[::1]:8786", "tcp://[::1]:8786"),
        ("tcp://127.9.9.9:1", "tcp://127.9.9.9:1"),
        ("tls://scheduler.example:8786", "tls://scheduler.example:8786"),
    ],
)
def test_encrypted_and_loopback_addresses_are_taken(address: str, full: str) -> None:
    assert check_address(address) == full


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:8786", "scheduler:8786", "tcp://0.0.0.0:8786", "127.0.0.1.evil.example:8786", "[::]:1"]
)
def test_plain_tcp_elsewhere_needs_a_word_of_trust(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"use tls://, or, .* set SAFELIGHT_TRUST_PLAIN_TCP=1 in the environment"):
        check_address(address)
    monkeypatch.setenv("SAFELIGHT_TRUST_PLAIN_TCP", "1")
    assert check_address(address).startswith("tcp://")


@pytest.mark.parametrize("address", ["", "http://h:1", "inproc://1/2/3", "tcp://host", "tls://h:x", "ucx://h:1", "//"])
def test_what_is_no_address_is_refused_even_with_trust(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_TRUST_PLAIN_TCP", "1")
    with pytest.raises(ConfigError, match=r"write tls://host:port or tcp://127\.0\.0\.1:port"):
        check_address(address)


def test_a_cluster_opens_outside_of_the_main_thread() -> None:
    """Prefect runs tasks in threads."""
    results: list[int] = []

    def work() -> None:
        with open_cluster(ClusterSpec(workers=1)) as cluster:
            run_chunks(cluster, double, range(3), results.append)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert sorted(results) == [0, 2, 4]
