"""Memory of which images of a source were compared by their look, and which of them are copies of each other.

It lies in the workspace under the keys of the images (`derived/KEY-looks.json`), so that one more night compares what
is new with all, and a training knows of copies without looking. Where it is gone, all is compared again.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn.digest import canonical_json, hash_json, seal, unseal
from cnn.errors import StorageError
from cnn.images.spec import ImageSpec
from infra.storage.layout import looks_path
from infra.storage.store import Store

FORMAT = 3  # raise it when the same images would give other pairs
KEY = 16  # bytes of an image key

LookPairs = NDArray[np.int64]
"""(pairs, 2): rows of images that are copies of each other, the lower one first."""


@dataclass(frozen=True)
class LookMemory:
    """What was compared before: image keys, and the pairs of them that are copies."""

    keys: frozenset[bytes] = frozenset()
    pairs: tuple[tuple[bytes, bytes], ...] = ()

    def knows(self, keys: Sequence[bytes]) -> bool:
        """Whether all these images were compared with each other."""
        return self.keys.issuperset(keys)

    def place_pairs(self, keys: Sequence[bytes]) -> LookPairs:
        """The pairs by the numbers of `keys`; those whose images are gone are left out."""
        places: Mapping[bytes, int] = {key: number for number, key in enumerate(keys)}
        pairs = [(places[one], places[other]) for one, other in self.pairs if one in places and other in places]
        return np.sort(np.array(pairs, np.int64).reshape(-1, 2), axis=1)


def locate_looks(source: str, image: ImageSpec) -> str:
    """Where the memory of a source lies whose images are prepared in this way."""
    return looks_path(hash_json([FORMAT, source, image.model_dump(mode="json")])[:40])


def recall_looks(store: Store, place: str) -> LookMemory:
    """What was compared before; nothing where it is not remembered, or not as it was written."""
    try:
        facts = json.loads(unseal(store.read(place)))
        keys = _split_keys(facts["keys"])
        return LookMemory(frozenset(keys), tuple((keys[one], keys[other]) for one, other in facts["pairs"]))
    except (StorageError, ValueError, KeyError, TypeError, IndexError):
        return LookMemory()


def remember_looks(store: Store, place: str, keys: Sequence[bytes], pairs: LookPairs) -> None:
    """Write down that images of these keys were compared, and which of them, by their numbers, are copies."""
    facts = {"keys": base64.b64encode(b"".join(keys)).decode(), "pairs": pairs.tolist()}
    store.write(place, seal(canonical_json(facts).encode()))


def _split_keys(text: str) -> list[bytes]:
    data = base64.b64decode(text)
    return [data[start : start + KEY] for start in range(0, len(data), KEY)]
