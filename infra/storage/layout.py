"""Where everything lies in a workspace: the paths of datasets, chunks, shards, bundles and batches."""

import hashlib
import re

from cnn.digest import hash_json

SCRATCH = "tmp"  # what is being written
DATASET_POINTERS = "datasets/latest/"
BATCHES = "batches/"
BATCH_POINTERS = f"{BATCHES}latest/"
BUNDLES = "bundles/"
RUNS = "runs/"
REFUSED = "refused/"
FEATURES_FOLDER = "features/"
BACKBONES = "backbones/"
RESULTS = "results/"


def dataset_pointer_path(source: str) -> str:
    """What names the latest version of a source."""
    return f"{DATASET_POINTERS}{_name_source(source)}.json"


def manifest_path(dataset: str) -> str:
    """The manifest of a version; a version without one does not exist."""
    return f"datasets/{dataset}/manifest.json"


def ledger_path(dataset: str) -> str:
    """The table with one row for each file of a version."""
    return f"datasets/{dataset}/ledger.parquet"


def outcomes_path(dataset: str) -> str:
    """The list of a version's duplicates, conflicts and leaks, for spreadsheets."""
    return f"datasets/{dataset}/outcomes.csv"


def refusal_path(source: str) -> str:
    """The list of the quarantined files of a source for which nothing was published."""
    return f"{REFUSED}{_name_source(source)}/quarantine.csv"


def chunk_report_path(key: str) -> str:
    """What the files of a chunk came to when a dataset was built."""
    return f"chunks/{key}.arrow"


def shard_path(digest: str) -> str:
    """A file of records, named by its content."""
    return f"shards/{digest}.tfrecord"


def derived_path(key: str) -> str:
    """What was computed from shards and need not be computed again."""
    return f"derived/{key}.json"


def shard_sums_path(digest: str) -> str:
    """The sums over a shard's pixels from which the normalization is computed."""
    return derived_path(f"{digest}-sums")


def looks_path(key: str) -> str:
    """Which images of a source were compared by their look, and which are copies."""
    return derived_path(f"{key}-looks")


def backbone_path(sha256: str) -> str:
    """A frozen backbone as ONNX, named by its sha256."""
    return f"{BACKBONES}{sha256}.onnx"


def backbone_record_path(digest: str) -> str:
    """Which file is the backbone of this description."""
    return f"{BACKBONES}{digest}.json"


def features_folder(backbone: str, pixels: str) -> str:
    """What lies before the features that a backbone gave for pixels made in one way, both given by their digests."""
    return f"{FEATURES_FOLDER}{backbone[:16]}-{pixels[:16]}/"


def feature_block_path(backbone: str, pixels: str, key: str) -> str:
    """The features of some images in such a folder."""
    return f"{features_folder(backbone, pixels)}{key}.bin"


def checkpoint_path(run: str, name: str) -> str:
    """A checkpoint of a training that has not ended; without a name, what the paths of all begin with."""
    return f"runs/{run}/checkpoints/{name}"


def bundle_path(digest: str, name: str) -> str:
    """A file of a model that batches were scored with."""
    return f"{BUNDLES}{digest}/{name}"


def batch_path(batch: str, name: str) -> str:
    """A file of a scored batch."""
    return f"{BATCHES}{batch}/{name}"


def score_part_path(batch: str, key: str) -> str:
    """The predictions of one chunk of a batch that is not published yet."""
    return batch_path(batch, f"parts/{key}.parquet")


def score_features_path(batch: str, key: str) -> str:
    """The features of the images that were scored in one chunk of a batch that is not published yet."""
    return batch_path(batch, f"parts/{key}.features.parquet")


def results_path(source: str, model: str, name: str) -> str:
    """A file of all that was predicted so far for a source by a model: it stays at its place, and is replaced."""
    return f"{RESULTS}{model}/{slug_of(source)}-{hash_json([source, model])[:8]}/{name}"


def batch_pointer_path(source: str, model: str) -> str:
    """What names the latest batch of a source and a model."""
    digest = hash_json([source, model])
    return f"{BATCH_POINTERS}{digest[:16]}.json"


def slug_of(source: str) -> str:
    """The last part of an address in lower-case letters, digits and dashes."""
    last = source.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40] or "dataset"


def _name_source(source: str) -> str:
    """One name for each source, that begins with a readable one."""
    return f"{slug_of(source)}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
