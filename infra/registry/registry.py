"""Runs, bundles and model versions in, the champion and its history out: the one module that knows MLflow.

MLflow is imported at the first call, not with this module (1.4 s); the first call on a new database lays out its tables
(2 s, once). `Registry.warm_up` does both, to be called in a thread while something else is under way.

Tags of a version: `bundle` and `onnx` (sha256 of bundle.json and model.onnx), `dataset`, `dataset_digest`, `run_key`,
`metric.<name>`, and what the gate said (`gate.verdict`, `gate.reasons`). Tags of a model: its moves (history.py).
"""

import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import cnn
from cnn.errors import RegistryError, SafelightError, ServerError, StorageError
from cnn.inference.bundle import read_bundle
from cnn.text import redact_text as redact
from cnn.text import shorten
from infra.machine.proxies import explain_proxy
from infra.registry.bundles import bundle_tags, cache_bundle
from infra.registry.database import Schema, lock_file, prepare_database
from infra.registry.experiments import Experiments, ExperimentTags
from infra.registry.tracking import (
    check_model_name,
    database_path,
    flatten_parameters,
    is_server,
    locate_lock,
    silence_mlflow,
)
from infra.registry.tracking import resolve_tracking as resolve_tracking
from infra.registry.training_lock import Lease, Waiting, lock_training
from infra.registry.versions import CHALLENGER as CHALLENGER
from infra.registry.versions import CHAMPION as CHAMPION
from infra.registry.versions import METRIC, AbsentError, ExistsError, VersionInfo, Versions

FIGURES = "figures"  # below the artifacts of a run
DATA = "data/bundle"  # where a pyfunc model keeps the folder that was logged as `bundle`
RETRY_SECONDS = 90.0
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


class Registry(Versions, Experiments):
    """MLflow at `tracking_uri`; artifacts under `artifact_root`, or where a server keeps them when it is None."""

    def __init__(
        self,
        tracking_uri: str,
        artifact_root: str | None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        elapsed: Callable[[], float] = time.monotonic,
        announce: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root.rstrip("/") if artifact_root else None
        self._clock = clock
        self._sleep = sleep
        self._elapsed = elapsed  # for waits: `clock`, which dates things, may be set back
        self._announce = announce  # lines for people about what was found changed or broken, and mended
        self._experiments: dict[str, str] = {}
        self._leases: dict[str, Lease] = {}

    def warm_up(self) -> None:
        """Import MLflow and lay out or check the tables, so that the next call answers at once."""
        self._ask("search_registered_models", max_results=1)

    @contextmanager
    def train_alone(self, name: str) -> Iterator[None]:
        """In the block no other run trains this model: another one is waited for, and told in a line.

        Processes of one machine hold a file lock. Where the registry is not a file of this machine, machines hold a
        lease in it too, and a machine that was away for minutes may lose it: then it registers nothing.

        Raises:
            ConfigError: MLflow or a folder cannot hold the name.
            RegistryError: the model has another name now.
        """
        waiting = Waiting(self._announce, self._elapsed, self._sleep)
        with lock_training(locate_lock(self.tracking_uri, check_model_name(name)), name, waiting) as token:
            self._look_for_renamed(name)
            if database_path(self.tracking_uri) is not None:
                yield
                return
            self._experiment(name)
            with Lease(ExperimentTags(self, name), name, token, waiting).held() as lease:
                self._leases[name] = lease
                try:
                    yield
                finally:
                    del self._leases[name]

    def find_run(self, name: str, key: str) -> str | None:
        """The id of the run with this run key, or None."""
        found = self._ask("search_runs", [self._experiment(name)], f"tags.run_key = '{key}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def start_run(self, name: str, key: str, parameters: Mapping[str, object]) -> str:
        """The id of the run with this run key, continued when there is one: a killed training stays one run."""
        run_id = self.find_run(name, key)
        if run_id is None:
            tags = {"run_key": key, "mlflow.source.name": "safelight"}
            run_id = str(self._ask("create_run", self._experiment(name), tags=tags, run_name=key[:12]).info.run_id)
        else:
            self._ask_run("update_run", run_id, status="RUNNING")
        self.log_parameters(run_id, parameters)
        return run_id

    def log_parameters(self, run_id: str, parameters: Mapping[str, object]) -> None:
        """Keep nested settings as `section.key`, without credentials; the same value again is no fault."""
        import_mlflow()
        from mlflow.entities import Param

        flat = [Param(key, value) for key, value in sorted(flatten_parameters(parameters).items())]
        for start in range(0, len(flat), 100):
            self._ask_run("log_batch", run_id, params=flat[start : start + 100])

    def log_epoch(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Keep the metrics of one epoch, in one transaction."""
        import_mlflow()
        from mlflow.entities import Metric

        now = int(self._clock() * 1000)
        kept = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        self._ask_run("log_batch", run_id, metrics=kept)

    def log_folder(self, run_id: str, folder: Path, path: str | None = None) -> None:
        """Copy the files of a folder to the run's artifacts, below `path`."""
        self._transfer(f"artifacts of run {run_id}", lambda: self._client.log_artifacts(run_id, str(folder), path))

    def figures_of(self, run_id: str) -> str:
        """Where the figures of a run lie: the address of a page where a server shows them, else of a folder."""
        info = self._ask("get_run", run_id).info
        if self.artifact_root is None:
            return f"{redact(self.tracking_uri).rstrip('/')}/#/experiments/{info.experiment_id}/runs/{run_id}/artifacts"
        return f"{info.artifact_uri}/{FIGURES}"

    def finish_run(self, run_id: str, status: str) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self._ask_run("set_terminated", run_id, status=status, end_time=int(self._clock() * 1000))

    def register_version(
        self, name: str, run_id: str, bundle: Path, metrics: Mapping[str, float], tags: Mapping[str, str] | None = None
    ) -> VersionInfo:
        """A new version that carries the bundle; or the one that this run, or one with its key, registered before.

        The version is made last, in one transaction with its tags, when every artifact has arrived: a process killed
        on the way leaves no version.

        Raises:
            ConfigError: MLflow or a folder cannot hold the name.
            IntegrityError: the bundle is not what its checksums say.
            RegistryError: MLflow refuses, or an artifact did not arrive whole.
        """
        import_mlflow()
        from mlflow.entities import LoggedModelOutput

        info = read_bundle(bundle)
        self._ensure_model(check_model_name(name))
        run = self._ask("get_run", run_id)
        key = run.data.tags.get("run_key", "")
        for version in self.versions(name):
            if version.run_id == run_id or (key and version.tags.get("run_key") == key):  # its run may be deleted
                return version
        facts = {
            **(tags or {}),
            **bundle_tags(bundle, info),
            **{METRIC + metric: repr(float(value)) for metric, value in metrics.items()},
            "run_key": key,
        }
        model = self._ask("create_logged_model", run.info.experiment_id, name="bundle", source_run_id=run_id)
        self._send_model(model, run_id, bundle)
        self._ask_run("log_outputs", run_id, [LoggedModelOutput(model.model_id, step=0)])
        if name in self._leases:
            self._leases[name].check()
        named = {"tags": facts, "model_id": model.model_id, "await_creation_for": 0}
        made = self._ask("create_model_version", name, model.artifact_location, run_id, **named)
        return self.version(name, int(made.version))

    def fetch_bundle(self, version: VersionInfo, folder: Path) -> Path:
        """The version's bundle as a verified folder below `folder`, downloaded once per digest.

        Raises:
            IntegrityError: what came is not what was registered.
            RegistryError: the version carries no bundle, or it cannot be fetched.
        """
        culprit = f"model {version.name} version {version.version}"
        if not version.bundle:
            raise RegistryError(f"{culprit} carries no Safelight bundle; choose a version that does")

        def bring(name: str, target: Path) -> None:
            with tempfile.TemporaryDirectory(dir=target) as scratch:
                self._transfer(culprit, lambda: self._artifacts(version).download_artifacts(f"{DATA}/{name}", scratch))
                Path(scratch, DATA, name).replace(target / name)

        return cache_bundle(version.bundle, folder, bring, culprit)

    def _artifacts(self, version: VersionInfo) -> Any:
        """Where the version's artifacts lie now: a local workspace may have been moved since."""
        import_mlflow()
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        location, root = version.location, self.artifact_root or ""
        model = location.partition("/models/m-")[2]
        if model and location.startswith("file:") and root.startswith("file:"):
            location = f"{root}/models/m-{model}"
        return get_artifact_repository(location, tracking_uri=self.tracking_uri)

    def _send_model(self, model: Any, run_id: str, bundle: Path) -> None:
        """Lay the bundle out as a pyfunc model, send it, and see that every file arrived at its full length."""
        culprit = f"the bundle of run {run_id}"
        with _make_scratch() as scratch:
            with _explained_scratch(scratch):
                folder = _lay_out_model(model, run_id, bundle, Path(scratch))
            self._transfer(culprit, lambda: self._client.log_model_artifacts(model.model_id, str(folder)))
            sent = {path.name: path.stat().st_size for path in (folder / DATA).iterdir()}
        listed = self._transfer(culprit, lambda: self._client.list_logged_model_artifacts(model.model_id, DATA))
        arrived = {Path(file.path).name: file.file_size for file in listed}
        if missing := sorted(name for name, size in sent.items() if arrived.get(name) != size):
            raise RegistryError(f"{culprit}: {', '.join(missing)} did not arrive whole; run the same command again")
        self._ask("finalize_logged_model", model.model_id, "READY")

    def _ensure_model(self, name: str) -> None:
        try:
            self._ask("get_registered_model", name)
        except AbsentError:
            with suppress(ExistsError):  # another machine was first
                self._ask("create_registered_model", name)

    @cached_property
    def _client(self) -> Any:
        import_mlflow()
        from mlflow.tracking import MlflowClient

        path = database_path(self.tracking_uri)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what MLflow's tables deprecate is not for people who run Safelight
            if path is not None:
                prepare_database(path, _read_schema(), self._announce)
            try:
                client = MlflowClient(self.tracking_uri, self.tracking_uri)
                if path is None and not is_server(self.tracking_uri):
                    with lock_file(locate_lock(self.tracking_uri, "tables")):  # it lays out the tables at its first use
                        client.search_experiments(max_results=1)
                        client.search_registered_models(max_results=1)
            except ImportError as error:
                raise ServerError(f"MLflow at {redact(self.tracking_uri)} needs a driver: {_one_line(error)}") from None
        return client

    def _ask(self, verb: str, *values: Any, **named: Any) -> Any:
        return self._persist(lambda: getattr(self._client, verb)(*values, **named))

    def _pages(self, verb: str, *values: Any, **named: Any) -> Iterator[Any]:
        token = None
        while True:
            page = self._ask(verb, *values, page_token=token, **named)
            yield from page
            token = page.token
            if not token:
                return

    def _transfer(self, culprit: str, send: Callable[[], Any]) -> Any:
        try:
            return self._persist(send)
        except SafelightError:
            raise
        except Exception as error:  # each artifact store raises errors of its own; the kind is recorded
            raise RegistryError(f"{culprit}: not transferred ({type(error).__name__}: {_one_line(error)})") from None

    def _persist(self, ask: Callable[[], Any]) -> Any:
        """The answer, asked for again while the database is busy, with growing pauses, for 90 s."""
        import_mlflow()
        from mlflow.exceptions import MlflowException

        began, pause = self._elapsed(), 0.1
        while True:
            try:
                return ask()
            except MlflowException as error:
                if not _is_busy(error) or self._elapsed() - began > RETRY_SECONDS:
                    raise self._explain(error) from None
            except Exception as error:
                if not _is_of_database(error):
                    raise
                raise RegistryError(
                    f"MLflow's database {redact(self.tracking_uri)} does not answer as it should ({_one_line(error)});"
                    " look whether it is running and whole"
                ) from None
            self._sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 10.0)

    def _explain(self, error: Any) -> SafelightError:
        code, text = str(error.error_code), _one_line(error)
        if code == "RESOURCE_DOES_NOT_EXIST":
            return AbsentError(text)
        if code == "RESOURCE_ALREADY_EXISTS":
            return ExistsError(f"MLflow at {redact(self.tracking_uri)} has it already ({text})")
        if _is_busy(error):
            return ServerError(f"MLflow at {redact(self.tracking_uri)} stays busy ({text}); run the same command again")
        if "readonly database" in text:
            return StorageError(
                f"MLflow's database {redact(self.tracking_uri)} cannot be written; change its permissions"
            )
        if "API request" in text or "Max retries" in text:
            return ServerError(
                f"MLflow at {redact(self.tracking_uri)} does not answer ({text}){explain_proxy(self.tracking_uri)};"
                " check MLFLOW_TRACKING_URI"
            )
        return RegistryError(f"MLflow at {redact(self.tracking_uri)} refused ({text})")


def import_mlflow() -> None:
    """Import MLflow without telemetry, progress bars or chatter."""
    silence_mlflow()
    import mlflow  # noqa: F401


def _make_scratch() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="safelight-")
    except OSError as error:
        raise StorageError(_say_no_room(tempfile.tempdir or "the folder for temporary files", error)) from None


@contextmanager
def _explained_scratch(folder: str) -> Iterator[None]:
    """In the block whatever is written goes to this temporary folder: a fault of the disk names it."""
    try:
        yield
    except Exception as error:  # MLflow makes another one of it, which blames the code that it could not copy
        fault: BaseException | None = error
        while fault is not None and not isinstance(fault, OSError):
            fault = fault.__cause__
        if fault is None:
            raise
        raise StorageError(_say_no_room(folder, fault)) from None


def _say_no_room(folder: str, error: OSError) -> str:
    listed = error.args[0] if isinstance(error, shutil.Error) and error.args else None
    causes = [str(fault[-1]) for fault in listed] if isinstance(listed, list) and listed else []
    cause = error.strerror or shorten((causes or [str(error)])[0])
    return (
        f"{folder}: the model cannot be packed there for the registry ({cause}); make room there, or set TMPDIR to a"
        " folder with more, and run the same command again: it goes on from there"
    )


def _read_schema() -> Schema:
    """What the installed MLflow makes of a database: what `mlflow db upgrade` and its own first use do."""
    import mlflow.store.db.utils
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store.tracking import sqlalchemy_store
    from sqlalchemy.exc import SQLAlchemyError

    utils: Any = mlflow.store.db.utils
    stores: Any = sqlalchemy_store
    scripts = ScriptDirectory.from_config(utils._get_alembic_config(""))

    def upgrade(address: str) -> None:
        engine = utils.create_sqlalchemy_engine(address)
        try:
            (utils._initialize_tables if utils._is_empty_database(engine) else utils._upgrade_db)(engine)
            stores.SqlAlchemyStore(
                address, "mlruns"
            ).engine.dispose()  # the experiment that MLflow makes at its first use
        except (SQLAlchemyError, CommandError) as error:
            raise StorageError(_one_line(error)) from None
        finally:
            engine.dispose()

    known = frozenset(script.revision for script in scripts.walk_revisions())
    return Schema(scripts.get_current_head() or "", known, upgrade)


def _lay_out_model(model: Any, run_id: str, bundle: Path, scratch: Path) -> Path:
    shutil.copytree(bundle, scratch / "bundle")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about type hints of its own, and about examples not given
        import mlflow.pyfunc
        from mlflow.models import Model, ModelSignature

        from cnn.inference.pyfunc import make_example

        described = Model(
            artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id, model_id=model.model_id
        )
        mlflow.pyfunc.save_model(
            scratch / "model",
            loader_module="cnn.inference.pyfunc",
            data_path=str(scratch / "bundle"),
            code_paths=[str(Path(cnn.__file__).parent)],
            pip_requirements=[f"{package}=={installed_version(package)}" for package in SCORING_PACKAGES],
            signature=ModelSignature(params=_make_signature().params),
            input_example=make_example(bundle),
            mlflow_model=described,
        )
        described.signature = _make_signature()  # not above: the example, a list, would be held against its inputs
        described.save(str(scratch / "model/MLmodel"))
    return scratch / "model"


def _make_signature() -> Any:
    """What `cnn.inference.pyfunc` takes and gives, for people and programs to read.

    MLflow itself must not hold inputs against it: it would refuse lists and arrays of pixels, which are taken too. It
    leaves them to a model whose signature is marked as coming from the model's own code.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import schema
    from mlflow.types.schema import Array, ColSpec, Object, ParamSchema, ParamSpec, Property, Schema, TensorSpec

    anything: Any = schema.AnyType
    ranked = Array(Object([Property("label", "string"), Property("probability", "double")]))
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec("string", "label", required=False),
        ColSpec("double", "confidence", required=False),
        ColSpec(ranked, "top_k"),
        ColSpec("string", "outcome"),
        ColSpec("string", "reason", required=False),
    ]
    signature = ModelSignature(
        inputs=Schema([ColSpec(anything(), "image")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("top_k", "long", 5)]),
    )
    signature._is_signature_from_type_hint = True
    return signature


def _is_busy(error: Any) -> bool:
    if "readonly database" in str(error):
        return False
    return error.error_code == "TEMPORARILY_UNAVAILABLE" or "database is locked" in str(error)


def _is_of_database(error: Exception) -> bool:
    """Whether the database's own libraries raised it, past MLflow."""
    return type(error).__module__.partition(".")[0] in ("sqlalchemy", "alembic", "sqlite3")


def _one_line(error: Exception) -> str:
    return redact(" ".join(str(error).split()))[:300]
