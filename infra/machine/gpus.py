"""The GPUs of this machine, found without loading what would use them."""

import os
from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia/gpus")  # a folder for each, by the driver


def count_nvidia_gpus(found: Path = NVIDIA) -> int:
    """How many NVIDIA GPUs a process started here may use: none where CUDA_VISIBLE_DEVICES hides them."""
    try:
        count = len(list(found.iterdir()))
    except OSError:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    named = [device for device in visible.split(",") if device.strip() not in ("", "-1", "NoDevFiles")]
    return min(count, len(named))
