"""What could be done next to make a model better, in plain words: each line follows from figures that it names."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cnn.dataset.manifest import Manifest
from cnn.evaluation.binomial import bound_share
from cnn.evaluation.metrics import ClassFigures
from cnn.text import quote_some
from tasks.train.evidence import Cell, Evidence
from tasks.train.spec import TrainingResult

PLENTY = 100  # training images of a class, above which it counts as well known
WIDE, WANTED = 0.15, 0.1  # from the lower to the upper end of the accuracy's interval: too much; good enough
BEHIND = 0.1  # of recall, that a class is behind the others
FEW_JUDGED = 5  # test images of a class, below which its figures say little
MOST_CLASSES, MOST_WEAK = 3, 2  # small classes, and other weak ones, with a line of their own


@dataclass(frozen=True)
class Advice:
    """One line, and the place of the page that shows what it speaks of ("" for none)."""

    text: str
    anchor: str = ""


def advise(result: TrainingResult, manifest: Manifest, evidence: Evidence) -> tuple[Advice, ...]:
    """What could be done next, the most telling first; () where nothing stands out."""
    return (
        *_advise_on_measuring(result),
        *_advise_on_groups(result),
        *_advise_on_classes(result, evidence),
        *_advise_on_pairs(result, evidence),
        *_advise_on_labels(evidence),
        *_advise_on_strange_images(result),
        *_advise_on_files(manifest),
    )


def _advise_on_measuring(result: TrainingResult) -> Iterator[Advice]:
    """What keeps the figures from being trusted."""
    figures = result.evaluation
    if result.judged_on == "train":
        yield Advice(
            "No image was held back, so the figures say how well the model knows its training images, not how it will "
            "do on new ones: set split.test to 0.2."
        )
    elif result.judged_on != "test":
        yield Advice(
            "There are no test images; the figures are those of the validation images, by which the best weights were "
            "chosen, so they are somewhat too good: set split.test to 0.2."
        )
    if figures.unjudged:
        shown = quote_some(figures.unjudged)
        yield Advice(
            f"There are no {result.judged_on} images of {shown}: how well the model knows "
            f"{_number(figures.unjudged, 'it', 'them')} was not measured. Add images, or raise split.test.",
            "classes",
        )
    few = [each.label for each in figures.per_class if 0 < each.images < FEW_JUDGED]
    if few:
        yield Advice(
            f"{len(few):,} of {len(figures.per_class):,} classes {_number(few, 'is', 'are')} judged on fewer than "
            f"{FEW_JUDGED} {result.judged_on} images ({quote_some(few)}): {_number(few, 'its', 'their')} figures "
            "say little. Add images, or raise split.test.",
            "classes",
        )
    low, high = figures.accuracy_interval
    if high - low > WIDE:
        wanted = int(np.ceil(figures.images * ((high - low) / WANTED) ** 2))
        yield Advice(
            f"{figures.images:,} {result.judged_on} images tell the accuracy only to between {low:.2f} and {high:.2f}; "
            f"about {_round(wanted):,} would tell it to within {WANTED / 2:g}."
        )


def _advise_on_groups(result: TrainingResult) -> Iterator[Advice]:
    """New sites, cameras or groups, at which the version is worse than its accuracy says."""
    for place, each in enumerate(result.unseen_groups, 1):
        if each.is_gap:
            yield Advice(
                f"At a {each.singular} that it has never seen expect {each.unseen:.2f} right, not {each.known:.2f} as "
                f"at {each.plural} that it knows: add images of more {each.plural}.",
                each.plural if each.column is None else f"column-{place}",
            )


def _advise_on_classes(result: TrainingResult, evidence: Evidence) -> Iterator[Advice]:
    """Classes that are behind the others: for their few images, or for another reason."""
    images = {each.label: each.train for each in evidence.counts}
    judged = [each for each in result.evaluation.per_class if each.images]
    told = set[str]()
    for each in sorted(judged, key=lambda one: (one.recall, one.label)):
        count = images[each.label]
        peers, named = _find_peers(judged, images, count)
        if len(told) < MOST_CLASSES and peers is not None and peers - each.recall > BEHIND:
            told.add(each.label)
            yield Advice(
                f"{each.label!r} has {_images(count)} to learn from; {named} are right in {peers:.2f}, it in "
                f"{each.recall:.2f}. Add images of it.",
                "classes",
            )
    yield from _advise_on_weak_classes(result, evidence, told)


def _find_peers(judged: Sequence[ClassFigures], images: Mapping[str, int], count: int) -> tuple[float | None, str]:
    """The mean recall of the classes with plenty of images, or without any such of those with twice as many as `count`;
    and how these are called. None where the class is no small one, or has no such peers."""
    most = max((images[each.label] for each in judged), default=0)
    least = PLENTY if most >= PLENTY else 2 * count
    peers = [each.recall for each in judged if images[each.label] >= least]
    if count >= least or not peers:
        return None, ""
    return float(np.mean(peers)), f"classes with {least:,} or more"


def _advise_on_weak_classes(result: TrainingResult, evidence: Evidence, told: Collection[str]) -> Iterator[Advice]:
    """Classes that are behind all others though they have no fewer images, with what they are taken for."""
    figures = result.evaluation
    judged = [(place, each) for place, each in enumerate(figures.per_class) if each.images and each.label not in told]
    weakest = sorted(judged, key=lambda one: (one[1].recall, one[1].label))[:MOST_WEAK]
    for place, each in weakest:
        if bound_share(figures.confusion[place][place], each.images)[1] < figures.accuracy:
            answers = np.array(figures.confusion[place], np.int64)
            answers[place] = 0
            cell = (place, int(answers.argmax()))
            yield Advice(
                f"{each.label!r} is recognized in {each.recall:.2f}, all classes together in {figures.accuracy:.2f}; "
                f"it is most often taken for {figures.classes[cell[1]]!r}. Look at these pictures, and add some like "
                "them.",
                _find_anchor(cell, evidence),
            )


def _advise_on_pairs(result: TrainingResult, evidence: Evidence) -> Iterator[Advice]:
    """The two classes that are most often mixed up."""
    confusion = np.array(result.evaluation.confusion, np.int64)
    both = confusion + confusion.T
    np.fill_diagonal(both, 0)
    one, other = sorted(divmod(int(both.argmax()), len(both)))
    mixed, mistakes = int(both[one, other]), int(result.evaluation.images - np.trace(confusion))
    if mixed < 3 or mixed < 0.1 * mistakes or len(both) == 2:
        return
    cell = max(((one, other), (other, one)), key=lambda place: confusion[place])
    labels = result.evaluation.classes
    yield Advice(
        f"{mixed:,} of {mistakes:,} mistakes mix up {labels[one]!r} and {labels[other]!r}: look whether their pictures "
        "can be told apart, and whether both folders follow one rule.",
        _find_anchor(cell, evidence),
    )


def _find_anchor(cell: Cell, evidence: Evidence) -> str:
    return f"cell-{cell[0]}-{cell[1]}" if cell in evidence.cells else "confusion"


def _advise_on_labels(evidence: Evidence) -> Iterator[Advice]:
    if evidence.suspects_found:
        found = evidence.suspects_found
        yield Advice(f"{_images(found)} may lie in the wrong folder: look at the likeliest ones.", "suspects")


def _advise_on_strange_images(result: TrainingResult) -> Iterator[Advice]:
    """Whether scoring can tell images that resemble nothing that was learnt from."""
    if doubt := result.doubt_novelty():
        yield Advice(f"{doubt}. Until then, scoring marks none unknown.")


def _advise_on_files(manifest: Manifest) -> Iterator[Advice]:
    """Files of the source that nothing was learnt from though they were meant to be."""
    listed = f"datasets/{manifest.dataset}/outcomes.csv in the workspace"
    unread, disputed = (manifest.outcomes.get(name, 0) for name in ("quarantined", "conflict"))
    if unread:
        files = _number(range(unread), "file", "files")
        yield Advice(f"{unread:,} {files} could not be read as pictures: {listed} says which and why.")
    if disputed:
        files = _number(range(disputed), "file was", "files were")
        yield Advice(
            f"{disputed:,} {files} left out, because the same picture lies in two classes: {listed} lists them."
        )


def _number(counted: Sequence[object], one: str, many: str) -> str:
    return one if len(counted) == 1 else many


def _images(count: int) -> str:
    return f"{count:,} {_number(range(count), 'image', 'images')}"


def _round(count: int) -> int:
    """Two digits that say how many, more or less."""
    size = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // size) * size
