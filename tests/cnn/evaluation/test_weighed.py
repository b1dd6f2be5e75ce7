"""What the gate weighs beside accuracy: each threshold decides, and without one a figure is only shown."""

import pytest

from cnn.evaluation.weighed import Weighed, weigh_calibration, weigh_dataset, weigh_leaks, weigh_size, weigh_speed


@pytest.mark.parametrize(
    ("weighed", "kept", "line"),
    [
        (weigh_calibration(0.12, 0.04, 1000, 0.05), False, "gate.calibration allows 5.0 points more: broken"),
        (weigh_calibration(0.08, 0.04, 1000, 0.05), True, "gate.calibration allows 5.0 points more: kept"),
        (weigh_calibration(0.12, 0.04, 299, 0.05), True, "only shown: fewer than 300 images judge it"),
        (
            weigh_calibration(0.12, 0.04, 1000, None),
            True,
            "off by 12.0 points on average (ECE), that of the champion by 4.0",
        ),
        (weigh_calibration(0.12, None, 1000, 0.05), True, "off by 12.0 points on average (ECE)"),
        (
            weigh_leaks(200, 0, {"file or picture": 0, "look": 0}, 0.1),
            True,
            "0 of 200 test images have something in common",
        ),
        (
            weigh_leaks(200, 1, {"look": 1}, None),
            True,
            "1 of 200 test images has something in common with training or validation images (the same ",
        ),
        (
            weigh_leaks(200, 21, {"look": 9, "group": 12}, 0.1),
            False,
            "(the same look 9, group 12); gate.leaks allows",
        ),
        (weigh_leaks(200, 20, {"look": 20}, 0.1), True, "gate.leaks allows 10.0%: kept"),
        (weigh_speed(0.004, 0.001, 3.0), False, "4 ms an image here, 4 times the champion's; gate.slower allows 3"),
        (weigh_speed(0.002, 0.001, 3.0), True, "gate.slower allows 3 times: kept"),
        (weigh_speed(0.004, 0.001, None), True, "4 times the champion's"),
        (weigh_speed(0.004, None, 3.0), True, "4 ms an image here"),
        (weigh_size(30.0, 2.0, 10.0), False, "30 MB, 15 times the champion's; gate.larger allows 10 times: broken"),
        (weigh_size(30.0, None, 10.0), True, "30 MB"),
        (weigh_dataset("a" * 64, "a" * 64, "b" * 64), True, "trained on the dataset with digest aaaaaaaaaaaa"),
        (weigh_dataset("a" * 64, "a" * 64, "a" * 64), True, "digest aaaaaaaaaaaa as the champion"),
        (weigh_dataset("a" * 64, "b" * 64, None), False, "comes from the dataset with digest aaaaaaaaaaaa, but bbbb"),
    ],
)
def test_a_threshold_decides_and_the_line_says_so(weighed: Weighed, kept: bool, line: str) -> None:
    assert weighed.kept is kept
    assert line in weighed.line
