"""The one module that knows the names of what is measured: decoder, steps of a preparation, command line."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn.backend import import_keras
from cnn.dataset.copy_check import confirm_copies
from cnn.dataset.copy_search import find_copy_candidates
from cnn.dataset.loader import ShardSet, iterate_steps, open_split
from cnn.dataset.manifest import Manifest
from cnn.dataset.near_duplicates import find_near_duplicates, perceptual_hashes, to_grey16
from cnn.dataset.normalization import set_normalization
from cnn.dataset.split import SplitSpec
from cnn.images.pixels import make_grey32
from cnn.images.read import read_image
from cnn.images.spec import AugmentSpec, ImageSpec
from cnn.inference.backbone import describe_backbone
from cnn.inference.bundle import INT8, ONNX, BundleFacts, write_bundle
from cnn.inference.int8 import add_int8, quantize_network
from cnn.inference.onnx import open_session
from cnn.inference.scorer import Precision
from cnn.models.architecture import ModelSpec, build_model
from cnn.models.head import squash_to_unit
from cnn.training.batches import as_training_dataset
from cnn.training.heads import VARIANCES, FeatureSet, HeadPlan, fit_head, predict_head
from cnn.training.plan import TrainingSize, plan_fit
from cnn.training.spec import FitPlan, FitSpec, Recipe
from infra.cluster.spec import ClusterSpec, WorkEstimate
from infra.cluster.workers import Workers, open_workers
from infra.registry.bundles import upload_bundle
from infra.storage.layout import backbone_path, bundle_path
from infra.storage.store import open_source, open_store, reuse_source
from tasks.features.compute import compute_blocks
from tasks.features.plan import plan_features
from tasks.features.spec import BackboneRecord, ExportJob
from tasks.files.chunks import Chunk
from tasks.files.listing import list_source
from tasks.files.spec import ChunkSpec
from tasks.prepare.job import PrepareJob
from tasks.prepare.pipeline import build_chunks, finish_version
from tasks.prepare.plan import list_files, plan_build
from tasks.prepare.spec import BudgetSpec, BuildSpec
from tasks.score.chunk import score_chunk, warm_up_scoring
from tasks.score.plan import plan_scoring
from tasks.score.publish import publish_batch
from tasks.score.spec import ModelRef, ScoreJob, ScoreSpec
from tasks.train.process import TrainingProcess

SAFELIGHT = str(Path(sys.executable).with_name("safelight"))
DASK = str(Path(sys.executable).with_name("dask"))
FOREIGN = ("AWS_", "DASK_", "MLFLOW_", "PREFECT_", "SAFELIGHT_")


def read_pixels(data: bytes, size: int) -> NDArray[np.uint8]:
    """Decode and resize one file: uint8 (size, size, 3)."""
    return read_image(data, ImageSpec(size=(size, size))).pixels


def list_paths(address: str) -> list[str]:
    """The path of each file of this source."""
    return [entry.path for entry in open_source(address).list()]


def open_reader(address: str) -> Callable[[str], bytes]:
    """What gives the bytes of a file; in a process, one for each address."""
    return reuse_source(address).read


def open_processes(processes: int) -> Any:
    """A block with a cluster of worker processes."""
    return open_workers(ClusterSpec(workers=processes))


def time_prepare(source: Path, workspace: str, workers: Workers, size: int, copies: int = 0, group: str = "") -> float:
    """Seconds from the first chunk submitted to the manifest published, in a workspace that is new."""
    split = SplitSpec(group=group or None)
    build = BuildSpec(image=ImageSpec(size=(size, size)), augment=AugmentSpec(copies=copies), split=split)
    job = PrepareJob(open_source(str(source)), open_store(workspace), build, BudgetSpec(), ChunkSpec().files)
    plan = plan_build(job, list_files(job), None)
    began = time.monotonic()
    built = build_chunks(job, plan, workers.run, lambda chunk: None)
    finish_version(job, built, workers.run)
    return time.monotonic() - began


@dataclass(frozen=True)
class TrainingTrial:
    """A compiled network and what feeds it: the rows of a dataset, changed anew in every epoch."""

    shards: ShardSet
    model: Any
    plan: FitPlan

    def time_loader(self, steps: int) -> float:
        """Images/s of the batches alone, from when the first is there."""
        batches = iterate_steps(self.shards, self.plan.batch_size, 0, range(steps + 1), self.plan.augment)
        next(batches)
        began = time.monotonic()
        for _ in batches:
            pass
        return steps * self.plan.batch_size / (time.monotonic() - began)

    def time_training(self, steps: int, fed: bool) -> float:
        """Images/s of so many steps; without being `fed` on one batch again and again."""
        batches = as_training_dataset(self.shards, self.plan, 2, range(steps))
        if not fed:
            batches = batches.take(1).cache().repeat(steps)
        began = time.monotonic()
        self.model.fit(batches, steps_per_epoch=steps, verbose=0, shuffle=False)
        return steps * self.plan.batch_size / (time.monotonic() - began)


def open_training(source: Path, workspace: str, network: str, recipe: Recipe, side: int) -> TrainingTrial:
    """A preset or a backbone with random weights, compiled and warm, and a dataset of the source's images."""
    image = ImageSpec(size=(side, side))
    build = BuildSpec(image=image, augment=AugmentSpec(), split=SplitSpec(validation=0.0, test=0.0))
    job = PrepareJob(open_source(str(source)), open_store(workspace), build, BudgetSpec(), ChunkSpec().files)
    with open_processes(0) as workers:
        built = build_chunks(job, plan_build(job, list_files(job), None), workers.run, lambda chunk: None)
        manifest = finish_version(job, built, workers.run).manifest
    shards = open_split(manifest, "train", Path(workspace))
    spec = ModelSpec.model_validate({"preset": network} if recipe == "scratch" else {"backbone": network})
    plan = plan_fit(FitSpec(), recipe, TrainingSize(shards.rows, True))
    model = build_model(spec, image, manifest.normalization, manifest.classes)
    model.compile(import_keras().optimizers.AdamW(1e-4), "binary_crossentropy")
    trial = TrainingTrial(shards, model, plan)
    trial.time_training(2, fed=True)
    return trial


@dataclass(frozen=True)
class FeatureSubject:
    """A prepared workspace with a frozen EfficientNet-Lite0 as ONNX, and the photographs that it is to see."""

    manifest: Manifest
    workspace: str
    record: BackboneRecord

    @property
    def images(self) -> int:
        """How many there are."""
        return self.manifest.outcomes["ok"]

    def forget(self) -> None:
        """Remove all features."""
        store = open_store(self.workspace)
        for entry in list(store.list("features/")):
            store.delete(entry.path)

    def compute(self) -> None:
        """The stage `features` but for its bar: what is missing is found and computed."""
        with open_workers(ClusterSpec()) as workers:
            plan = plan_features(open_store(self.workspace), self.manifest, self.record)
            compute_blocks(plan, workers.run, lambda done: None)

    def read_network(self) -> bytes:
        """The ONNX file."""
        return open_store(self.workspace).read(backbone_path(self.record.sha256))


def prepare_feature_subject(source: Path, workspace: Path, size: int) -> FeatureSubject:
    """Prepare photographs of the benchmark, and have the training process export the backbone."""
    build = BuildSpec(image=ImageSpec(size=(size, size)), augment=AugmentSpec(), split=SplitSpec(leak_distance=-1))
    store = open_store(str(workspace))
    job = PrepareJob(open_source(str(source)), store, build, BudgetSpec(), ChunkSpec().files)
    with open_workers(ClusterSpec()) as workers:
        built = build_chunks(job, plan_build(job, list_files(job), None), workers.run, lambda chunk: None)
        manifest = finish_version(job, built, workers.run).manifest
    model = ModelSpec(backbone="efficientnet_lite0", weights="imagenet")
    export = ExportJob(
        workspace=store.uri, backbone=describe_backbone(model, manifest.image), folder=str(workspace / "runs")
    )
    with TrainingProcess() as trainer:
        return FeatureSubject(manifest, store.uri, trainer.export(export))


@dataclass(frozen=True)
class ScoreSubject:
    """A folder of photographs, a workspace with the bundle of a network with random weights, and Keras' own file."""

    photos: Path
    workspace: Path
    model: ModelRef
    image: ImageSpec

    def time_score(self, processes: int, precision: Precision = "float32") -> float:
        """Seconds from the first chunk submitted to the published batch; the workers have loaded the network."""
        store, source = open_store(str(self.workspace)), open_source(str(self.photos))
        job = ScoreJob(source.uri, store.uri, self.model, ScoreSpec(precision=precision), datetime.now(UTC))
        plan = plan_scoring(list_source(source), job, None)
        with open_workers(ClusterSpec(workers=processes)) as workers:
            workers.prepare(WorkEstimate(2, 1e9), partial(warm_up_scoring, plan.task))
            began = time.monotonic()
            work = partial(score_chunk, task=plan.task)
            workers.run(work, plan.make_chunks(), lambda done: None, WorkEstimate(2, 1e9), Chunk.isolate)
            record = publish_batch(store, plan, source.read, self.image)
            seconds = time.monotonic() - began
        empty(self.workspace / "batches")
        if record.scored != sum(1 for path in self.photos.rglob("*") if path.is_file()):
            raise RuntimeError(f"{record.scored} were scored")
        return seconds

    def read_network(self) -> bytes:
        """The ONNX file."""
        return (self.workspace / bundle_path(self.model.bundle, ONNX)).read_bytes()

    def time_keras(self) -> float:
        """Seconds in which Keras reads the folder and predicts; the model is loaded, and has compiled its graph."""
        keras = import_keras()
        model = keras.models.load_model(self.workspace / "model.keras")
        model.predict(np.zeros((64, *self.image.shape), np.uint8), batch_size=64, verbose=0)
        began = time.monotonic()
        folder = keras.utils.image_dataset_from_directory(
            self.photos, labels=None, image_size=self.image.size, batch_size=64, shuffle=False, verbose=False
        )
        model.predict(folder, verbose=0)
        return time.monotonic() - began


def write_score_subject(place: Path, photos: Sequence[str], network: Mapping[str, str], side: int) -> ScoreSubject:
    """Copy photographs into a folder, and write the bundle of a network in ten classes."""
    folder, workspace, image = place / "photos" / "all", place / "work", ImageSpec(size=(side, side))
    folder.mkdir(parents=True)
    for number, photo in enumerate(photos):
        shutil.copyfile(photo, folder / f"{number:05}.jpg")
    classes = tuple(f"class {number}" for number in range(10))
    facts = BundleFacts(
        classes=classes,
        image=image,
        model=ModelSpec.model_validate(dict(network)),
        normalization=set_normalization(image, (), 0),
        dataset="bench",
        dataset_digest="0" * 64,
        temperature=1.0,
        split=SplitSpec(),
    )
    model = build_model(facts.model, image, facts.normalization, classes)
    golden = np.random.default_rng(0).integers(0, 256, (8, *image.shape), dtype=np.uint8)
    write_bundle(place / "bundle", model, facts, golden)
    quantize_network(place / "bundle" / ONNX, place / INT8, golden)
    add_int8(place / "bundle", place / INT8)
    digest = upload_bundle(open_store(str(workspace)), place / "bundle")
    model.save(workspace / "model.keras")
    return ScoreSubject(
        folder.parent, workspace, ModelRef(name="bench", version="1", bundle=digest, classes=classes), image
    )


def open_onnx_session(network: bytes, threads: int) -> Any:
    """An ONNX Runtime session on so many threads."""
    return open_session(network, threads)


def find_copies_between(thumbnails: NDArray[np.uint8], held: NDArray[np.bool_], distance: int) -> dict[int, int]:
    """{image held out: one of the others that looks the same}, from grey thumbnails, uint8 (n, 1024)."""
    coarse = perceptual_hashes(thumbnails)
    rows = np.flatnonzero(~held), np.flatnonzero(held)
    return find_near_duplicates(coarse, *rows, distance, lambda wanted: thumbnails[wanted])


def describe_photo(data: bytes) -> NDArray[np.uint8]:
    """uint8 (96, 96): the grey pixels of a file as shards hold them."""
    return np.asarray(read_image(data, ImageSpec(size=(96, 96), channels=1)).pixels[..., 0])


def find_look_pairs(pictures: Sequence[NDArray[np.uint8]]) -> set[tuple[int, int]]:
    """The pairs of grey pictures, uint8 (96, 96), that are copies by their look."""
    shown = np.stack(pictures)
    greys = np.stack([make_grey32(picture[..., None]) for picture in pictures])
    return search_looks(greys, lambda rows: shown[rows])[0]


def search_looks(
    greys: NDArray[np.uint8], fetch_pixels: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
) -> tuple[set[tuple[int, int]], int]:
    """(the pairs of pictures that are copies by their look, how many were looked at), by their grey means, uint8
    (n, 32, 32), and by a function that gives the grey pixels of rows."""
    found = find_copy_candidates(to_grey16(greys.reshape(len(greys), -1)))
    pairs = confirm_copies(found, lambda rows: greys[rows], fetch_pixels)
    return {(int(one), int(other)) for one, other in pairs}, len(found)


@dataclass(frozen=True)
class Home:
    """The environment of commands that have a home, and a local Prefect server, of their own."""

    environment: Mapping[str, str]

    def prepare(self, source: str, workspace: Path, *settings: str) -> dict[str, Any]:
        """What `safelight prepare --json` answers: dataset, digest, shards, seconds, images_per_second, …"""
        done = subprocess.run(
            command_line(source, workspace, settings), env=self.environment, capture_output=True, text=True
        )
        return parse_answer(done.returncode, done.stdout, done.stderr)


def command_line(source: str, workspace: Path, settings: Sequence[str]) -> list[str]:
    """The command of one preparation."""
    chosen = [part for setting in settings for part in ("--set", setting)]
    return [SAFELIGHT, "prepare", source, "--workspace", str(workspace), "--json", *chosen]


def parse_answer(status: int, output: str, errors: str) -> dict[str, Any]:
    """The object that a command printed last. Raises: RuntimeError, with the command's own last line."""
    if status != 0:
        raise RuntimeError(f"safelight ended with {status}: {(errors.strip().splitlines() or ['no word'])[-1]}")
    answer: dict[str, Any] = json.loads(output[output.index("{") :])
    return answer


@contextmanager
def open_home(folder: Path, extra: Mapping[str, str] | None = None) -> Iterator[Home]:
    """A home below `folder` with its server started, for the length of the block; `extra` joins its environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    own = {"SAFELIGHT_HOME": str(folder / "safelight"), "PREFECT_HOME": str(folder / "prefect")}
    environment = kept | own | dict(extra or {})
    subprocess.run([SAFELIGHT, "up"], env=environment, check=True, capture_output=True)
    try:
        yield Home(environment)
    finally:
        subprocess.run([SAFELIGHT, "down"], env=environment, check=True, capture_output=True)


@contextmanager
def open_scheduler(folder: Path, workers: int, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of a Dask scheduler on loopback with so many worker processes, all ended with the block."""
    file = folder / f"scheduler-{workers}.json"
    scheduler = [DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file"]
    worker = [DASK, "worker", "--nworkers", str(workers), "--nthreads", "1", "--no-dashboard", "--scheduler-file"]
    quiet: dict[str, Any] = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen([*scheduler, str(file)], **quiet)]
    try:
        wait_until(lambda: file.exists() and file.read_text().endswith("}"), 60)
        local = ["--local-directory", str(folder)]
        started.append(subprocess.Popen([*worker, str(file), *local], **quiet))
        address = str(json.loads(file.read_text())["address"])
        wait_until(lambda: count_workers(address) == workers, 60)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(60)


def count_workers(address: str) -> int:
    """Worker processes that a scheduler knows."""
    from distributed import Client

    with Client(address, timeout=30, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        return len(client.scheduler_info(n_workers=-1)["workers"])


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    """Return when it is so. Raises: TimeoutError."""
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError(f"nothing after {seconds:.0f} s")
        time.sleep(0.1)


def empty(folder: Path) -> None:
    """Remove a workspace that is not needed any more."""
    shutil.rmtree(folder, ignore_errors=True)


HEAD_STRENGTHS = VARIANCES
Labelled = tuple[NDArray[np.float16], NDArray[np.int64]]  # features (n, 2, f), labels (n,)


def scale_features(features: NDArray[np.float16]) -> NDArray[np.float32]:
    """Features as a head sees them."""
    return squash_to_unit(features)


def answer_by_head(train: Labelled, validation: Labelled, test: NDArray[np.float16], kernel: bool) -> NDArray[np.int64]:
    """Fit a head, kernels tried too or not; the class of each test image."""
    classes = int(train[1].max()) + 1
    fit = fit_head(FeatureSet(*train), FeatureSet(*validation), classes, HeadPlan(kernel=kernel))
    return np.asarray(predict_head(fit.head, test).argmax(axis=1), np.int64)
