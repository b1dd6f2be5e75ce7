"""MLflow experiments, one a model, and their repair after people tidied up in MLflow's pages.

An experiment or run that was deleted there is brought back, and announced. That a model was renamed or deleted there is
said before anything is trained.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cnn.errors import RegistryError
from infra.registry.mlflow_client import AbsentError, ExistsError, MlflowConnection
from infra.registry.moved_artifacts import find_moved_artifacts
from infra.registry.run_records import KIND
from infra.registry.tracking import check_model_name

ACTIVE, ALL_RUNS = "active", 3  # as MLflow's LifecycleStage and ViewType have them


class Experiments(MlflowConnection):
    """Experiments and their runs, whoever answers."""

    @cached_property
    def _experiments(self) -> dict[str, str]:
        """The ids of experiments by model."""
        return {}

    def _experiment(self, name: str) -> str:
        """The id of the model's experiment; a workspace that was moved gets a new one, where its artifacts are now."""
        if name not in self._experiments:
            marks = ("", f" ({hashlib.sha256((self.artifact_root or '').encode()).hexdigest()[:8]})")
            for title in (check_model_name(name) + mark for mark in marks):
                found = self._ask("get_experiment_by_name", title) or self._make_experiment(title)
                if self.artifact_root in (None, found.artifact_location):
                    self._restore_experiment(found)
                    self._mark_kind(found)
                    self._experiments[name] = str(found.experiment_id)
                    break
                for moved in find_moved_artifacts(self.tracking_uri, self.artifact_root):
                    self._announce(f"MLflow: {moved.describe()}")
        return self._experiments[name]

    def _make_experiment(self, title: str) -> Any:
        with suppress(ExistsError):  # another process was first
            self._ask("create_experiment", title, self.artifact_root, KIND)
        return self._ask("get_experiment_by_name", title)

    def _mark_kind(self, experiment: Any) -> None:
        """Have MLflow's pages show an experiment as one of trained models; what a person has chosen there stays."""
        for key, value in KIND.items():
            if key not in experiment.tags:
                self._ask("set_experiment_tag", experiment.experiment_id, key, value)

    def _restore_experiment(self, experiment: Any) -> None:
        """Bring back an experiment that was deleted in MLflow's pages: no other can have its name."""
        if experiment.lifecycle_stage == ACTIVE:
            return
        try:
            self._ask("restore_experiment", experiment.experiment_id)
        except RegistryError:
            if self._ask("get_experiment", experiment.experiment_id).lifecycle_stage != ACTIVE:
                raise
        self._announce(
            f"MLflow: experiment {experiment.name} had been deleted and is restored with its runs: the runs of this"
            " model are kept there"
        )

    def _ask_run(self, verb: str, run_id: str, *values: Any, **named: Any) -> Any:
        """Ask something of a run; one that was deleted in MLflow's pages meanwhile is brought back."""
        try:
            return self._ask(verb, run_id, *values, **named)
        except RegistryError as error:
            if "'active' state" not in str(error):
                raise
        run = self._ask("get_run", run_id)
        self._restore_experiment(self._ask("get_experiment", run.info.experiment_id))
        if self._ask("get_run", run_id).info.lifecycle_stage != ACTIVE:
            self._ask("restore_run", run_id)
            self._announce(f"MLflow: run {run_id} had been deleted and is restored: it is still under way")
        return self._ask(verb, run_id, *values, **named)

    def _look_for_renamed(self, name: str) -> None:
        """Look what became of a model that has runs but is not registered; nothing where it was never registered.

        Raises:
            RegistryError: it was given another name in MLflow.
        """
        try:
            self._ask("get_registered_model", name)
            return
        except AbsentError:
            experiment = self._ask("get_experiment_by_name", name)
        if experiment is None:
            return
        runs = self._ask("search_runs", [experiment.experiment_id], "", run_view_type=ALL_RUNS, max_results=100)
        finished = [run.info.run_id for run in runs if run.info.status == "FINISHED"]
        if not finished:
            return
        listed = ", ".join(f"'{run_id}'" for run_id in finished)
        found = self._ask("search_model_versions", f"run_id IN ({listed})", max_results=100)
        if others := sorted({str(version.name) for version in found}):
            raise RegistryError(
                f"model {name} is named {others[0]} in MLflow now; go on with `--name {others[0]}`, give it its name"
                " back there, or choose a name that no model has had"
            )
        self._announce(
            f"MLflow: model {name} was deleted there, with its versions and the history of its champion (runs of it"
            " are still kept): it begins again at version 1"
        )


@dataclass(frozen=True)
class ExperimentTags:
    """The tags of a model's experiment, for a lease."""

    experiments: Experiments
    name: str

    def read(self) -> Mapping[str, str]:
        """See `infra.registry.training_lock.Tags`."""
        return dict(self._experiment().tags)

    def write(self, key: str, value: str) -> None:
        """See `infra.registry.training_lock.Tags`."""
        self.experiments._ask("set_experiment_tag", self._experiment().experiment_id, key, value)

    def remove(self, key: str) -> None:
        """See `training_lock.Tags`. Servers before MLflow 3.6 cannot take a tag away: there it becomes empty."""
        try:
            self.experiments._ask("delete_experiment_tag", self._experiment().experiment_id, key)
        except AbsentError:
            return
        except RegistryError:
            self.write(key, "")

    def _experiment(self) -> Any:
        found = self.experiments._ask("get_experiment_by_name", self.name)
        self.experiments._restore_experiment(found)
        return found
