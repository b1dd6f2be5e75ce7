"""EfficientNet-Lite in NumPy, float64, from the published description and PyTorch's names: what the Keras networks must
give. Shares nothing with them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = Mapping[str, Array]

# (kernel, stride, expansion, channels in, filters out), as the notation 'r2_k3_s22_e6_i16_o24' of the description
# unfolds; filters are those of the rounding that it prescribes, worked out by hand for lite2.
LITE0 = (
    *((3, 1, 1, 32, 16),),
    *((3, 2, 6, 16, 24), (3, 1, 6, 24, 24)),
    *((5, 2, 6, 24, 40), (5, 1, 6, 40, 40)),
    *((3, 2, 6, 40, 80), (3, 1, 6, 80, 80), (3, 1, 6, 80, 80)),
    *((5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112)),
    *((5, 2, 6, 112, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192), (5, 1, 6, 192, 192)),
    *((3, 1, 6, 192, 320),),
)
LITE1 = (
    *((3, 1, 1, 32, 16),),
    *((3, 2, 6, 16, 24), *((3, 1, 6, 24, 24),) * 2),
    *((5, 2, 6, 24, 40), *((5, 1, 6, 40, 40),) * 2),
    *((3, 2, 6, 40, 80), *((3, 1, 6, 80, 80),) * 3),
    *((5, 1, 6, 80, 112), *((5, 1, 6, 112, 112),) * 3),
    *((5, 2, 6, 112, 192), *((5, 1, 6, 192, 192),) * 4),
    *((3, 1, 6, 192, 320),),
)
LITE2 = (
    *((3, 1, 1, 32, 16),),
    *((3, 2, 6, 16, 24), *((3, 1, 6, 24, 24),) * 2),
    *((5, 2, 6, 24, 48), *((5, 1, 6, 48, 48),) * 2),
    *((3, 2, 6, 48, 88), *((3, 1, 6, 88, 88),) * 3),
    *((5, 1, 6, 88, 120), *((5, 1, 6, 120, 120),) * 3),
    *((5, 2, 6, 120, 208), *((5, 1, 6, 208, 208),) * 4),
    *((3, 1, 6, 208, 352),),
)
Block = tuple[int, int, int, int, int]
BLOCKS: dict[str, Sequence[Block]] = {
    "efficientnet_lite0": LITE0,
    "efficientnet_lite1": LITE1,
    "efficientnet_lite2": LITE2,
}


def compute_logits(pixels: Array, tensors: Tensors, blocks: Sequence[Block]) -> Array:
    """Logits (classes,) of one image (height, width, 3)."""
    values = relu6(normalize(convolve(pixels, tensors["_conv_stem.weight"], 2), tensors, "_bn0"))
    for number, block in enumerate(blocks):
        values = compute_block(values, tensors, f"_blocks.{number}", block)
    values = relu6(normalize(convolve(values, tensors["_conv_head.weight"], 1), tensors, "_bn1"))
    return np.asarray(tensors["_fc.weight"].astype(float) @ values.mean(axis=(0, 1)) + tensors["_fc.bias"])


def compute_block(values: Array, tensors: Tensors, prefix: str, block: Block) -> Array:
    """An inverted residual block on one feature map (height, width, channels)."""
    _, stride, expansion, channels, filters = block
    inner = values
    if expansion != 1:
        inner = relu6(
            normalize(convolve(inner, tensors[f"{prefix}._expand_conv.weight"], 1), tensors, f"{prefix}._bn0")
        )
    inner = convolve_each_channel(inner, tensors[f"{prefix}._depthwise_conv.weight"], stride)
    inner = relu6(normalize(inner, tensors, f"{prefix}._bn1"))
    inner = normalize(convolve(inner, tensors[f"{prefix}._project_conv.weight"], 1), tensors, f"{prefix}._bn2")
    return inner + values if stride == 1 and channels == filters else inner


def convolve(values: Array, kernel: Array, stride: int) -> Array:
    """(height, width, channels) by (filters, channels, side, side), padded so that a side s becomes s / stride."""
    return np.asarray(
        sum(window @ kernel[:, :, i, j].T.astype(float) for i, j, window in windows(values, kernel.shape[2], stride))
    )


def convolve_each_channel(values: Array, kernel: Array, stride: int) -> Array:
    """(height, width, channels) by (channels, 1, side, side)."""
    return np.asarray(
        sum(window * kernel[:, 0, i, j].astype(float) for i, j, window in windows(values, kernel.shape[2], stride))
    )


def windows(values: Array, side: int, stride: int) -> list[tuple[int, int, Array]]:
    """For each place (i, j) of the kernel, what it sees; where the padding is odd, the further side gets more."""
    padded, counts = values.astype(float), []
    for axis in (0, 1):
        length = values.shape[axis]
        counts.append(math.ceil(length / stride))
        total = max((counts[axis] - 1) * stride + side - length, 0)
        widths = [(0, 0)] * 3
        widths[axis] = (total // 2, total - total // 2)
        padded = np.pad(padded, widths)
    rows, columns = (stride * (count - 1) + 1 for count in counts)
    return [(i, j, padded[i : i + rows : stride, j : j + columns : stride]) for i in range(side) for j in range(side)]


def normalize(values: Array, tensors: Tensors, prefix: str) -> Array:
    """Batch normalization by kept averages, with the description's epsilon of 0.001."""
    scale, shift, mean, variance = (
        tensors[f"{prefix}.{part}"].astype(float) for part in ("weight", "bias", "running_mean", "running_var")
    )
    return np.asarray((values - mean) / np.sqrt(variance + 0.001) * scale + shift)


def relu6(values: Array) -> Array:
    """`values` cut to 0 … 6."""
    return np.clip(values, 0, 6)


def make_tensors(blocks: Sequence[Block], classes: int, seed: int) -> dict[str, Array]:
    """Random tensors under PyTorch's names for a whole network."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Array] = make_convolution(random, "_conv_stem", "_bn0", (32, 3, 3, 3))
    for number, block in enumerate(blocks):
        tensors |= make_block_tensors(random, f"_blocks.{number}", block)
    tensors |= make_convolution(random, "_conv_head", "_bn1", (1280, blocks[-1][-1], 1, 1))
    tensors["_fc.weight"] = random.normal(0, 0.05, (classes, 1280)).astype("<f4")
    tensors["_fc.bias"] = random.normal(0, 1, classes).astype("<f4")
    return tensors


def make_block_tensors(random: np.random.Generator, prefix: str, block: Block) -> dict[str, Array]:
    """Random tensors of one block."""
    kernel, _, expansion, channels, filters = block
    inner = channels * expansion
    tensors: dict[str, Array] = {}
    if expansion != 1:
        tensors = make_convolution(random, f"{prefix}._expand_conv", f"{prefix}._bn0", (inner, channels, 1, 1))
    tensors |= make_convolution(random, f"{prefix}._depthwise_conv", f"{prefix}._bn1", (inner, 1, kernel, kernel))
    return tensors | make_convolution(random, f"{prefix}._project_conv", f"{prefix}._bn2", (filters, inner, 1, 1))


def make_convolution(
    random: np.random.Generator, name: str, norm: str, shape: tuple[int, int, int, int]
) -> dict[str, Array]:
    """Random tensors of a convolution and of the normalization behind it; a variance of 0.05 in ten, so that epsilon
    counts (smaller ones in every layer make a whole network chaotic: float32 and float64 part)."""
    tensors = {
        f"{name}.weight": random.normal(0, 1 / math.sqrt(math.prod(shape[1:])), shape),
        f"{norm}.weight": random.uniform(0.5, 1.5, shape[0]),
        f"{norm}.bias": random.normal(0, 0.5, shape[0]),
        f"{norm}.running_mean": random.normal(0, 0.3, shape[0]),
        f"{norm}.running_var": np.where(random.random(shape[0]) < 0.1, 0.05, random.uniform(0.5, 2.0, shape[0])),
    }
    return {key: value.astype("<f4") for key, value in tensors.items()} | {
        f"{norm}.num_batches_tracked": np.array(1, "<i8")
    }
