"""Nights of a simulated model at the gate's pure rule: who is promoted, and how far the champion drifts."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cnn.evaluation.gate import AlsoWeighed, Challenger, Champion, Verdict, decide_promotion
from cnn.evaluation.gate_spec import GateSpec
from cnn.evaluation.metrics import Evaluation, compare_paired, evaluate_probabilities
from cnn.evaluation.part_tests import compare_parts

Right = NDArray[np.bool_]
HARD = 0.03  # share of the images that every version has wrong, as versions of one recipe have


@dataclass(frozen=True)
class JudgingImages:
    """The images that judge: the class and the folder of each, (n,), and which of them nobody recognizes."""

    labels: NDArray[np.int64]
    folders: NDArray[np.object_]
    hard: Right
    evaluation: Evaluation

    @property
    def names(self) -> NDArray[np.object_]:
        """The name of each image's class."""
        found = np.empty(len(self.labels), object)
        found[:] = [f"c{label}" for label in self.labels.tolist()]
        return found

    def answer(self, accuracy: float, rng: np.random.Generator) -> Right:
        """Which images a version of this accuracy has right; beside the hard ones its mistakes are its own."""
        return np.asarray(~self.hard & (rng.random(len(self.labels)) < accuracy / (1 - HARD)), np.bool_)


def make_test_set(images: int, classes: int, rng: np.random.Generator, small: int | None = None) -> JudgingImages:
    """Images of `classes` classes in four folders; the first class has `small` images, where that is given."""
    labels = np.arange(images) % classes
    if small is not None:
        labels[:small], labels[small:] = 0, 1 + np.arange(images - small) % (classes - 1)
    folders = np.empty(images, object)
    folders[:] = [f"site {number}" for number in rng.integers(0, 4, images)]
    hard = np.zeros(images, bool)
    hard[rng.choice(images, round(HARD * images), replace=False)] = True
    evaluation = evaluate_probabilities(np.eye(classes)[labels], labels, [f"c{n}" for n in range(classes)])
    return JudgingImages(labels, folders, hard, evaluation)


def compare(version: int, mine: Right, theirs: Right, images: JudgingImages) -> Champion:
    """What the gate is told of an earlier version."""
    classes = images.evaluation.classes
    parts = compare_parts("class", images.names, mine, theirs) + compare_parts("folder", images.folders, mine, theirs)
    return Champion(version, classes, classes, paired=compare_paired(mine, theirs), parts=parts)


def judge(mine: Right, theirs: Right, images: JudgingImages, spec: GateSpec) -> Verdict:
    """One night: a version beside a champion that is the best there was."""
    return decide_promotion(Challenger("m", 2, images.evaluation), compare(1, mine, theirs, images), spec)


@dataclass(frozen=True)
class Nights:
    """What nights came to: the champion's accuracy on the images at the end and in truth, the best of all champions,
    likewise, and how many versions met with which verdict."""

    champion: float
    champion_truth: float
    best: float
    best_truth: float
    verdicts: dict[str, int]


def live_nights(nights: int, worse: float, spec: GateSpec, rng: np.random.Generator, classes: int = 10) -> Nights:
    """A champion of 0.95 on 1,000 images, and each night a version that is `worse` than that of the night before."""
    images = make_test_set(1000, classes, rng)
    truth = {1: 0.95}
    answers = {1: images.answer(0.95, rng)}
    champion = best = 1
    verdicts = {"promote": 0, "keep": 0, "hold": 0}
    for version in range(2, nights + 2):
        truth[version] = max(0.0, 0.95 - worse * (version - 1))
        answers[version] = images.answer(truth[version], rng)
        mine = answers[version]
        also = AlsoWeighed(looks=version)
        if best != champion:
            also = replace(also, best=compare(best, mine, answers[best], images))
        beside = compare(champion, mine, answers[champion], images)
        found = decide_promotion(Challenger("m", version, images.evaluation), beside, spec, also=also)
        verdicts[found.verdict] += 1
        if found.verdict == "promote":
            champion = version
        if found.verdict != "hold" and mine.sum() > answers[best].sum():
            best = version
    shown = (float(answers[number].mean()) for number in (champion, best))
    on_images, on_best = shown
    return Nights(on_images, truth[champion], on_best, max(truth.values()), verdicts)
