"""The MLflow model (pyfunc) that a registered version carries: the bundle, and the code that scores."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import cnn
from cnn.errors import StorageError
from cnn.text import shorten

LOADER = "cnn.pyfunc"  # in every version that was ever registered; see there
DATA = "data/bundle"  # where the model keeps the folder that was logged as `bundle`
# What `cnn.inference.pyfunc` needs to score; the versions installed here are pinned in the model.
SCORING_PACKAGES = (
    "mlflow-skinny",
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "pydantic",
    "scipy",
    "simplejpeg",
)
OPTIONAL_PACKAGES = ("pi-heif",)  # used where they are installed: a model that has learnt from HEIC files asks for it


@contextmanager
def lay_out_model(model: Any, run_id: str, bundle: Path) -> Iterator[Path]:
    """The folder of a logged model as MLflow wants it, with a copy of the bundle; it is gone after the block.

    Raises:
        StorageError: there is no room for it; the line names the folder for temporary files.
    """
    try:
        scratch = tempfile.TemporaryDirectory(prefix="safelight-")
    except OSError as error:
        raise StorageError(_describe_full_disk(tempfile.tempdir or "the folder for temporary files", error)) from None
    with scratch as folder:
        with explained_disk(folder):
            _save_model(model, run_id, bundle, Path(folder))
        yield Path(folder, "model")


@contextmanager
def explained_disk(folder: str) -> Iterator[None]:
    """In the block whatever is written goes to this temporary folder: a fault of the disk names it."""
    try:
        yield
    except Exception as error:  # MLflow makes another one of it, which blames the code that it could not copy
        fault: BaseException | None = error
        while fault is not None and not isinstance(fault, OSError):
            fault = fault.__cause__
        if fault is None:
            raise
        raise StorageError(_describe_full_disk(folder, fault)) from None


def _describe_full_disk(folder: str, error: OSError) -> str:
    listed = error.args[0] if isinstance(error, shutil.Error) and error.args else None
    causes = [str(fault[-1]) for fault in listed] if isinstance(listed, list) and listed else []
    cause = error.strerror or shorten((causes or [str(error)])[0])
    return (
        f"{folder}: the model cannot be packed there for the registry ({cause}); make room there, or set TMPDIR to a"
        " folder with more, and run the same command again: it goes on from there"
    )


def _save_model(model: Any, run_id: str, bundle: Path, scratch: Path) -> None:
    shutil.copytree(bundle, scratch / "bundle")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about type hints of its own, and about examples not given
        import mlflow.pyfunc
        from mlflow.models import Model, ModelSignature

        from cnn.inference.pyfunc import DEFAULT_CONFIG, make_example

        described = Model(
            artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id, model_id=model.model_id
        )
        mlflow.pyfunc.save_model(
            scratch / "model",
            loader_module=LOADER,
            data_path=str(scratch / "bundle"),
            code_paths=[str(Path(cnn.__file__).parent)],
            pip_requirements=list_requirements(),
            model_config=dict(DEFAULT_CONFIG),  # what is not named here, MLflow does not hand over
            signature=ModelSignature(params=_make_signature().params),
            input_example=make_example(bundle),
            mlflow_model=described,
        )
        described.signature = _make_signature()  # not above: the example, a list, would be held against its inputs
        described.save(str(scratch / "model/MLmodel"))


def list_requirements() -> list[str]:
    """What a version asks for, at the versions that are installed here."""
    found = {package: installed_version(package) for package in SCORING_PACKAGES}
    for package in OPTIONAL_PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = installed_version(package)
    return [f"{package}=={version}" for package, version in found.items()]


def _make_signature() -> Any:
    """What `cnn.inference.pyfunc` takes and gives, for people and programs to read: a column of image files.

    MLflow itself must not hold inputs against it: it would refuse lists, and arrays of pixels, which are taken too. It
    leaves them to a model whose signature is marked as coming from the model's own code; a server then hands over what
    the request has under `inputs`, in which files are base64, as MLflow has it for binary columns.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, Object, ParamSchema, ParamSpec, Property, Schema, TensorSpec

    ranked = Array(Object([Property("label", "string"), Property("probability", "double")]))
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec("string", "label", required=False),
        ColSpec("double", "confidence", required=False),
        ColSpec(ranked, "top_k"),
        ColSpec("string", "outcome"),
        ColSpec("string", "reason", required=False),
    ]
    signature = ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("top_k", "long", 5)]),
    )
    signature._is_signature_from_type_hint = True
    return signature
