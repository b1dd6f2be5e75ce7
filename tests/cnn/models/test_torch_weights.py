"""The reader of PyTorch's weights files: what comes back, and that nothing in a file is ever run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from torch_files import (
    BUILD,
    EMPTY_DICT,
    HEADER,
    MAGIC,
    MARK,
    PLAIN,
    REDUCE,
    SETITEM,
    SETITEMS,
    STOP,
    TUPLE,
    VERSION,
    build_tensor,
    integer,
    join_torch_file,
    machine_of,
    make_torch_file,
    name_of,
    pickle_of,
    state_of,
    storage_id,
    storage_of,
    tensor_of,
    text,
)

from cnn.errors import ConfigError
from cnn.models.torch_weights import MOST_OPERATIONS, read_torch_weights

FLOATS = "torch FloatStorage"


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights") / "network.pth"


def read_back(path: Path, content: bytes) -> dict[str, NDArray[Any]]:
    path.write_bytes(content)
    return read_torch_weights(path)


def read_or_refuse(path: Path, content: bytes) -> None:
    """Read the file; where it is refused, see that it is told in one line that names the file."""
    try:
        found, refusal = read_back(path, content), ""
    except ConfigError as error:
        found, refusal = {}, str(error)
    for tensor in found.values():
        tensor.tobytes()  # touches every number
    if refusal:
        assert refusal.startswith(str(path))
        assert refusal.isprintable()
        assert len(refusal) < len(str(path)) + 300


# What comes back ------------------------------------------------------------------------------------------------------


def tensors() -> st.SearchStrategy[dict[str, NDArray[Any]]]:
    numbers = arrays(st.sampled_from(["<f4", "<i8"]), array_shapes(min_dims=0, max_dims=4, max_side=3))
    turned = st.builds(lambda array, turn: array.T if turn else array, numbers, st.booleans())
    return st.dictionaries(st.text(max_size=5).filter(lambda name: name.isascii()), turned, min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(tensors())
def test_tensors_come_back_as_they_were(weights_file: Path, written: dict[str, NDArray[Any]]) -> None:
    found = read_back(weights_file, make_torch_file(written))
    assert list(found) == list(written)
    for name, array in written.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable


def test_tensors_may_share_a_storage(weights_file: Path) -> None:
    numbers = np.arange(6, dtype="<f4")
    storage = storage_id(FLOATS, "7", 6)
    first, second = build_tensor(storage, 0, (2,), (1,)), build_tensor(storage, 1, (2, 2), (1, 2))
    state = pickle_of(EMPTY_DICT, MARK, text("a"), first, text("b"), second, SETITEMS)
    found = read_back(weights_file, join_torch_file(state, ["7"], [storage_of(numbers)]))
    np.testing.assert_array_equal(found["a"], [0, 1])
    np.testing.assert_array_equal(found["b"], [[1, 3], [2, 4]])


# Files that are damaged or hostile ------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_changed_byte_is_read_or_refused_in_one_line(weights_file: Path, data: st.DataObject) -> None:
    content = bytearray(make_torch_file({**PLAIN, "count": np.array(3, "<i8")}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(weights_file, bytes(content))


def test_an_unknown_escape_in_a_text_gives_no_warning_beside_the_line(weights_file: Path) -> None:
    read_or_refuse(weights_file, HEADER + pickle_of(b"S'\\o'\n"))


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from([MARK, TUPLE, b"}", b"]", b"q\0", b"h\0"])))
)
def test_any_operations_are_refused_in_one_line(weights_file: Path, operations: list[bytes]) -> None:
    read_or_refuse(weights_file, HEADER + pickle_of(*operations))


@pytest.mark.parametrize("kept", range(0, len(make_torch_file(PLAIN)), 7))
def test_a_file_that_ends_early_is_refused(weights_file: Path, kept: int) -> None:
    with pytest.raises(ConfigError, match="not a weights file"):
        read_back(weights_file, make_torch_file(PLAIN)[:kept])


def test_nothing_in_a_file_is_run(weights_file: Path, tmp_path: Path) -> None:
    canary = tmp_path / "was_run"
    arguments = MARK + text(f"touch {canary}") + TUPLE
    for name in ("os system", "posix system", "subprocess getoutput", "builtins eval", "builtins exec"):
        state = pickle_of(name_of(name), arguments, REDUCE)
        with pytest.raises(ConfigError, match=f"it names {name}"):
            read_back(weights_file, HEADER + state)
    assert not canary.exists()


PLAIN_TENSOR = tensor_of(PLAIN["weight"], "0")
STORAGE = storage_id(FLOATS, "0", 6)


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ((b"ios\nsystem\n",), "no operation .*INST"),
        ((MARK, name_of("collections OrderedDict"), b"o"), "no operation .*OBJ"),
        ((name_of("collections OrderedDict"), b")", b"\x81"), "no operation .*NEWOBJ"),
        ((text("os"), text("system"), b"\x93"), "no operation .*STACK_GLOBAL"),
        ((b"\x82\x01",), "no operation .*EXT1"),
        ((b"Pstorage\n",), "no operation .*PERSID"),
        ((b"\x8c\x01a",), "no operation .*SHORT_BINUNICODE"),
        ((b"\x80\x04",), "pickle protocol 4"),
        ((text("x"), b")", REDUCE), "str instead of name"),
        ((name_of("torch FloatStorage"), b")", REDUCE), "a call of torch FloatStorage with 0 arguments"),
        ((name_of("collections OrderedDict"), MARK, text("x"), TUPLE, REDUCE), "a call of collections OrderedDict"),
        ((b"h\x07",), "never kept"),
        ((REDUCE,), "a value that is not there"),
        ((MARK, b"N", MARK, REDUCE), "a value that is not there"),
        ((TUPLE,), "a mark that is not there"),
        ((EMPTY_DICT, b")", PLAIN_TENSOR, SETITEM), "tuple instead of str"),
        ((EMPTY_DICT, MARK, text("a"), SETITEMS), "a key without a value"),
        ((EMPTY_DICT, text("a"), BUILD), "str instead of dict"),
        ((EMPTY_DICT, text("a"), integer(1), SETITEM), "int instead of tensor"),
        ((b"N",), "nonetype instead of dict"),
        ((MARK, text("module"), TUPLE, b"Q"), "a reference that is no storage"),
        ((storage_id("torch._utils _rebuild_tensor_v2", "0", 6),), "a storage of an unknown kind"),
        ((storage_id(FLOATS, "0", -1),), "a storage of an unknown kind"),
        ((storage_id("torch HalfStorage", "0", 6),), "it names torch HalfStorage"),
        ((build_tensor(STORAGE, 0, (2, 3), (1,)),), "an impossible shape"),
        ((build_tensor(STORAGE, 0, (-2, -3), (3, 1)),), "an impossible shape"),
        ((build_tensor(STORAGE, 0, (0, 3), (3, 1)),), "an impossible shape"),
        ((build_tensor(STORAGE, -1, (2,), (1,)),), "an impossible shape"),
        ((build_tensor(STORAGE, 5, (6,), (-1,)),), "an impossible shape"),
        ((build_tensor(STORAGE, 1, (2, 3), (3, 1)),), "reaches beyond its storage"),
        ((build_tensor(STORAGE, 0, (2, 3), (2**31 - 1, 1)),), "reaches beyond its storage"),
        ((build_tensor(STORAGE, 0, (2**31 - 1, 2**31 - 1), (0, 0)),), "reaches beyond its storage"),
        ((b"X\xff\xff\xff\x7f",), "expected 2147483647 bytes"),
    ],
)
def test_hostile_pickles_are_refused(weights_file: Path, operations: tuple[bytes, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_back(weights_file, HEADER + pickle_of(*operations))
    assert str(weights_file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_brackets_do_not_fill_the_memory(weights_file: Path) -> None:
    with pytest.raises(ConfigError, match="more than 200,000 operations"):
        read_back(weights_file, HEADER + pickle_of(EMPTY_DICT * 2 * MOST_OPERATIONS))


def test_a_tuple_in_a_tuple_for_ever_ends_at_once(weights_file: Path) -> None:
    """Each tuple holds the one before it twice: hashing the last would take 2 to the power of 2,000 steps."""
    folded = b")" + b"q\0h\0\x86" * 2000
    with pytest.raises(ConfigError, match="tuple instead of str"):
        read_back(weights_file, HEADER + pickle_of(EMPTY_DICT, folded, b"N", SETITEM))


STATE, NUMBERS = state_of(PLAIN), storage_of(PLAIN["weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "pickle exhausted"),
        (b"PK\x03\x04" + bytes(30), "zip archive"),
        (b"\x89PNG\r\n\x1a\n", "not a weights file"),
        (pickle_of(integer(7)) + VERSION + machine_of(), "magic number"),
        (MAGIC + pickle_of(integer(1000)) + machine_of(), "version of the format"),
        (MAGIC + VERSION + machine_of(b"\x89"), "not little-endian"),
        (MAGIC + VERSION + pickle_of(b"N"), "nonetype instead of dict"),
        (join_torch_file(STATE, [], [NUMBERS]), "not those that the tensors name"),
        (join_torch_file(STATE, ["0", "0"], [NUMBERS]), "not those that the tensors name"),
        (join_torch_file(STATE, ["1"], [NUMBERS]), "not those that the tensors name"),
        (join_torch_file(STATE, ["0"], [NUMBERS[:-1]]), "ends early"),
        (join_torch_file(STATE, ["0"], [NUMBERS, b"x"]), "something follows"),
        (join_torch_file(STATE, ["0"], [storage_of(np.zeros(5, "<f4")), bytes(4)]), "another length"),
        (
            join_torch_file(
                pickle_of(
                    *(EMPTY_DICT, text("a"), PLAIN_TENSOR, SETITEM, text("b")),
                    *(tensor_of(np.zeros(3, "<i8"), "0"), SETITEM),
                ),
                ["0"],
                [NUMBERS],
            ),
            "the same key",
        ),
        (HEADER + STOP, "a value that is not there"),
    ],
)
def test_damaged_files_are_refused(weights_file: Path, content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_back(weights_file, content)
    assert str(weights_file) in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.pth"):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            read_torch_weights(path)
        assert str(path) in str(caught.value)
