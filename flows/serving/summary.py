"""One line of what a scheduled run came to, such as "version 4, 0.912 (+0.004), champion"."""

import re
from collections.abc import Mapping, Sequence
from typing import Any


def describe_answer(flow: str, answer: Mapping[str, Any]) -> str:
    """What a run of `retrain`, `score` or `gc` came to; of one that failed, its fault."""
    if "error" in answer:
        return f"failed: {answer['error']}"
    if flow == "gc":
        return f"{answer['files']:,} files removed, {answer['bytes'] / 1e6:,.1f} MB"
    return describe_training(answer) if flow == "retrain" else describe_scoring(answer)


def describe_training(answer: Mapping[str, Any]) -> str:
    """The version, its accuracy, how much better than the champion on the same images, and what the gate made of it."""
    reasons = answer["gate"]["reasons"]
    if not answer["trained"]:
        return f"nothing has changed since version {answer['version']} ({answer['alias'] or 'no alias'})"
    parts = [f"version {answer['version']}"]
    if (accuracy := answer["metrics"].get("accuracy")) is not None:
        change = read_difference(reasons)
        parts.append(f"{accuracy:.3f}" + ("" if change is None else f" ({change:+.3f})"))
    parts.append(answer["alias"] or "no alias")
    word = {"promote": "", "keep": "champion kept"}.get(answer["gate"]["verdict"], "held")
    return ", ".join(parts) + (f"; {word}: {reasons[0]}" if word and reasons else "")


def describe_scoring(answer: Mapping[str, Any]) -> str:
    """How many images were scored now, how many of all of them a person is to look at, and where the report lies."""
    decisions, quarantined = answer["decisions"], answer["outcomes"].get("quarantined", 0)
    others = {"unknown": decisions.get("unknown", 0), "quarantined": quarantined}
    images = answer["outcomes"].get("ok", 0)
    parts = [f"{answer['scored']:,} new", f"{decisions.get('review', 0):,} of {images:,} to review"]
    parts += [f"{count:,} {name}" for name, count in others.items() if count]
    return ", ".join([*parts, f"report {answer['report']}"])


def read_difference(reasons: Sequence[str]) -> float | None:
    """How much more accurate than the champion the gate found the version, from its reasons; None without a champion.

    The two were compared on the same images: the difference of the two versions' own figures would be another number.
    """
    text = " ".join(reasons)
    if found := re.search(r"(more|less) accurate than the champion by ([\d.]+) points", text):
        return float(found[2]) / (100 if found[1] == "more" else -100)
    return 0.0 if "as accurate as the champion" in text else None
