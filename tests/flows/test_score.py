"""What a person is told of the version that scores: a promise of its training that this scoring does not make."""

from typing import Any

import pytest

import flows.score
from flows.config import load_config
from flows.score import FetchedChampion, choose_rule
from infra.registry.versions import PROMISE, PROMISE_BY, read_version


def read_promise(**tags: str) -> tuple[str, ...]:
    facts = {"name": "m", "version": 1, "tags": tags, "creation_timestamp": 0, "run_id": "r", "source": "x"}
    return read_version(type("Entry", (), facts), {}).promise


def tell(monkeypatch: pytest.MonkeyPatch, promise: tuple[str, ...], *settings: str) -> list[str]:
    said = list[str]()
    monkeypatch.setattr(flows.score, "log_message", said.append)
    monkeypatch.setattr(flows.score, "add_promise", lambda rule, *_: rule)
    monkeypatch.setattr(flows.score, "add_unknown", lambda rule, *_: (rule, ""))
    absent: Any = None
    model: Any = type("Model", (), {"classes": ()})
    choose_rule(absent, FetchedChampion(model, absent, None, promise), load_config(None, list(settings)))
    return said


def test_the_promise_of_a_training_is_read_from_its_tags() -> None:
    assert read_promise() == ()
    assert read_promise(**{PROMISE: "0.98", PROMISE_BY: "all"}) == ("score.promise=0.98",)
    by_class = read_promise(**{PROMISE: "0.9999999", PROMISE_BY: "class"})
    assert by_class == ("score.promise=0.9999999", "score.promise_by=class")
    load_config(None, list(by_class))  # as it is told, so it can be set
    assert read_promise(**{PROMISE: "edited"}) == ()


def test_a_promise_that_this_scoring_does_not_make_is_told_with_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    promise = ("score.promise=0.9", "score.promise_by=class")
    (line,) = tell(monkeypatch, promise)
    assert line.endswith("this scoring does not: add --set score.promise=0.9 --set score.promise_by=class")
    assert tell(monkeypatch, promise, "score.promise=0.95") == []
    assert tell(monkeypatch, promise, "score.precision=int8") == []  # which can promise nothing
    assert tell(monkeypatch, ()) == []
