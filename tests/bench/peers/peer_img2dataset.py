"""A list of files in, one JSON line out: images a second of img2dataset, by its own stamps of its shards.

    python peer_img2dataset.py LIST OUTPUT SIZE PROCESSES

The time runs from the first shard's start to the last one's end, so that its processes' imports do not count.
Addresses are file://, which leaves out any network; of its thread counts the best in a trial is taken.
"""

import json
import os
import sys
from pathlib import Path

from img2dataset import download  # type: ignore[import-not-found]

THREADS = (1, 4, 16)
SHARDS_PER_PROCESS = 4  # it replaces a process after five


def run(paths: list[str], folder: Path, size: int, processes: int, threads: int) -> float:
    """Images a second. Raises: RuntimeError, when an image is missing in the output."""
    folder.mkdir(parents=True)
    addresses = folder / "list.txt"
    addresses.write_text("".join(f"file://{path}\n" for path in paths))
    download(
        url_list=str(addresses),
        output_folder=str(folder / "shards"),
        output_format="webdataset",
        image_size=size,
        resize_mode="center_crop",
        processes_count=processes,
        thread_count=threads,
        number_sample_per_shard=-(-len(paths) // (SHARDS_PER_PROCESS * processes)),
        extract_exif=False,
    )
    stats = [json.loads(path.read_text()) for path in (folder / "shards").glob("*_stats.json")]
    done = sum(each["successes"] for each in stats)
    if done != len(paths):
        raise RuntimeError(f"img2dataset wrote {done} of {len(paths)} images")
    return float(done / (max(each["end_time"] for each in stats) - min(each["start_time"] for each in stats)))


def main() -> None:
    """Choose the number of threads in a trial, unless it is given; then measure."""
    listing, output, size, processes, *given = sys.argv[1:]
    paths = Path(listing).read_text().splitlines()
    silence, stdout = os.open(os.devnull, os.O_WRONLY), os.dup(1)
    os.dup2(silence, 1)
    if given:
        threads = int(given[0])
    else:
        trial = paths[: max(1, len(paths) // 5)]
        rates = {n: run(trial, Path(output, f"trial-{n}"), int(size), int(processes), n) for n in THREADS}
        threads = max(rates, key=lambda number: rates[number])
    rate = run(paths, Path(output, "run"), int(size), int(processes), threads)
    os.dup2(stdout, 1)
    print(json.dumps({"images_per_second": rate, "tuned": threads}))


if __name__ == "__main__":
    main()
