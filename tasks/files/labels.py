"""Listed files as values, for scoring until it reads the table of `tasks.files.listing`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from infra.storage.entry import Entry
from infra.storage.store import Source
from tasks.files.glob_patterns import compile_patterns
from tasks.files.ignore_rules import EXCLUDED as EXCLUDED
from tasks.files.ignore_rules import classify_paths
from tasks.files.listing import FOLDER_PROBLEMS
from tasks.files.source_checks import refuse_workspace_inside as check_apart  # noqa: F401
from tasks.files.spec import SourceSpec as SourceSpec


@dataclass(frozen=True)
class Listed:
    """One file of the source: `label` is None at the top level, `ignored` names the rule that leaves it out."""

    entry: Entry
    label: str | None
    ignored: str | None


def list_source(source: Source, exclude: Sequence[str] = ()) -> list[Listed]:
    """Every file of the source, sorted by path."""
    entries = sorted(source.list(), key=lambda entry: entry.path)
    labels, rules = classify_paths([entry.path for entry in entries], exclude)
    return [Listed(*facts) for facts in zip(entries, labels, rules, strict=True)]


def describe_excluded(paths: Iterable[str], patterns: Sequence[str]) -> str:
    """How many of the excluded paths each pattern meets; one that meets none may be mistyped."""
    counts = dict.fromkeys(patterns, 0)
    meets = {pattern: compile_patterns((pattern,)).fullmatch for pattern in patterns}
    for path in paths:
        for pattern in patterns:
            counts[pattern] += meets[pattern](path) is not None
    told = [f"{pattern!r} {f'{count:,}' if count else 'no file'}" for pattern, count in counts.items()]
    return f"left out by source.exclude: {', '.join(told)}"


def find_lost_folders(listed: Iterable[Listed]) -> list[str]:
    """The folders that could not be looked into, among what was listed; nobody knows what lies in them."""
    return [item.entry.path for item in listed if item.entry.problem in FOLDER_PROBLEMS and item.ignored is None]
