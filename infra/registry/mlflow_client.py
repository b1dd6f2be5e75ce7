"""Connection to MLflow: first use of its database, patience while it is busy, and its errors in plain words.

MLflow is imported at the first question, not with this module (1.4 s); the first one to a new database lays out its
tables (2 s, once). `MlflowConnection.warm_up` does both, to be called in a thread while something else is under way.
"""

import random
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NoReturn

from cnn.errors import RegistryError, SafelightError, ServerError, ServerOutageError, StorageError
from cnn.text import redact_text as redact
from cnn.text import shorten
from infra.machine.outages import log_outage
from infra.registry.database import Schema, prepare_database
from infra.registry.mlflow_errors import explain_absence, is_away, is_busy, is_of_database
from infra.registry.tracking import database_path, is_server, locate_lock, silence_mlflow
from infra.storage.locks import lock_path

RETRY_SECONDS = 90.0


class AbsentError(RegistryError):
    """The registry answered that there is no such thing."""


class ExistsError(RegistryError):
    """The registry answered that there is such a thing already."""


class MlflowConnection:
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
        self._has_answered = self._is_absent = False
        self._announce = announce  # lines for people about what was found changed or broken, and mended

    def warm_up(self) -> None:
        """Import MLflow and lay out or check the tables, so that the next call answers at once."""
        self._ask("search_registered_models", max_results=1)

    @cached_property
    def _client(self) -> Any:
        import_mlflow()
        from mlflow.tracking import MlflowClient

        path = database_path(self.tracking_uri)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what MLflow's tables deprecate is not for people who run Safelight
            if path is not None:
                prepare_database(path, read_schema(), self._announce)
            try:
                client = MlflowClient(self.tracking_uri, self.tracking_uri)
                if path is None and not is_server(self.tracking_uri):
                    with lock_path(locate_lock(self.tracking_uri, "tables")):  # it lays out the tables at its first use
                        client.search_experiments(max_results=1)
                        client.search_registered_models(max_results=1)
            except ImportError as error:
                raise ServerError(f"MLflow at {redact(self.tracking_uri)} needs a driver: {_one_line(error)}") from None
        return client

    def _ask(self, verb: str, *values: Any, **named: Any) -> Any:
        """The answer of MLflow's client; raises `AbsentError` or `ExistsError` where that is the answer."""
        return self._persist(lambda: getattr(self._client, verb)(*values, **named))

    def _pages(self, verb: str, *values: Any, **named: Any) -> Iterator[Any]:
        """Every entry of an answer that comes in pages."""
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
        """The answer, asked for again while the database is busy or the server away, with growing pauses, for 90 s.

        A server that has not answered yet is not waited for: MLflow's client has done so, for half a minute.
        """
        import_mlflow()
        began, pause = self._elapsed(), 0.1
        while True:
            try:
                answer = ask()
            except Exception as error:
                if self._elapsed() - began > RETRY_SECONDS or not self._is_worth_waiting(error):
                    self._raise_explained(error)
                self._note_absence(not is_busy(error))
            else:
                self._has_answered = True
                self._note_absence(False)
                return answer
            self._sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 10.0)

    def _note_absence(self, is_absent: bool) -> None:
        """Say that the server does not answer, or answers again, if that is news."""
        if is_absent and not self._is_absent:
            log_outage(f"MLflow: {self._address} does not answer; it is asked again for {RETRY_SECONDS:.0f} s")
        elif self._is_absent and not is_absent:
            log_outage(f"MLflow: {self._address} answers again")
        self._is_absent = is_absent

    @property
    def _address(self) -> str:
        return redact(self.tracking_uri)

    def _is_worth_waiting(self, error: Exception) -> bool:
        return is_busy(error) or (self._has_answered and is_away(error))

    def _raise_explained(self, error: Exception) -> NoReturn:
        """Raise the fault in plain words; what is none of MLflow, its server or its database, as it was."""
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            raise self._explain(error) from None
        if is_away(error):
            raise ServerOutageError(explain_absence(self.tracking_uri, _one_line(error))) from None
        if not is_of_database(error):
            raise error
        raise RegistryError(
            f"MLflow's database {self._address} does not answer as it should ({_one_line(error)});"
            " look whether it is running and whole"
        ) from None

    def _explain(self, error: Any) -> SafelightError:
        code, text = str(error.error_code), _one_line(error)
        if code == "RESOURCE_DOES_NOT_EXIST":
            return AbsentError(text)
        if code == "RESOURCE_ALREADY_EXISTS":
            return ExistsError(f"MLflow at {self._address} has it already ({text})")
        if is_busy(error):
            return ServerOutageError(f"MLflow at {self._address} stays busy ({text}); run the same command again")
        if "readonly database" in text:
            return StorageError(f"MLflow's database {self._address} cannot be written; change its permissions")
        if is_away(error):
            return ServerOutageError(explain_absence(self.tracking_uri, text))
        return RegistryError(f"MLflow at {self._address} refused ({text})")


def import_mlflow() -> None:
    """Import MLflow without telemetry, progress bars or chatter."""
    silence_mlflow()
    import mlflow  # noqa: F401


def read_schema() -> Schema:
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
            stores.SqlAlchemyStore(address, "mlruns").engine.dispose()  # makes the experiment of its first use
        except (SQLAlchemyError, CommandError) as error:
            raise StorageError(_one_line(error)) from None
        finally:
            engine.dispose()

    known = frozenset(script.revision for script in scripts.walk_revisions())
    return Schema(scripts.get_current_head() or "", known, upgrade)


def _one_line(error: Exception) -> str:
    return shorten(redact(str(error)), 300)
