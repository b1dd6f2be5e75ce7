"""The settings of a version that is made again: those of its day, whatever has become the default since."""

from types import SimpleNamespace
from typing import Any

import pytest

from cnn.images.spec import ImageSpec
from flows.config import Config
from flows.reproduce import list_circumstances, promises_bits, read_settings
from infra.machine.environment import describe_machine, describe_software
from tasks.train.record import TrainingRecord


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        ({}, "ignore"),  # of a release that looked for no copies unless it was told to
        ({"split": {"test": 0.2}}, "ignore"),
        ({"split": {"copies": "together"}}, "together"),
        (Config().dump_parameters(), "auto"),
    ],
)
def test_a_record_says_which_copies_were_kept_together(settings: dict[str, Any], copies: str) -> None:
    facts: dict[str, Any] = {"settings": settings, "dataset": SimpleNamespace(image=ImageSpec(size=(64, 48)))}
    config = read_settings(TrainingRecord.model_construct(None, **facts))
    assert config.split.copies == copies
    assert config.image.size == (64, 48)


@pytest.mark.parametrize(
    ("then", "line"),
    [
        ({"packages": {}}, "and "),
        ({"python": "3.10.1"}, "(then 3.10.1)"),
        ({"lock_digest": "0" * 64}, "the lock file is another one"),
        ({"commit": "c" * 40}, "Safelight's code was that of commit cccccccccccc"),
        ({"commit": "c" * 40, "commit_changed": True}, "cccccccccccc, with changes that were not committed"),
    ],
)
def test_what_is_otherwise_than_it_was_is_told_and_promises_no_equal_bits(then: dict[str, Any], line: str) -> None:
    plan, here = SimpleNamespace(deterministic=True), describe_machine()
    record: Any = SimpleNamespace(plan=plan, resumed_at=(), machine=here, software=describe_software())
    job: Any = SimpleNamespace(record=record, version=SimpleNamespace(has_files=True))
    assert (list_circumstances(job), promises_bits(record)) == ([], True)
    record.software = record.software.model_copy(update=then)
    assert any(line in told for told in list_circumstances(job))
    assert promises_bits(record) is ("lock_digest" in then)  # the packages that are installed count, not the file
