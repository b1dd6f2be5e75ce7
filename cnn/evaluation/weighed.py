"""What a gate weighs beside accuracy: calibration, leaks, speed, size, dataset; one value for each, with its line."""

from collections.abc import Mapping
from dataclasses import dataclass

from cnn.text import round_digits

CALIBRATED_ON = 300  # images below which an expected calibration error says too little to hold a version back
Figure = float | str | None


@dataclass(frozen=True)
class Weighed:
    """One thing that the gate weighed.

    `value` is the new version's and `champion` the champion's (None: not known), `threshold` what decides (None:
    nothing does, it is only shown), `kept` whether the rule is kept, and `line` the sentence that a person reads.
    `images` and `p` belong to a comparison: on how many images, and the p value of "it is worse".
    """

    name: str
    value: Figure
    champion: Figure
    threshold: Figure
    kept: bool
    line: str
    images: int | None = None
    p: float | None = None


def weigh_calibration(
    value: float, champion: float | None, images: int, most: float | None, rival: str = "the champion"
) -> Weighed:
    """Expected calibration errors (Naeini et al. 2015) on the same images: at most `most` above that of the champion,
    or of another `rival`."""
    name = "calibration" if rival == "the champion" else f"calibration beside {rival}"
    line = f"confidence is off by {value * 100:.1f} points on average (ECE)"
    if champion is None:
        return Weighed(name, value, None, most, True, line, images)
    line += f", that of {rival} by {champion * 100:.1f}"
    if most is None or images < CALIBRATED_ON:
        few = "" if most is None else f"; only shown: fewer than {CALIBRATED_ON} images judge it"
        return Weighed(name, value, champion, most, True, line + few, images)
    kept = value - champion <= most
    rule = f"gate.calibration allows {most * 100:.1f} points more: {'kept' if kept else 'broken'}"
    return Weighed(name, value, champion, most, kept, f"{line}; {rule}", images)


def weigh_leaks(images: int, copied: int, kinds: Mapping[str, int], most: float | None) -> Weighed:
    """The leak certificate: the share of the test `images` with a copy or a relative in training or validation, at most
    `most`.

    `kinds`: what was looked for → how many images share it; `copied` share one of any kind.
    """
    share = copied / max(images, 1)
    have = "has" if copied == 1 else "have"
    looked = ", ".join(f"{kind} {count:,}" for kind, count in kinds.items())
    line = f"{copied:,} of {images:,} test images {have} something in common with training or validation images"
    line += f" (the same {looked})"
    if most is None:
        return Weighed("leaks", share, None, None, True, line, images)
    kept = share <= most
    rule = f"gate.leaks allows {most:.1%}: {'kept' if kept else 'broken, so its figures flatter'}"
    return Weighed("leaks", share, None, most, kept, f"{line}; {rule}", images)


def weigh_speed(seconds: float, champion: float | None, most: float | None) -> Weighed:
    """Seconds of the network for an image, both measured now on this machine: at most `most` times the champion's."""
    line = f"the network takes {round_digits(seconds * 1000)} ms an image here"
    if champion is None:
        return Weighed("speed", seconds, None, most, True, line)
    times = seconds / max(champion, 1e-9)
    shown = Weighed("speed", seconds, champion, most, True, f"{line}, {_compare(times)}")
    return _weigh_ratio(shown, times, "gate.slower")


def weigh_size(megabytes: float, champion: float | None, most: float | None) -> Weighed:
    """The network's file in MB: at most `most` times the champion's."""
    line = f"the network has {round_digits(megabytes, 3)} MB"
    if champion is None:
        return Weighed("size", megabytes, None, most, True, line)
    times = megabytes / max(champion, 1e-9)
    shown = Weighed("size", megabytes, champion, most, True, f"{line}, {_compare(times)}")
    return _weigh_ratio(shown, times, "gate.larger")


def weigh_dataset(trained: str, judged: str, champion: str | None) -> Weighed:
    """Digests of the datasets: the bundle must come from the very dataset that it is judged on."""
    kept = trained == judged
    same = " as the champion" if champion == trained else ""
    line = (
        f"trained on the dataset with digest {trained[:12]}{same}"
        if kept
        else f"its bundle comes from the dataset with digest {trained[:12]}, but {judged[:12]} judged it; train again"
    )
    return Weighed("dataset", trained, champion, judged, kept, line)


def _compare(times: float) -> str:
    text = round_digits(times)
    return "as the champion's" if text == "1" else f"{text} times the champion's"


def _weigh_ratio(shown: Weighed, times: float, setting: str) -> Weighed:
    if shown.threshold is None:
        return shown
    limit = float(shown.threshold)
    kept = times <= limit
    line = f"{shown.line}; {setting} allows {limit:g} times: {'kept' if kept else 'broken'}"
    return Weighed(shown.name, shown.value, shown.champion, limit, kept, line)
