"""Classes and slices are tested together: a collapse is found among many, and chance refuses no good version."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn.evaluation.metrics import compare_paired
from cnn.evaluation.part_tests import ComparedPart, compare_parts, find_worse_parts

Counts = tuple[int, int, int]


def make_part(name: str, wins: int, losses: int, images: int) -> ComparedPart:
    both = images - wins - losses
    challenger = [True] * wins + [False] * losses + [True] * both
    return ComparedPart("class", name, compare_paired(challenger, [False] * wins + [True] * losses + [True] * both))


def find(parts: list[ComparedPart], support: int = 10, margin: float = 0.05) -> list[str]:
    return [each.part.name for each in find_worse_parts(parts, 0.04, support, margin) if each.is_worse]


def test_one_class_that_collapses_is_found_among_thirty() -> None:
    """Holm's correction alone would ask for p 0.0013 of it: eleven losses in thirty images."""
    others = [make_part(f"c{n}", 1, 1, 33) for n in range(29)]
    assert find([make_part("owl", 0, 9, 30), *others]) == ["owl"]
    assert find([make_part("owl", 2, 11, 30), *others]) == ["owl"]
    assert find([make_part("owl", 0, 4, 30), *others]) == []


def test_many_classes_that_could_be_worse_share_the_level() -> None:
    busy = [make_part(f"c{n}", 8, 8, 60) for n in range(29)]
    assert find([make_part("owl", 0, 9, 30), *busy]) == []  # p 0.002 is chance among thirty such classes
    assert find([make_part("owl", 0, 10, 30), *busy]) == ["owl"]


def test_what_is_found_leaves_its_share_to_the_others() -> None:
    """Holm's steps: of two, the second is held against the whole level."""
    assert find([make_part("bat", 0, 12, 60), make_part("owl", 4, 14, 60)]) == ["bat", "owl"]
    assert find([make_part("bat", 9, 12, 60), make_part("owl", 4, 14, 60)]) == []


@pytest.mark.parametrize(("images", "found"), [(9, []), (10, ["owl"])])
def test_a_class_with_too_few_images_is_not_compared(images: int, found: list[str]) -> None:
    assert find([make_part("owl", 0, 9, images)]) == found


def test_a_sure_drop_within_the_margin_is_allowed() -> None:
    assert find([make_part("owl", 0, 30, 1000)]) == []
    assert find([make_part("owl", 0, 30, 1000)], margin=0.02) == ["owl"]


def test_parts_are_compared_by_name_and_images_without_one_are_left_out() -> None:
    names = np.array(["a", "b", None, "a"], object)
    first, second = compare_parts("folder", names, np.array([1, 0, 1, 1], bool), np.array([0, 1, 1, 1], bool))
    assert (first.name, first.paired.images, first.paired.wins, first.drop) == ("a", 2, 1, -0.5)
    assert (second.name, second.paired.losses, second.drop) == ("b", 1, 1.0)
    assert find_worse_parts((), 0.05, 10, 0.05) == ()


def test_classes_without_a_difference_refuse_at_most_as_often_as_is_said() -> None:
    """Thirty hard classes of thirty images each, in which both models err at random: at 4 % in all, not 79 %."""
    rng, refused = np.random.default_rng(5), 0
    for _ in range(400):
        losses, wins = rng.binomial(30, 0.15, 30), rng.binomial(30, 0.15, 30)
        parts = [make_part(f"c{n}", int(w), int(x), 60) for n, (w, x) in enumerate(zip(wins, losses, strict=True))]
        refused += bool(find(parts))
    assert refused <= 400 * 0.04 + 3 * (400 * 0.04 * 0.96) ** 0.5


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(24, 90)), min_size=1, max_size=8))
def test_one_loss_more_never_clears_a_class(counts: list[Counts]) -> None:
    parts = [make_part(f"c{n}", *one) for n, one in enumerate(counts)]
    wins, losses, images = counts[0]
    if wins and "c0" in find(parts):
        assert "c0" in find([make_part("c0", wins - 1, losses + 1, images), *parts[1:]])


def test_thousands_of_groups_are_compared_at_once() -> None:
    """A look at all images for each of 20,000 groups took a minute and a half."""
    names = np.array([f"animal {number % 20_000}" for number in range(100_000)], object)
    right = np.arange(100_000) % 7 > 0
    parts = compare_parts("group", names, right, ~right)
    assert len(parts) == 20_000
    assert {part.paired.images for part in parts} == {5}
