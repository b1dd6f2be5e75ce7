"""A list of files in, one JSON line out: images a second of webdataset's writer behind Pillow, in a warm pool.

    python peer_webdataset.py LIST OUTPUT SIZE PROCESSES jpg|npy

Each process writes shards of its own, as its users do: `jpg` encodes the pixels again, `npy` stores them raw.
"""

import json
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import webdataset  # type: ignore[import-not-found,import-untyped,unused-ignore]
from PIL import Image, ImageOps

GROUPS_PER_PROCESS = 4


def write_shard(work: tuple[list[str], str, int, str]) -> int:
    """Open, convert, resize and store some files in a shard; how many there were."""
    paths, shard, size, kind = work
    with webdataset.TarWriter(shard) as writer:
        for path in paths:
            with Image.open(path) as image:
                pixels = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
            value: Any = np.asarray(pixels) if kind == "npy" else pixels
            file = Path(path)
            writer.write({"__key__": f"{file.parent.name}-{file.stem}", kind: value, "txt": file.parent.name})
    return len(paths)


def main() -> None:
    """Warm the pool with one shard for each process, then measure."""
    listing, output, size, processes, kind = sys.argv[1:]
    paths = Path(listing).read_text().splitlines()
    Path(output).mkdir(parents=True)
    groups = GROUPS_PER_PROCESS * int(processes)
    work = [(paths[n::groups], f"{output}/{n:05}.tar", int(size), kind) for n in range(groups)]
    with get_context("spawn").Pool(int(processes)) as pool:
        first = [(part[:8], f"{shard}.warm", side, form) for part, shard, side, form in work]
        pool.map(write_shard, first, chunksize=1)
        began = time.perf_counter()
        done = sum(pool.imap_unordered(write_shard, work))
        seconds = time.perf_counter() - began
    print(json.dumps({"images_per_second": done / seconds, "tuned": None}))


if __name__ == "__main__":
    main()
