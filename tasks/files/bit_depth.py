"""Pictures of more than 8 bits: how many come out nearly black or clipped, and what to set against it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cnn.formats.levels import MAX_LEVEL, LevelSpan, find_misfit

FEW = 20  # one in so many pictures may be dark: there are pictures of the night


@dataclass(frozen=True)
class DeepCounts:
    """Of some pictures: how many have more than 8 bits, how many of these the rule for levels makes nearly black
    (`dark`) or clips away (`beyond`), the lowest and highest level of each kind; and how many are raw previews."""

    deep: int = 0
    dark: int = 0
    dark_span: LevelSpan | None = None
    beyond: int = 0
    beyond_span: LevelSpan | None = None
    previews: int = 0

    def __add__(self, other: "DeepCounts") -> "DeepCounts":
        return DeepCounts(
            self.deep + other.deep,
            self.dark + other.dark,
            _join(self.dark_span, other.dark_span),
            self.beyond + other.beyond,
            _join(self.beyond_span, other.beyond_span),
            self.previews + other.previews,
        )


def restore_counts(facts: Mapping[str, Any]) -> DeepCounts:
    """Counts that were JSON."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    return DeepCounts(**values)


def count_deep(spans: Iterable[LevelSpan | None], levels: str | LevelSpan, previews: int = 0) -> DeepCounts:
    """The counts of pictures whose levels these are; None for a picture of 8 bits."""
    counts = DeepCounts(previews=previews)
    for span in spans:
        if span is None:
            continue
        kind = find_misfit(span, levels)
        dark, beyond = kind == "dark", kind == "beyond"
        counts += DeepCounts(1, int(dark), span if dark else None, int(beyond), span if beyond else None)
    return counts


def describe_deep(counts: DeepCounts, levels: str | LevelSpan, measured: bool = False) -> list[str]:
    """What a person who prepares a dataset should know of them, one line each."""
    lines = []
    if counts.dark_span and counts.dark * FEW >= counts.deep:
        low, high = counts.dark_span
        found = f"{_images(counts.dark)} more than 8 bits and use levels {low:,} to {high:,}"
        lines.append(f"{found} {_explain_dark(counts, levels, measured)}")
    if counts.beyond_span:
        low, high = counts.beyond_span
        found = f"{_images(counts.beyond)} more than 8 bits and use levels {low:,} to {high:,}"
        lines.append(f"{found}, beyond image.levels ({_name_rule(levels, measured)}), so they are clipped: set others")
    if counts.previews:
        lines.append(_previews(counts.previews))
    return lines


def describe_scored(counts: DeepCounts, levels: str | LevelSpan, model: str) -> list[str]:
    """The same to who has images scored."""
    lines = []
    taught = f"{levels[0]:,} to {levels[1]:,}" if isinstance(levels, tuple) else f"0 to {MAX_LEVEL:,}"
    for count, span, fate in (
        (counts.dark, counts.dark_span, "come out nearly black"),
        (counts.beyond, counts.beyond_span, "are clipped"),
    ):
        if span and count * FEW >= counts.deep:
            found = f"{_images(count)} more than 8 bits and use levels {span[0]:,} to {span[1]:,}, but {model} was"
            lines.append(f"{found} trained with image.levels from {taught}: they {fate}, and its answers mean little")
    if counts.previews:
        lines.append(_previews(counts.previews))
    return lines


def _previews(count: int) -> str:
    what = "files gave their" if count != 1 else "file gave its"
    return f'{count:,} camera raw {what} largest preview (image.raw = "preview")'


def _explain_dark(counts: DeepCounts, levels: str | LevelSpan, measured: bool) -> str:
    """What becomes of dark pictures, and what to set: not the levels of these where they would clip brighter ones."""
    if not isinstance(levels, tuple):
        return f'of {MAX_LEVEL:,}, so they come out nearly black: set image.levels = "dataset"'
    found = f"where image.levels are {_name_rule(levels, measured)}, so they come out nearly black"
    if measured or counts.dark < counts.deep or counts.dark_span is None:
        return f"{found} beside the others"
    return f"{found}: set image.levels = [{counts.dark_span[0]}, {counts.dark_span[1]}]"


def _images(count: int) -> str:
    return f"{count:,} image{'s have' if count != 1 else ' has'}"


def _name_rule(levels: str | LevelSpan, measured: bool) -> str:
    found = f"{levels[0]:,} to {levels[1]:,}" if isinstance(levels, tuple) else f"0 to {MAX_LEVEL:,}"
    return f"{found}, as measured" if measured else found


def _join(first: LevelSpan | None, second: LevelSpan | None) -> LevelSpan | None:
    if first is None or second is None:
        return first or second
    return min(first[0], second[0]), max(first[1], second[1])
