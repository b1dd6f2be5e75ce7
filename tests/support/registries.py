"""A real SQLite registry in a workspace with an awkward name, and bundles that nobody trained."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cnn.dataset.normalization import Normalization
from cnn.dataset.split import SplitSpec
from cnn.images.spec import ImageSpec
from cnn.inference.bundle import GOLDEN, INFO, ONNX, WEIGHTS, BundleFacts, BundleInfo
from cnn.models.architecture import ModelSpec
from infra.registry.registry import Registry
from infra.registry.tracking import resolve_tracking

METRICS = {"accuracy": 0.98, "macro_f1": 0.97}


def make_bundle_facts(
    model: ModelSpec, image: ImageSpec, normalization: Normalization, classes: tuple[str, ...], temperature: float
) -> BundleFacts:
    """What a bundle says of a model that came from a dataset that is nowhere."""
    return BundleFacts(
        model=model,
        image=image,
        normalization=normalization,
        classes=classes,
        temperature=temperature,
        dataset="pets-1",
        dataset_digest="d" * 64,
        split=SplitSpec(),
    )


def make_bundle(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    golden = io.BytesIO()
    np.savez(golden, images=np.zeros((1, 8, 8, 1), np.uint8), content=np.frombuffer(content, np.uint8))
    files = {GOLDEN: golden.getvalue(), ONNX: b"onnx" + content, WEIGHTS: content}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    facts = make_bundle_facts(
        ModelSpec(preset="lenet"),
        ImageSpec(size=(8, 8), channels=1),
        Normalization(method="unit", scale=1 / 255, offset=0.0),
        ("cat", "dog"),
        1.0,
    )
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    info = BundleInfo(**dict(facts), onnx_difference=0.0, files=digests)
    (folder / INFO).write_text(info.to_json())
    return folder


@contextmanager
def open_registry(workspace: Path) -> Iterator[Registry]:
    """The registry of this workspace, whose temporary files stay inside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr("tempfile.tempdir", str(workspace))
        yield Registry(*resolve_tracking(str(workspace)))


@contextmanager
def shown_to_mlflow(registry: Registry) -> Iterator[None]:
    """MLflow's own functions find the registry meanwhile; afterwards they, and all later tests, know it no more."""
    import mlflow

    mlflow.set_tracking_uri(registry.tracking_uri)  # a variable of the environment, too
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def register(registry: Registry, name: str, bundle: Path, versions: int = 1) -> None:
    for number in range(versions):
        run = registry.start_run(name, hashlib.sha256(f"{name}{number}".encode()).hexdigest(), {})
        registry.register_version(name, run, bundle, METRICS)


def add_versions(registry: Registry, name: str, versions: int = 1) -> None:
    """The same entries in the registry, in a tenth of the time: no artifacts are sent for them."""
    registry._ensure_model(name)
    for number in range(versions):
        key = hashlib.sha256(f"{name}{number}".encode()).hexdigest()
        facts = {"bundle": "b" * 64, "run_key": key} | {f"metric.{metric}": repr(METRICS[metric]) for metric in METRICS}
        run = registry.start_run(name, key, {})
        registry._ask("create_model_version", name, "file:///nowhere", run, tags=facts, await_creation_for=0)
