"""Checks of a version before it is published (budgets, classes, leaks), its counts, and its digest."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.split import SPLITS, SplitSpec
from cnn.digest import canonical_json
from cnn.errors import BudgetError, DatasetError, StorageError
from cnn.formats.reasons import name_reason
from cnn.images.spec import ImageSpec
from cnn.text import name_some, quote_some
from tasks.dataset.ledger import OUTCOMES
from tasks.files.paths import quote_path
from tasks.prepare.outcomes import name_pairs
from tasks.prepare.spec import BudgetSpec
from tasks.prepare.table import CONFLICT, IGNORED, LEAK, NO_CLASS, OK, PENDING, QUARANTINED, Rows

CHANCE = 0.002  # probability below which a share that is too large is no chance: 3 of 3, 4 of 6, 7 of 20
MANY = 500  # images among which it hardly ever is

EXAMPLES = 3  # files that a refusal names
LINKS_HINT = "links are followed inside the source only (`cp -rL SOURCE COPY` makes files of them); "
REASON_LETTERS = 80  # of each reason in it


def check_budget(
    rows: Rows, classes: Sequence[str], budget: BudgetSpec, write_list: Callable[[], str] | None = None
) -> None:
    """Refuse a version that lost too much; `write_list` writes down what was lost, and says where.

    Raises:
        BudgetError: more files are quarantined than the budget allows, or a class has lost all its images.
        DatasetError: no image is left to train on.
    """
    beside = rows.reason == rows.reasons[NO_CLASS]  # they were never asked to be images
    worst = _count_reasons(rows, (rows.outcome == QUARANTINED) & ~beside)
    looked_at = int(((rows.outcome != IGNORED) & ~beside).sum())
    shown = ", ".join(f"{reason} {count}" for reason, count in worst.most_common(3))
    hint = LINKS_HINT if worst.most_common(1) and worst.most_common(1)[0][0] == "symlink_outside" else ""
    if worst.total() > budget.quarantined * looked_at:
        raise BudgetError(
            f"{worst.total()} of {looked_at} files are unreadable ({shown}), "
            f"over the budget of {budget.quarantined:.1%}: {name_lost(rows, write_list)}; {hint}repair or remove them, "
            "leave them out with source.exclude, or raise budget.quarantined; nothing was published"
        )
    _check_classes(rows, classes, write_list)
    if not ((rows.outcome == OK) & (rows.split == SPLITS.index("train"))).any():
        # A class whose split is drawn keeps one: only a folder of the owner's can be left without.
        raise DatasetError("no image is left to train on in the folders for training; add images there")


def _check_classes(rows: Rows, classes: Sequence[str], write_list: Callable[[], str] | None) -> None:
    """Refuse a version in which a class has no image, with what became of the files of that class.

    Raises:
        BudgetError: there is one; it is named.
    """
    alive = np.bincount(rows.label_id[rows.outcome == OK], minlength=len(classes))
    emptied = sorted(name for name, count in zip(classes, alive, strict=True) if not count)
    if not emptied:
        return
    own = rows.label_id == classes.index(emptied[0])
    unreadable = _count_reasons(rows, own & (rows.outcome == QUARANTINED))
    copies = np.flatnonzero(own & (rows.outcome == CONFLICT))
    facts = [*unreadable.most_common(3), ("conflict", len(copies))]
    shown = ", ".join(f"{reason} {count:,}" for reason, count in facts if count)
    parts = [f"class {emptied[0]!r} has no usable image left ({shown or 'duplicates'})"]
    if unreadable:
        parts[0] += f": {name_lost(rows, write_list, own)}"
        parts.append("repair its files or remove the folder")
    if len(copies):
        parts.append(f"the same pictures lie in another class too: {name_pairs(rows, copies, '{} is the same as {}')}")
        parts.append("keep each picture in one class, or leave the copies out with source.exclude")
    raise BudgetError("; ".join([*parts, "nothing was published"]))


def name_lost(rows: Rows, write_list: Callable[[], str] | None = None, some: NDArray[np.bool_] | None = None) -> str:
    """Three of the quarantined files (of `some` rows) with their reasons, of as many reasons as there are, and where
    all are listed."""
    chosen_rows = (rows.outcome == QUARANTINED) & (rows.reason != rows.reasons[NO_CLASS])
    lost = np.flatnonzero(chosen_rows if some is None else chosen_rows & some)
    _, firsts = np.unique(rows.reason[lost], return_index=True)
    chosen = list(dict.fromkeys([*sorted(firsts.tolist())[:EXAMPLES], *range(len(lost))]))[:EXAMPLES]
    examples = lost[sorted(chosen)]
    shown = map(quote_path, rows.paths(examples))
    reasons = [rows.reasons.texts[number][:REASON_LETTERS] for number in rows.reason[examples].tolist()]
    named = ", ".join(f"{path} ({reason})" for path, reason in zip(shown, reasons, strict=True))
    place = write_list() if write_list is not None else ""
    more = ", …" if len(lost) > len(examples) else ""
    return f"{named}{more}" + (f"; all are listed in {place}" if place else "")


def check_leaks(rows: Rows, classes: Sequence[str], budget: BudgetSpec, image: ImageSpec) -> None:
    """Refuse a version whose classes, or whose splits as a whole, lost too many images as near-duplicates.

    In a class of few images one or two are soon a tenth: what may well be chance, by the binomial distribution, is no
    reason to stop.

    Raises:
        BudgetError: the class that lost the largest share is named, with what to set.
    """
    leaks = np.flatnonzero(rows.outcome == LEAK)
    lost = _count_by_class(rows, leaks, len(classes))
    held = lost + _count_by_class(rows, np.flatnonzero(rows.outcome == OK), len(classes))
    whose = [*(f"of class {name!r}" for name in classes), "of all classes"]
    lost, held = (np.concatenate([counts, counts.sum(axis=0, keepdims=True)]) for counts in (lost, held))
    beyond = [is_beyond(*pair, budget.leaks) for pair in zip(lost.ravel().tolist(), held.ravel().tolist(), strict=True)]
    shares = np.where(np.reshape(beyond, lost.shape), lost / np.maximum(held, 1), 0)
    if not shares.any():
        return
    number, split = np.unravel_index(int(shares.argmax()), shares.shape)
    among = [row for row in leaks.tolist() if rows.split[row] == split and number in (rows.label_id[row], len(classes))]
    pair = [row for row in (among[0], int(rows.duplicate_of[among[0]])) if row >= 0]
    shown = " and ".join(repr(quote_path(path)) for path in rows.paths(np.array(pair)))
    count, of, size = lost[number, split], held[number, split], "x".join(map(str, image.size))
    raise BudgetError(
        f"{count:,} of {of:,} {SPLITS[split]} images {whose[number]} are nearly the same "
        f"pictures as training images ({shown}), over the budget of {budget.leaks:.1%}; if they "
        f"are different pictures, --set split.leak_distance=-1 keeps them, and an image.size above {size} may show how "
        "they differ; if they are shots of one scene, split.group keeps a scene in one split; or raise budget.leaks; "
        "nothing was published"
    )


def is_beyond(count: int, of: int, share: float) -> bool:
    """Whether `count` of so many is more than this share, by more than chance where they are few."""
    if count <= share * of:
        return False
    if of > MANY:
        return True
    return sum(comb(of, n) * share**n * (1 - share) ** (of - n) for n in range(count, of + 1)) < CHANCE


def _count_by_class(rows: Rows, some: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """int64 (classes, splits): how many of some rows are of which class and split, none of training."""
    places = rows.label_id[some].astype(np.int64) * len(SPLITS) + rows.split[some]
    counts = np.bincount(places, minlength=classes * len(SPLITS)).reshape(classes, len(SPLITS))
    counts[:, SPLITS.index("train")] = 0
    return np.asarray(counts, np.int64)


def find_gaps(rows: Rows, classes: Sequence[str], split: SplitSpec) -> list[str]:
    """What a version lacks that training or its judgement will miss, one line each."""
    unlearnt = _classes_without(rows, classes, "train")
    unjudged = _classes_without(rows, classes, "test") if split.test else []
    shares = {"train": 1.0, "validation": split.validation, "test": split.test}
    empty = [name for name, count in count_images(rows).items() if not count and shares[name]]
    why = _describe_groups(rows, split.group) if split.group else ""
    gaps = []
    if unlearnt:
        shown = quote_some(unlearnt)
        gaps.append(f"classes without training images: {shown}{why}; nothing can be trained on this version")
    if empty:
        left = "those that are left" if len(empty) == 1 else "what they have learnt from, which flatters them"
        gaps.append(f"no {' and no '.join(empty)} images{why}; models are judged on {left}")
    if unjudged and "test" not in empty:
        shown = quote_some(unjudged)
        gaps.append(
            f"{len(unjudged):,} of {len(classes):,} classes without test images: {shown}{why}; they are not judged"
        )
    return gaps


def _classes_without(rows: Rows, classes: Sequence[str], split: str) -> list[str]:
    """The classes that have no image in a split."""
    there = rows.label_id[(rows.outcome == OK) & (rows.split == SPLITS.index(split))]
    return sorted(
        name for name, count in zip(classes, np.bincount(there, minlength=len(classes)), strict=True) if not count
    )


def describe_quarantine(rows: Rows) -> str:
    """Why files are quarantined, and how many for each reason, the most frequent first; "" where none is."""
    counts = _count_reasons(rows, rows.outcome == QUARANTINED)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())


def describe_ignored(rows: Rows, classes: Sequence[str]) -> str:
    """Which rule left out how many files, and in which classes; "" where none is left out.

    "hidden 12 (cat 9, dog 3), system 2 (outside any class folder 2)": rules and classes by their number of files.
    """
    shown = []
    ignored = np.flatnonzero(rows.outcome == IGNORED)
    for reason, count in _count_reasons(rows, rows.outcome == IGNORED).most_common():
        number = rows.reasons[reason]
        labels = rows.label_id[ignored[rows.reason[ignored] == number]]
        places = Counter("no class folder" if label < 0 else repr(classes[label]) for label in labels.tolist())
        shown.append(f"{count:,} {reason} ({name_some([f'{place} {n:,}' for place, n in places.most_common()])})")
    return ", ".join(shown)


def check_all_listed(rows: Rows) -> None:
    """Check that every file listed has exactly one outcome.

    Raises:
        StorageError: one was forgotten, or listed twice; nothing may be published.
    """
    forgotten = int((rows.outcome == PENDING).sum())
    paths = rows.files.column("path").combine_chunks()
    twice = sum(paths[:-1].to_numpy(zero_copy_only=False) == paths[1:].to_numpy(zero_copy_only=False))
    if forgotten or twice:
        raise StorageError(
            f"the ledger does not add up: {len(rows)} files listed, {forgotten} without an outcome, {twice} listed "
            "twice; nothing was published, run the command again"
        )


def count_outcomes(rows: Rows) -> dict[str, int]:
    """Rows by outcome, every outcome present."""
    counts = np.bincount(rows.outcome, minlength=len(OUTCOMES))
    return {outcome: int(count) for outcome, count in zip(OUTCOMES, counts, strict=False)}


def count_images(rows: Rows) -> dict[str, int]:
    """Images that made it into each split, augmented copies left out."""
    counts = np.bincount(rows.split[rows.outcome == OK], minlength=len(SPLITS))
    return {split: int(count) for split, count in zip(SPLITS, counts, strict=True)}


def digest_dataset(rows: Rows, classes: Sequence[str]) -> str:
    """sha256 over the classes and, sorted by key, (key, label, split, checksums of pixels and copies) of all images.

    Neither the layout of the shards nor the history counts: labels are numbered in the order of their names.
    """
    ok = np.flatnonzero(rows.outcome == OK)
    # The split tells apart the copies that an owner put into two of them.
    order = ok[np.lexsort([rows.split[ok], *rows.digest[ok].T[::-1]])] if len(ok) else ok
    ranks = np.argsort(np.argsort(np.array(classes, object)))
    digest = hashlib.sha256(canonical_json(sorted(classes)).encode())
    fields = np.zeros(
        len(order), [("key", "V32"), ("label", "<u4"), ("split", "u1"), ("crc", "<u4"), ("copies", "<u4")]
    )
    fields["key"] = np.ascontiguousarray(rows.digest[order]).view("V32").ravel()
    fields["label"], fields["split"] = ranks[rows.label_id[order]], rows.split[order]
    fields["crc"], fields["copies"] = rows.pixels[order], rows.copies[order]
    digest.update(fields.tobytes())
    return digest.hexdigest()


def _count_reasons(rows: Rows, chosen: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> Counter[str]:
    counts: Counter[str] = Counter()
    for number, count in enumerate(np.bincount(rows.reason[chosen], minlength=1).tolist()):
        if count:
            counts[name_reason(rows.reasons.texts[number])] += count
    return counts


def _describe_groups(rows: Rows, group: str) -> str:
    """Why a split may lack images: those of a group stay together, and there may be one only."""
    found = np.unique(rows.group[rows.outcome == OK])
    all_are_one = "; all images are of one group" if len(found) == 1 and found[0] >= 0 else ""
    return f"{all_are_one}; split.group {group!r} keeps the images of a group in one split"
