"""Weights files as PyTorch wrote them before 1.6, put together operation by operation, whole or hostile."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROTOCOL, STOP, MARK, TUPLE, REDUCE = b"\x80\x02", b".", b"(", b"t", b"R"
EMPTY_DICT, SETITEM, SETITEMS, BUILD = b"}", b"s", b"u", b"b"
STORAGE_NAMES = {"<f4": "torch FloatStorage", "<i8": "torch LongStorage"}


def make_torch_file(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """A file with these tensors, float32 or int64, each with the strides that it has in memory."""
    return join_torch_file(
        state_of(tensors), [str(number) for number in range(len(tensors))], map(storage_of, tensors.values())
    )


def join_torch_file(state: bytes, keys: Iterable[str], storages: Iterable[bytes]) -> bytes:
    """A file whose fourth pickle is `state`, with the storages' keys and the storages behind it."""
    order = pickle_of(b"]", MARK, *map(text, keys), b"e")
    return HEADER + state + order + b"".join(storages)


def state_of(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The pickle of an ordered dictionary of tensors, which has an attribute as PyTorch's has."""
    items = [text(name) + tensor_of(array, str(number)) for number, (name, array) in enumerate(tensors.items())]
    metadata = [EMPTY_DICT, text("_metadata"), name_of("collections OrderedDict"), b")", REDUCE, SETITEM, BUILD]
    return pickle_of(name_of("collections OrderedDict"), b")", REDUCE, MARK, *items, SETITEMS, *metadata)


def tensor_of(array: NDArray[Any], key: str) -> bytes:
    """The operations that build one tensor which fills its storage."""
    strides = [stride // array.itemsize for stride in array.strides]
    return build_tensor(storage_id(STORAGE_NAMES[array.dtype.str], key, array.size), 0, array.shape, strides)


def build_tensor(storage: bytes, offset: int, shape: Iterable[int], strides: Iterable[int]) -> bytes:
    """A call of `_rebuild_tensor_v2`."""
    sides = b"".join((MARK, *map(integer, shape), TUPLE, MARK, *map(integer, strides), TUPLE))
    hooks = name_of("collections OrderedDict") + b")" + REDUCE
    arguments = MARK + storage + integer(offset) + sides + b"\x89" + hooks + TUPLE
    return name_of("torch._utils _rebuild_tensor_v2") + arguments + REDUCE


def storage_id(kind: str, key: str, count: int) -> bytes:
    """A persistent id that names a storage."""
    return MARK + text("storage") + name_of(kind) + text(key) + text("cpu") + integer(count) + b"N" + TUPLE + b"Q"


def storage_of(array: NDArray[Any]) -> bytes:
    """A storage: how many numbers, then the numbers as they lie in memory."""
    return array.size.to_bytes(8, "little") + array.ravel(order="K").tobytes()


def pickle_of(*operations: bytes) -> bytes:
    """A pickle of protocol 2."""
    return PROTOCOL + b"".join(operations) + STOP


def text(value: str) -> bytes:
    """A text as the pickle has it."""
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def integer(value: int) -> bytes:
    """A whole number of 32 bits as the pickle has it."""
    return b"J" + value.to_bytes(4, "little", signed=True)


def name_of(name: str) -> bytes:
    """A function or class, "module name"."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def machine_of(little_endian: bytes = b"\x88") -> bytes:
    """The facts of the machine that wrote the file."""
    return pickle_of(EMPTY_DICT, text("little_endian"), little_endian, SETITEM)


MAGIC = pickle_of(b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little"))
VERSION = pickle_of(integer(1001))
HEADER = MAGIC + VERSION + machine_of()
PLAIN = {"weight": np.arange(6, dtype="<f4").reshape(2, 3)}
