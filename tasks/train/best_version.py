"""The most accurate version that test images have ever judged, and how often these images have been looked at."""

from collections.abc import Sequence

from cnn.dataset.locked_sets import FIRST
from cnn.dataset.manifest import Manifest
from cnn.digest import hash_json
from cnn.evaluation.gate import Champion, Verdict
from infra.registry.versions import BEST, SPLIT_DRAWN, VersionInfo


def find_best(earlier: Sequence[VersionInfo]) -> tuple[VersionInfo, ...]:
    """The best of the versions that the gate has judged, oldest first, as the latest verdict left it, and behind it
    those before that could not be judged then; () where no verdict says so (those of older releases), or what they name
    is deleted or has lost its files."""
    present = {version.version: version for version in earlier if version.has_files}
    named = (version.tags.get(BEST, "").split() for version in reversed(earlier) if version.is_gated)
    found = ([present[int(each)] for each in tag if _is_number(each) and int(each) in present] for tag in named)
    return tuple(next((versions for versions in found if versions), ()))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def digest_split(manifest: Manifest) -> str:
    """What decides which images are for the test: as long as it stays, they have been looked at by every version. While
    two test sets judge (`split.refresh`), what decides each of them, with a space between."""
    facts = manifest.split.deciding()
    names = (FIRST.name,) if manifest.locked_sets is None else manifest.locked_sets.names()
    return " ".join(hash_json(facts if name == FIRST.name else [facts, name]) for name in names)


def count_looks(earlier: Sequence[VersionInfo], split: str) -> int:
    """How many versions the test images of this split (`digest_split`), or some of them, have judged with the present
    one: those of older releases, which do not say, among them."""
    drawn, gated = set(split.split()), [version for version in earlier if version.is_gated]
    return 1 + sum(not drawn.isdisjoint(version.tags.get(SPLIT_DRAWN, split).split()) for version in gated)


def choose_best(number: int, verdict: Verdict, champion: Champion | None, best: Champion | None) -> int | None:
    """The version that the next one is held against beside the champion: the most accurate on the present test images
    of this one (`number`), the champion and the best before. None where nothing could be compared.

    A version that was held is not the best, however accurate it looks: something is wrong with it.
    """
    rivals = [each for each in (best, champion) if each is not None and each.paired is not None and each.paired.images]
    if not rivals:
        return number if verdict.verdict == "promote" else None
    leads = {each.version: each.paired.difference for each in rivals if each.paired is not None}
    strongest = min(leads, key=lambda version: leads[version])
    return number if leads[strongest] > 0 and verdict.verdict != "hold" else strongest
