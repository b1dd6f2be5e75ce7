"""Read a PyTorch weights file (.pth, the format before 1.6) without PyTorch and without running what is in it.

Such a file is five pickles, one after the other, then the raw numbers: a magic number, the version of the format, facts
of the machine that wrote it, the names with the shape of each tensor, and the order in which the storages follow.

A pickle is a program for a stack machine that may call any function. Here `pickletools.genops` takes it apart, and a
stack machine that knows the few operations which PyTorch writes builds texts, numbers, tuples, lists, dictionaries and
`_Tensor`s; nothing is imported, nothing is called. The format: torch/serialization.py, `_legacy_save`.
"""

import io
import math
import pickletools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn.errors import ConfigError
from cnn.text import escape_unprintable, shorten

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
FORMAT_VERSION = 1001
# Kinds of storages, and how NumPy spells their numbers: little-endian, as the facts of the machine must say.
STORAGE_TYPES = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}
ORDERED_DICT = "collections OrderedDict"
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
ALLOWED_NAMES = frozenset({*STORAGE_TYPES, ORDERED_DICT, REBUILD_TENSOR})
MOST_OPERATIONS = 200_000  # EfficientNet-Lite2 takes 14,000; a file of nothing but brackets shall not fill the memory
MOST_BYTES = 2**31

# Operations that push their own argument, that push one value, and that bind so many values to a tuple.
LITERALS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"})
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

T = TypeVar("T")


@dataclass(frozen=True)
class _Name:
    """A function or class that the pickle names."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A run of numbers: its key in the file, NumPy's type of its numbers, how many."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A part of a storage; offset and strides in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RefusedError(ValueError):
    """Why a file is not followed any further, in a few words."""


def read_torch_weights(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a PyTorch weights file by name: float32 or int64, axes in PyTorch's order (a convolution: filters,
    channels, height, width), read-only and not always contiguous.

    Raises:
        ConfigError: the file cannot be read, is damaged, or holds anything but tensors.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _RefusedError(f"more than {MOST_BYTES:,} bytes")
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pickletools warns of escapes in texts of old pickles
            return _parse_weights(content)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({shorten(error.strerror or error)})") from None
    except ValueError as error:  # a `_RefusedError`, or what pickletools says of bytes that are no pickle
        reason = escape_unprintable(shorten(error))
        raise ConfigError(f"{path} is not a weights file of PyTorch's format before 1.6: {reason}") from None


def _parse_weights(content: bytes) -> dict[str, NDArray[Any]]:
    if content.startswith(b"PK\x03\x04"):
        raise _RefusedError("it is a zip archive, the format of later versions")
    stream = io.BytesIO(content)
    _check_header(_read_pickle(stream), _read_pickle(stream), _read_pickle(stream))
    tensors = _check_tensors(_read_pickle(stream))
    order = _check_order(_read_pickle(stream), tensors)
    starts = _locate_storages(content, stream.tell(), order)
    return {name: _view_tensor(content, starts[tensor.storage.key], tensor) for name, tensor in tensors.items()}


def _check_header(magic: object, version: object, machine: object) -> None:
    if type(magic) is not int or magic != MAGIC_NUMBER:
        raise _RefusedError("it does not begin with the magic number")
    if type(version) is not int or version != FORMAT_VERSION:
        raise _RefusedError("the version of the format is not 1001")
    if _expect(machine, dict).get("little_endian") is not True:
        raise _RefusedError("its numbers are not little-endian")


def _check_tensors(value: object) -> dict[str, _Tensor]:
    return {name: _expect(tensor, _Tensor) for name, tensor in _expect(value, dict).items()}


def _check_order(value: object, tensors: dict[str, _Tensor]) -> list[_Storage]:
    """The storages in the order in which their numbers follow."""
    storages: dict[str, _Storage] = {}
    for tensor in tensors.values():
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise _RefusedError("two storages have the same key")
    keys = [_expect(key, str) for key in _expect(value, list)]
    if len(keys) != len(storages) or set(keys) != set(storages):
        raise _RefusedError("the storages listed are not those that the tensors name")
    return [storages[key] for key in keys]


def _locate_storages(content: bytes, start: int, order: list[_Storage]) -> dict[str, int]:
    """Where each storage's first number lies, in bytes from the start; before it stands their count, as int64."""
    starts = {}
    for storage in order:
        if int.from_bytes(content[start : start + 8], "little", signed=True) != storage.count:
            raise _RefusedError("a storage has another length than its tensors say, or the file ends early")
        starts[storage.key] = start + 8
        start += 8 + storage.count * np.dtype(storage.dtype).itemsize
    if start != len(content):
        raise _RefusedError("the file ends early" if start > len(content) else "something follows the last storage")
    return starts


def _view_tensor(content: bytes, start: int, tensor: _Tensor) -> NDArray[Any]:
    """The tensor as a read-only view of the file's bytes; `_make_tensor` saw to it that it lies in its storage."""
    size = np.dtype(tensor.storage.dtype).itemsize
    strides = [stride * size for stride in tensor.strides]
    return np.ndarray(tensor.shape, tensor.storage.dtype, content, start + tensor.offset * size, strides)


# The stack machine ----------------------------------------------------------------------------------------------------


def _read_pickle(stream: io.BytesIO) -> object:
    """What the next pickle of the stream builds; the stream then stands behind it."""
    machine = _StackMachine()
    for count, (operation, argument, position) in enumerate(pickletools.genops(stream)):
        if count == MOST_OPERATIONS:
            raise _RefusedError(f"a pickle of more than {MOST_OPERATIONS:,} operations")
        if operation.name == "STOP":
            break
        try:
            machine.step(operation.name, argument)
        except _RefusedError as refusal:
            raise _RefusedError(f"{refusal} (operation {operation.name} at byte {position})") from None
    return machine.pop(object)


class _StackMachine:
    """The values that a pickle has built so far: since the last mark, before it, and those that it kept by number.

    Keys of dictionaries are texts: a tuple may hold the same tuple twice, that one another twice, and so a thousand
    times; hashing it never ends.
    """

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._before_marks: list[list[Any]] = []
        self._kept: dict[int, Any] = {}

    def step(self, operation: str, argument: Any) -> None:
        """Obey one operation. Raises: _RefusedError: PyTorch writes no such thing."""
        if operation in LITERALS:
            self._values.append(argument)
        elif operation in CONSTANTS:
            self._values.append(CONSTANTS[operation])
        elif operation in TUPLE_SIZES:
            values = [self.pop(object) for _ in range(TUPLE_SIZES[operation])]
            self._values.append(tuple(reversed(values)))
        else:
            self._step_further(operation, argument)

    def _step_further(self, operation: str, argument: Any) -> None:
        match operation:
            case "PROTO":
                if argument != 2:
                    raise _RefusedError(f"pickle protocol {argument}")
            case "MARK":
                self._before_marks.append(self._values)
                self._values = []
            case "BINPUT" | "LONG_BINPUT":
                self._kept[argument] = self._top(object)
            case "BINGET" | "LONG_BINGET":
                if argument not in self._kept:
                    raise _RefusedError("a value that was never kept")
                self._values.append(self._kept[argument])
            case _:
                self._build(operation, argument)

    def _build(self, operation: str, argument: Any) -> None:
        match operation:
            case "TUPLE":
                values = self._take_since_mark()
                self._values.append(tuple(values))
            case "EMPTY_LIST":
                self._values.append([])
            case "APPEND":
                value = self.pop(object)
                self._top(list).append(value)
            case "APPENDS":
                values = self._take_since_mark()
                self._top(list).extend(values)
            case "EMPTY_DICT":
                self._values.append({})
            case "SETITEM":
                value, key = self.pop(object), self.pop(object)
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._take_since_mark())
            case _:
                self._name_or_make(operation, argument)

    def _name_or_make(self, operation: str, argument: Any) -> None:
        match operation:
            case "GLOBAL":
                if argument not in ALLOWED_NAMES:
                    raise _RefusedError(f"it names {shorten(argument, 60)}")
                self._values.append(_Name(argument))
            case "BINPERSID":
                self._values.append(_make_storage(self.pop(tuple)))
            case "REDUCE":
                arguments, name = self.pop(tuple), self.pop(_Name)
                self._values.append(_make_object(name, arguments))
            case "BUILD":  # the attributes of the dictionary of tensors: versions of PyTorch's layers
                self.pop(dict)
                self._top(dict)
            case _:
                raise _RefusedError("no operation of a file of tensors")

    def pop(self, kind: type[T]) -> T:
        """The last value, taken off. Raises: _RefusedError: there is none since the last mark, or of another kind."""
        value = self._top(kind)
        self._values.pop()
        return value

    def _top(self, kind: type[T]) -> T:
        if not self._values:
            raise _RefusedError("a value that is not there")
        return _expect(self._values[-1], kind)

    def _take_since_mark(self) -> list[Any]:
        if not self._before_marks:
            raise _RefusedError("a mark that is not there")
        values, self._values = self._values, self._before_marks.pop()
        return values

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise _RefusedError("a key without a value")
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_expect(key, str)] = value


def _make_storage(identity: tuple[Any, ...]) -> _Storage:
    """The storage that a persistent id names: ("storage", its type, key, device, numbers, no view)."""
    if len(identity) != 6 or identity[0] != "storage" or identity[5] is not None:
        raise _RefusedError("a reference that is no storage")
    kind = _expect(identity[1], _Name).name
    count = _expect(identity[4], int)
    if kind not in STORAGE_TYPES or count < 0:
        raise _RefusedError("a storage of an unknown kind")
    return _Storage(_expect(identity[2], str), STORAGE_TYPES[kind], count)


def _make_object(name: _Name, arguments: tuple[Any, ...]) -> Any:
    if name.name == ORDERED_DICT and not arguments:
        return {}
    if name.name == REBUILD_TENSOR and len(arguments) == 6:
        return _make_tensor(arguments)
    raise _RefusedError(f"a call of {name.name} with {len(arguments)} arguments")


def _make_tensor(arguments: tuple[Any, ...]) -> _Tensor:
    """A tensor from (storage, offset, shape, strides, whether it is trained, hooks); every number of it lies in its
    storage, and it has no more of them."""
    storage, offset = _expect(arguments[0], _Storage), _expect(arguments[1], int)
    shape, strides = (tuple(_expect(n, int) for n in _expect(part, tuple)) for part in arguments[2:4])
    if _expect(arguments[5], dict):
        raise _RefusedError("a tensor with hooks")
    if len(shape) != len(strides) or min((offset, *strides), default=0) < 0 or min(shape, default=1) < 1:
        raise _RefusedError("a tensor of an impossible shape")
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if last >= storage.count or math.prod(shape) > storage.count:
        raise _RefusedError("a tensor that reaches beyond its storage")
    return _Tensor(storage, offset, shape, strides)


def _expect(value: object, kind: type[T]) -> T:
    """`value`, which must be of exactly this kind (a bool is no int); `object` allows any."""
    if kind is not object and type(value) is not kind:
        raise _RefusedError(f"{type(value).__name__.strip('_').lower()} instead of {kind.__name__.strip('_').lower()}")
    return value  # type: ignore[return-value]
