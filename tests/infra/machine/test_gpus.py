"""GPUs are counted by what the driver shows, less those that CUDA_VISIBLE_DEVICES hides."""

from pathlib import Path

import pytest

from infra.machine.gpus import count_nvidia_gpus


@pytest.mark.parametrize(("visible", "count"), [(None, 2), ("", 0), ("-1", 0), ("1", 1), ("0,1", 2), ("0,1,2", 2)])
def test_gpus_that_a_process_may_use(
    visible: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for number in range(2):
        (tmp_path / "gpus" / f"0000:0{number}:00.0").mkdir(parents=True)
    assert count_nvidia_gpus(tmp_path / "gpus") == count
    assert count_nvidia_gpus(tmp_path / "none") == 0
