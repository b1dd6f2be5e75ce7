"""Everything that is known of one image: what became of it, who learnt from it, what was predicted, and why."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.dataset.loader import open_split
from cnn.dataset.seen_images import HEAD, read_heads
from cnn.errors import BadImage, RegistryError, SafelightError, SourceError
from cnn.files import replace_file
from cnn.images.heat_overlay import join_with_heat
from cnn.images.pixels import encode_png
from cnn.inference.bundle import BundleInfo, read_bundle, read_seen_images
from cnn.inference.heat_maps import HeatMapError, load_heat_mapper
from cnn.inference.scorer import load_scorer, rank_classes
from flows.models import open_present, split_model_version
from flows.progress import log_message
from infra.cluster.decoder_pool import decode_in_child
from infra.machine.user_dirs import cache_dir
from infra.registry.registry import Registry
from infra.registry.tracking import holds_registry, resolve_tracking
from infra.registry.versions import VersionInfo
from infra.storage.disk_errors import explain_disk_errors
from infra.storage.store import Store, open_source, open_store
from tasks.dataset.gc import latest_versions
from tasks.dataset.image_history import (
    DatasetSighting,
    WantedImage,
    list_manifests,
    list_sightings,
    open_ledgers,
)
from tasks.dataset.ledger import TABLE_VALUES
from tasks.dataset.version import read_manifest
from tasks.files.decoding import read_limit
from tasks.files.paths import restore_path
from tasks.score.image_history import PastPrediction, join_predictions, list_batches, open_predictions

TOP = 3  # classes of the answer


@dataclass(frozen=True)
class FoundImage:
    """An image that was asked about: its sha256, and its bytes where they are to be had, with the address that gave
    them."""

    digest: str
    data: bytes | None = None
    address: str = ""


@dataclass(frozen=True)
class ImageHistory:
    """What a workspace knows of an image; `datasets` are all versions that it was looked for in."""

    datasets: frozenset[str]
    sightings: Sequence[DatasetSighting]
    predictions: Sequence[PastPrediction]


def explain_image(workspace: str, image: str, model: str | None, out: Path | None) -> dict[str, Any]:
    """What is known of an image, given by its path, its sha256 (8 digits do), or its path below a source; and what
    `model` (NAME or NAME@VERSION; else the champion) says of it now, with the heat map as a PNG in `out`.

    Raises:
        RegistryError: there is no such model, or it must be named.
        SourceError: there is no such image.
    """
    store, given = open_store(workspace), read_given(image)
    digest, history = find_history(store, image if given is None else given.digest, is_given=given is not None)
    found = given or fetch_image(digest, history)
    registry = open_present(workspace) if holds_registry(resolve_tracking(workspace)[0]) else None
    learners, now = [], None
    if registry is not None:
        learners = list_learners(registry, digest, history)
        asked = choose_version(registry, model, history, {each["model"] for each in learners})
        now = answer_now(registry, store, asked, found, history, out)
    return {
        "digest": digest,
        "address": found.address or None,
        "datasets": [describe_sighting(each) for each in history.sightings],
        "versions": learners,
        "predictions": [describe_prediction(each) for each in history.predictions],
        "now": now,
    }


def read_given(text: str) -> FoundImage | None:
    """The image that lies at a path or an address; None where the text is neither. Raises: SourceError."""
    path = Path(text).expanduser()
    if "://" not in text and not path.is_file():
        return None
    folder, _, name = (text if "://" in text else str(path.absolute())).rpartition("/")
    return _read_image_at(folder or "/", name, text)


def find_history(store: Store, text: str, is_given: bool = False) -> tuple[str, ImageHistory]:
    """(sha256, what the workspace knows of it) of the image that a text means; `is_given`: the image itself is there,
    and the text is its sha256. Every ledger and every batch is read once.

    Raises:
        SourceError: nothing has it, or it is not clear which image is meant.
    """
    wanted, manifests, batches = WantedImage(text), list_manifests(store), list_batches(store)
    # The newest are the likeliest to know a path: what comes before is then looked through for its digest at once.
    files = [*open_ledgers(store, manifests), *open_predictions(store, batches)]
    rows = wanted.search(files[::-1])[::-1]
    digest = text if is_given else choose_digest(wanted, store)
    latest, count = latest_versions(store), len(manifests)
    sightings = [
        sighting
        for manifest, own in zip(manifests, rows[:count], strict=True)
        for sighting in list_sightings(manifest, own, digest, manifest.dataset in latest)
    ]
    predictions = join_predictions(batches, rows[count:], digest)
    return digest, ImageHistory(frozenset(each.dataset for each in manifests), sightings, predictions)


def choose_digest(wanted: WantedImage, store: Store) -> str:
    """The sha256 of the one image that was found. Raises: SourceError."""
    text, digests = wanted.text, sorted(wanted.digests)
    if len(digests) > 1:
        shown = ", ".join(digest[:HEAD] for digest in digests[:5])
        raise SourceError(f"{text} stands for {len(digests)} images ({shown}): give one of these digests")
    if not digests:
        raise SourceError(
            f"{text} is no file here, and no dataset and no batch of {store.uri} knows it; give the path of an image, "
            "or its sha256, as in predictions.parquet"
        )
    return digests[0]


def _read_image_at(folder: str, name: str, text: str) -> FoundImage:
    try:
        data = open_source(folder).read(name)
    except BadImage as fault:
        raise SourceError(f"{text} cannot be read ({fault}); give the path of an image") from None
    return FoundImage(hashlib.sha256(data).hexdigest(), data, text)


def fetch_image(digest: str, history: ImageHistory) -> FoundImage:
    """The image with its bytes, from wherever it still is what it was; without them where it is nowhere."""
    places = [(each.source, each.row) for each in history.sightings]
    places += [(each.source, each.row) for each in reversed(history.predictions)]
    for uri, row in places:
        try:
            source, path = open_source(uri), restore_path(row["path"], row["path_raw"])
            data = source.read(path)
        except (SafelightError, BadImage):
            continue
        if hashlib.sha256(data).hexdigest() == digest:
            return FoundImage(digest, data, source.uri_of(path))
    return FoundImage(digest)


def describe_sighting(sighting: DatasetSighting) -> dict[str, Any]:
    """A dataset version's row of the image, as the command answers it."""
    named = ("path", "outcome", "reason", "label", "split", "split_origin", "group")
    return {
        "dataset": sighting.dataset,
        "latest": sighting.is_latest,
        "source": sighting.source,
        **{name: sighting.row[name] for name in named},
        "table": json.loads(sighting.row[TABLE_VALUES] or "{}"),
        "copies": [{name: each[name] for name in ("path", "outcome", "label", "split")} for each in sighting.copies],
    }


def describe_prediction(past: PastPrediction) -> dict[str, Any]:
    """A prediction as the command answers it."""
    named = ("path", "label", "confidence", "decision", "outcome", "reason")
    return {
        "model": past.model,
        "version": past.version,
        "scored_at": past.scored_at.astimezone(UTC).isoformat(timespec="seconds"),
        "source": past.source,
        "batches": past.batches,
        **{name: past.row[name] for name in named},
    }


def list_learners(registry: Registry, digest: str, history: ImageHistory) -> list[dict[str, Any]]:
    """The versions of all models that know the image: by their dataset where it is still in the workspace, else by
    what their bundle keeps of it."""
    by_dataset = dict.fromkeys(history.datasets) | {each.dataset: each for each in history.sightings}
    known: list[dict[str, Any]] = []
    silent = 0
    for name in registry.names():
        for version in registry.versions(name):
            silent += bool(version.bundle) and not version.has_files and version.dataset not in by_dataset
            role = _find_role(registry, version, digest, by_dataset)
            if role:
                known.append(
                    {"model": name, "version": version.version, "aliases": list(version.aliases), "role": role}
                )
    if silent:
        log_message(f"why: {silent} older versions may know it too: their files and datasets were removed by gc")
    return known


def _find_role(
    registry: Registry, version: VersionInfo, digest: str, by_dataset: Mapping[str, DatasetSighting | None]
) -> str | None:
    """What an image was to a version: train, validation or test; learnt or held out where only its bundle knows."""
    if version.dataset in by_dataset:
        if (sighting := by_dataset[version.dataset]) is None:
            return None
        pictures = (sighting.row, *sighting.copies)  # of equal ones, the first alone is in the dataset
        return next((str(row["split"]) for row in pictures if row["outcome"] == "ok"), None)
    if not version.has_files:
        return None
    folder = registry.fetch_bundle(version, cache_dir() / "champions")
    seen = read_seen_images(folder, read_bundle(folder))
    if seen is None:
        return None
    found = np.flatnonzero(seen.facts.keys == read_heads([digest])[0])
    return None if not len(found) else "learnt" if seen.learnt[found].any() else "held out"


def answer_now(
    registry: Registry,
    store: Store,
    version: VersionInfo | str,
    found: FoundImage,
    history: ImageHistory,
    out: Path | None,
) -> dict[str, Any]:
    """What a version says of the image at this moment, and where its heat map lies; `note` says why something of that
    is missing, as where no version is asked but the reason is given."""
    nothing = dict.fromkeys(("model", "version", "label", "confidence", "heat_map"), None) | {"top_k": [], "note": None}
    if isinstance(version, str):
        return nothing | {"note": version}
    named = nothing | {"model": version.name, "version": version.version}
    if version.bundle and not version.has_files:
        return named | {"note": version.describe_removal()}
    folder = registry.fetch_bundle(version, cache_dir() / "champions")
    try:
        pixels = read_pixels(store, found, read_bundle(folder), history.sightings)
    except BadImage as fault:
        return named | {"note": f"the image cannot be decoded: {fault}"}
    if pixels is None:
        return named | {"note": "the file is gone from every place where it was seen; give its path"}
    path = out or cache_dir() / "heat-maps" / f"{found.digest[:HEAD]}-{version.name}-{version.version}.png"
    return named | ask_version(folder, pixels, path)


def ask_version(folder: Path, pixels: NDArray[np.uint8], path: Path) -> dict[str, Any]:
    """What the model in a bundle's folder says of these pixels; its heat map is written to `path`, if it has any."""
    heat, note = None, None
    try:
        mapper = load_heat_mapper(folder, os.cpu_count() or 1)
        explained = mapper.explain(pixels[None])
        classes, probabilities, heat = mapper.scorer.info.classes, explained.probabilities[0], explained.heat[0]
    except HeatMapError as error:
        scorer, note = load_scorer(folder), str(error)
        classes, probabilities = scorer.info.classes, scorer.predict(pixels[None])[0]
    if heat is not None:
        write_heat_map(path, pixels, heat)
        note = None if heat.any() else "no place of the image speaks for this class, so its heat map is empty"
    top = [{"label": label, "probability": found} for label, found in rank_classes(probabilities, classes, TOP)]
    return {
        "label": top[0]["label"],
        "confidence": top[0]["probability"],
        "top_k": top,
        "heat_map": None if heat is None else str(path.absolute()),
        "note": note,
    }


def write_heat_map(path: Path, pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> None:
    """Write the picture, and beside it the same with its heat, as a PNG. Raises: StorageError."""
    with explain_disk_errors("write the heat map to", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(encode_png(join_with_heat(pixels, heat)))


def read_pixels(
    store: Store, found: FoundImage, info: BundleInfo, sightings: Sequence[DatasetSighting]
) -> NDArray[np.uint8] | None:
    """uint8 (height, width, channels): what the network sees of the image; where its file is gone, what a shard holds,
    or None.

    Raises:
        BadImage: it cannot be decoded.
    """
    if found.data is not None:
        return decode_in_child(found.data, info.image, read_limit()).pixels
    for each in sightings:
        manifest = read_manifest(store, each.dataset)
        if each.row["outcome"] != "ok" or not manifest.image.gives_same_pixels(info.image):
            continue
        for ref in manifest.splits[each.row["split"]]:
            store.fetch(ref.path)
        shards = open_split(manifest, each.row["split"], store.root)
        keys = shards.keys()
        rows = [row for row in np.flatnonzero(shards.copies == 0).tolist() if keys[row] == found.digest]
        if rows:
            return np.asarray(shards.batch(np.array(rows[:1]))[0][0])
    return None


def choose_version(
    registry: Registry, model: str | None, history: ImageHistory, learners: Collection[str]
) -> VersionInfo | str:
    """The version that is asked: the one that is named; else the champion of the only model, of the only one that has
    predicted the image, or of the only one with a version that knows it (`learners`). Else why none is.

    Raises:
        RegistryError: there is no such model or version as `model`.
    """
    if model is not None:
        name, number = split_model_version(model)
        return registry.require_champion(name) if number is None else registry.version(name, number)
    names = registry.names()
    for known in ({each.model for each in history.predictions}, set(learners)):
        if len(names) > 1 and len(known & set(names)) == 1:
            names = sorted(known & set(names))
    if len(names) != 1:
        return f"say which model is meant, with --model: {', '.join(names) or 'there is none yet'}"
    try:
        return registry.require_champion(names[0])
    except RegistryError as error:
        return str(error)
