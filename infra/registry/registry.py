"""The model registry of a workspace: runs, bundles and versions, the champion and its history, kept in MLflow.

Tags of a version: `bundle` and `onnx` (sha256 of bundle.json and model.onnx), `dataset`, `dataset_digest`, `run_key`,
`metric.<name>`, and what the gate said (`gate.verdict`, `gate.reasons`). Tags of a model: its moves (history.py).
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from cnn.errors import RegistryError
from cnn.inference.bundle import read_bundle
from cnn.text import redact
from infra.registry.bundles import bundle_tags
from infra.registry.experiments import Experiments, ExperimentTags
from infra.registry.mlflow_client import AbsentError, ExistsError, import_mlflow
from infra.registry.mlflow_model import DATA, lay_out_model
from infra.registry.run_records import (
    MODEL_TRAINING,
    TRAINING_METRICS,
    LoggedDataset,
    name_dataset,
    name_metric,
    title_run,
)
from infra.registry.tracking import (
    check_model_name,
    database_path,
    flatten_parameters,
    locate_lock,
)
from infra.registry.training_lock import Lease, Waiting, lock_training
from infra.registry.version_files import FIGURES, VersionFiles
from infra.registry.versions import JUDGED_ON, METRIC, VersionInfo, describe_measured_accuracy
from infra.storage.store import parse_folder

REPORT = "report.html"  # below the artifacts of a run


class Registry(VersionFiles, Experiments):
    """Everything that Safelight asks of MLflow about models."""

    @cached_property
    def _leases(self) -> dict[str, Lease]:
        return {}

    @contextmanager
    def train_alone(self, name: str) -> Iterator[None]:
        """In the block no other run trains this model: another one is waited for, which is announced.

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

    def start_run(self, name: str, key: str, parameters: Mapping[str, object], parent: str = "", what: str = "") -> str:
        """The id of the run with this run key, continued when there is one: a killed training stays one run. With the
        id of a `parent` it is shown below that run. It is called after the model, `what` it is, and when it began.

        One whose version lost its files to `safelight gc` is not continued: its record stays with that version."""
        run_id = self.find_run(name, key)
        if run_id is None or self._is_spent(name, run_id):
            tags = {"run_key": key, "mlflow.source.name": "safelight"} | (
                {"mlflow.parentRunId": parent} if parent else {}
            )
            title = title_run(name, what, self._clock())
            run_id = str(self._ask("create_run", self._experiment(name), tags=tags, run_name=title).info.run_id)
        else:
            self._ask_run("update_run", run_id, status="RUNNING")
        if not parent:
            self._end_lost_runs(name, run_id)
        self.log_parameters(run_id, parameters)
        return run_id

    def _is_spent(self, name: str, run_id: str) -> bool:
        """Whether a run made a version whose files were removed since."""
        with suppress(AbsentError):
            return any(version.run_id == run_id and not version.has_files for version in self.versions(name))
        return False

    def _end_lost_runs(self, name: str, present: str) -> None:
        """End the runs of a model that killed processes left as RUNNING: whoever begins one trains the model alone."""
        wanted = "attributes.status = 'RUNNING' and tags.`mlflow.source.name` = 'safelight'"
        for run in self._ask("search_runs", [self._experiment(name)], wanted, max_results=100):
            if run.info.run_id != present:
                self.finish_run(run.info.run_id, "KILLED")

    def log_parameters(self, run_id: str, parameters: Mapping[str, object]) -> None:
        """Keep nested settings as `section.key`, without credentials; the same value again is no fault."""
        import_mlflow()
        from mlflow.entities import Param

        flat = [Param(key, value) for key, value in sorted(flatten_parameters(parameters).items())]
        for start in range(0, len(flat), 100):
            self._ask_run("log_batch", run_id, params=flat[start : start + 100])

    def log_epoch(self, run_id: str, metrics: Mapping[str, float], step: int, at: float | None = None) -> None:
        """Keep the metrics of one epoch, in one transaction; what was measured on training images says so. `at` is when
        they were measured, in seconds since 1970."""
        import_mlflow()
        from mlflow.entities import Metric

        now = int((self._clock() if at is None else at) * 1000)
        kept = [Metric(TRAINING_METRICS.get(key, key), float(value), now, step) for key, value in metrics.items()]
        self._ask_run("log_batch", run_id, metrics=kept)

    def list_steps(self, run_id: str, metric: str) -> set[int]:
        """The steps after which a metric of this name, as `log_epoch` takes it, is kept."""
        found = self._ask("get_metric_history", run_id, TRAINING_METRICS.get(metric, metric))
        return {int(entry.step) for entry in found}

    def log_dataset(self, run_id: str, dataset: LoggedDataset) -> None:
        """Keep the dataset as an input of the run; the same one again is no second input."""
        import_mlflow()
        self._ask_run("log_inputs", run_id, [dataset.to_input()])

    def log_figures(self, run_id: str, folder: Path) -> None:
        """Copy the files of a folder to the run's artifacts, as its figures."""
        send = self._client.log_artifacts
        self._transfer(f"artifacts of run {run_id}", lambda: send(run_id, str(folder), FIGURES))

    def figures_of(self, run_id: str) -> str:
        """Where the figures of a run lie: the address of a page where a server shows them, else of a folder."""
        info = self._ask("get_run", run_id).info
        if self.artifact_root is None:
            page = f"#/experiments/{info.experiment_id}/runs/{run_id}/artifacts"
            return f"{redact(self.tracking_uri).rstrip('/')}/{page}?{MODEL_TRAINING}"
        return f"{info.artifact_uri}/{FIGURES}"

    def log_pages(self, run_id: str, pages: Iterable[Path]) -> None:
        """Copy pages for people to the run's artifacts, beside its figures."""
        for page in pages:
            self._transfer(f"artifacts of run {run_id}", partial(self._client.log_artifact, run_id, str(page)))

    def fetch_pages(self, version: VersionInfo, folder: Path) -> Path:
        """The folder with the pages of a version's run: where they were put, or, when that is not this machine,
        `folder`, into which they are copied.

        Raises:
            RegistryError: they cannot be fetched, or the run is gone.
        """
        import_mlflow()
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        culprit = f"pages of model {version.name} version {version.version}"
        address = self._locate_run(version.run_id)
        if address.startswith(("file:", "/")):
            return parse_folder(address)
        artifacts = get_artifact_repository(address, tracking_uri=self.tracking_uri)
        folder.mkdir(parents=True, exist_ok=True)
        for file in self._transfer(culprit, artifacts.list_artifacts):
            if not file.is_dir and file.path.endswith(".html"):
                self._transfer(culprit, partial(artifacts.download_artifacts, file.path, str(folder)))
        return folder

    def read_run_file(self, version: VersionInfo, name: str) -> bytes | None:
        """A file beside the pages of a version's run; None where there is none.

        Raises:
            RegistryError: it cannot be fetched, or the run is gone.
        """
        import_mlflow()
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        culprit = f"{name} of model {version.name} version {version.version}"
        artifacts: Any = get_artifact_repository(self._locate_run(version.run_id), tracking_uri=self.tracking_uri)
        if name not in {file.path for file in self._transfer(culprit, artifacts.list_artifacts)}:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            self._transfer(culprit, lambda: artifacts.download_artifacts(name, scratch))
            return Path(scratch, name).read_bytes()

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
            is_same = version.run_id == run_id or (key and version.tags.get("run_key") == key)  # its run may be deleted
            if is_same and version.has_files:
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
        judged_on = facts.get(JUDGED_ON, "")
        figures = {name_metric(key, judged_on): value for key, value in metrics.items()}
        self._log_evaluation(
            run_id, figures, {"model_id": model.model_id, **name_dataset(info.dataset, info.dataset_digest)}
        )
        if name in self._leases:
            self._leases[name].check()
        named: dict[str, Any] = {"tags": facts, "model_id": model.model_id, "await_creation_for": 0}
        named["description"] = describe_measured_accuracy(metrics, judged_on)  # all that its page shows of figures
        made = self._make_version(name, run_id, model.artifact_location, named)
        return self.version(name, made)

    def _make_version(self, name: str, run_id: str, location: str, named: Mapping[str, object]) -> int:
        """Make a version of a run; where the answer to that was lost, the version is there and not made again."""

        def make() -> int:
            found = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'", max_results=1)
            entry = found[0] if found else self._client.create_model_version(name, location, run_id, **named)
            return int(entry.version)

        return int(self._persist(make))

    def _send_model(self, model: Any, run_id: str, bundle: Path) -> None:
        """Lay the bundle out as a pyfunc model, send it, and see that every file arrived at its full length."""
        culprit = f"the bundle of run {run_id}"
        with lay_out_model(model, run_id, bundle) as folder:
            self._transfer(culprit, lambda: self._client.log_model_artifacts(model.model_id, str(folder)))
            sent = {path.name: path.stat().st_size for path in (folder / DATA).iterdir()}
        listed = self._transfer(culprit, lambda: self._client.list_logged_model_artifacts(model.model_id, DATA))
        arrived = {Path(file.path).name: file.file_size for file in listed}
        if missing := sorted(name for name, size in sent.items() if arrived.get(name) != size):
            raise RegistryError(f"{culprit}: {', '.join(missing)} did not arrive whole; run the same command again")
        self._ask("finalize_logged_model", model.model_id, "READY")

    def _log_evaluation(self, run_id: str, metrics: Mapping[str, float], of: Mapping[str, str]) -> None:
        """Keep the figures by which a version is known, as metrics of its run and `of` its model and dataset."""
        from mlflow.entities import Metric

        now = int(self._clock() * 1000)
        kept = [Metric(key, float(value), now, 0, **of) for key, value in metrics.items()]
        self._ask_run("log_batch", run_id, metrics=kept)

    def _ensure_model(self, name: str) -> None:
        try:
            self._ask("get_registered_model", name)
        except AbsentError:
            with suppress(ExistsError):  # another machine was first
                self._ask("create_registered_model", name)
