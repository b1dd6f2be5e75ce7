"""Numbers for texts that many rows share, so that each text is held once: a dictionary encoder that grows."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

NONE = -1  # the number of a row without a text


class TextIndex(dict[str | None, int]):
    """Text → its number; a new text gets the next one. Numbers never change, so whoever shares an index may go on."""

    def __init__(self) -> None:
        super().__init__({None: NONE})
        self.texts: list[str] = []

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self.texts)
        self.texts.append(text)
        return number

    def encode(self, texts: Iterable[str | None]) -> NDArray[np.int32]:
        """int32 (texts,): the number of each text, -1 for None."""
        return np.fromiter(map(self.__getitem__, texts), np.int32)

    def encode_column(self, column: pa.ChunkedArray | pa.Array) -> NDArray[np.int32]:
        """int32 (rows,): the number of each text of an Arrow column, -1 for null."""
        flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        flat = flat if pa.types.is_dictionary(flat.type) else flat.dictionary_encode()
        numbers = np.append(self.encode(flat.dictionary.to_pylist()), np.int32(NONE))
        places = np.asarray(flat.indices.fill_null(len(numbers) - 1).to_numpy(zero_copy_only=False), np.int64)
        return np.asarray(numbers[places], np.int32)

    def decode(self, numbers: NDArray[np.int32]) -> pa.DictionaryArray:
        """The texts of these numbers as a dictionary array over all texts, null for -1."""
        indices = pa.array(np.maximum(numbers, 0), pa.int32(), mask=numbers < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(self.texts, pa.string()))
