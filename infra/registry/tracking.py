"""Where the runs and models of a workspace are kept: MLflow address, artifact folder, names. Imports no MLflow."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cnn.errors import ConfigError
from cnn.text import name_some, redact, redact_text, shorten, suggest_name
from infra.machine.proxies import bypass_loopback, check_socks, is_address
from infra.machine.user_dirs import state_dir
from infra.storage.aws import silence_aws_clients
from infra.storage.store import parse_folder

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PARAMETER_CHARACTERS = 500
_SECRET = re.compile(r"password|passwd|secret|token|credential|api_?key|access_?key", re.IGNORECASE)


QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # half a minute; the default waits two for a server that is not there
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for the answer, which a program may read
    "GIT_PYTHON_REFRESH": "quiet",
}
LEVELS = {"mlflow": logging.ERROR, "mlflow.store.db.utils": logging.CRITICAL, "alembic": logging.ERROR}


def silence_mlflow() -> None:
    """Set what keeps MLflow from phoning home and from chattering, before it is imported; the user's settings stay."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    silence_aws_clients()  # MLflow makes clients of its own
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)


def resolve_tracking(workspace_uri: str) -> tuple[str, str | None]:
    """(tracking URI, artifact root) for a workspace; the root is None where an MLflow server keeps its own.

    MLFLOW_TRACKING_URI is obeyed where it is set. Otherwise SQLite: inside a local workspace, and for an s3:// one in
    the state folder of this machine, with the artifacts in the bucket.

    Raises:
        ConfigError: no database address can name the workspace's folder, or MLFLOW_TRACKING_URI is no address.
    """
    local = None if workspace_uri.startswith("s3://") else parse_folder(workspace_uri)
    artifacts = (
        f"{workspace_uri.rstrip('/')}/mlflow/artifacts" if local is None else (local / "mlflow/artifacts").as_uri()
    )
    configured = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if configured:
        if is_server(configured):
            if not is_address(configured):
                raise ConfigError(
                    f"MLFLOW_TRACKING_URI is {redact(configured)}, which is no address of a server; write http://HOST:PORT"
                )
            bypass_loopback(configured)
            check_socks(configured, "MLflow", "socks")
        return configured, None if is_server(configured) else artifacts
    folder = _state_folder(workspace_uri) if local is None else local / "mlflow"
    if "?" in str(folder):
        folder = _link_to(folder)
    return f"sqlite:///{folder / 'mlflow.db'}", artifacts


def holds_registry(tracking_uri: str) -> bool:
    """Whether there may be a registry: a SQLite database that is not there yet holds none. Makes nothing."""
    path = database_path(tracking_uri)
    return path is None or path.exists()


def describe_lonely_registry(workspace_uri: str) -> str | None:
    """A line on a workspace that other machines reach while its registry is a file of this one; None for any other."""
    if not workspace_uri.startswith("s3://") or os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return None
    return (
        f"models of {redact(workspace_uri)} are registered on this machine alone ({_state_folder(workspace_uri)}),"
        " since MLFLOW_TRACKING_URI is not set: other machines do not find them; to share them, start an MLflow server"
        " and set MLFLOW_TRACKING_URI=http://HOST:PORT on each"
    )


def is_server(tracking_uri: str) -> bool:
    """Whether an MLflow server answers there."""
    return tracking_uri.startswith(("http://", "https://"))


def locate_lock(tracking_uri: str, what: str) -> Path:
    """The file whose lock keeps processes apart that use the same registry: beside its database, else this user's."""
    path = database_path(tracking_uri)
    if path is not None:
        return path.parent / "locks" / what
    folder = hashlib.sha256(tracking_uri.rstrip("/").encode()).hexdigest()[:16]
    return state_dir() / "locks" / folder / what


def database_path(tracking_uri: str) -> Path | None:
    """The SQLite file at an address, or None where something else keeps the registry."""
    return Path(tracking_uri.removeprefix("sqlite:///")) if tracking_uri.startswith("sqlite:///") else None


def check_model_name(name: str) -> str:
    """The model name itself, when MLflow, folders and buckets can all hold it.

    Raises:
        ConfigError: it is empty, too long, or has other characters than letters, digits, '.', '_' and '-'.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"model name {name[:80]!r}: use 1 to 64 letters, digits, '.', '_' or '-', and begin with a letter or digit"
        )
    return name


def describe_absence(name: str, known: Sequence[str]) -> str:
    """The error line for a name that no model has, with those that there are."""
    there = f"there {'is' if len(known) == 1 else 'are'} {name_some(known)}" if known else "there is none yet"
    return (
        f"no model is named {name}: {there}{suggest_name(name, known)};"
        f" `safelight retrain SOURCE --name {name}` makes one"
    )


def flatten_parameters(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings as `section.key` → text fit for MLflow: no credentials, at most 500 characters each."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = re.sub(r"[^\w./ -]", "_", f"{prefix}{key}")[:250]
        if isinstance(value, Mapping):
            flat |= flatten_parameters(value, f"{name}.")
        elif _SECRET.search(name):
            flat[name] = "(not shown)"
        else:
            text = redact_text(str(value))
            flat[name] = text if len(text) <= PARAMETER_CHARACTERS else shorten(text, PARAMETER_CHARACTERS)
    return flat


def _state_folder(workspace_uri: str) -> Path:
    return state_dir() / "mlflow" / hashlib.sha256(workspace_uri.rstrip("/").encode()).hexdigest()[:16]


def _link_to(folder: Path) -> Path:
    """A link to the folder, in the state folder: everything behind a '?' in a database address is taken for options."""
    link = state_dir() / "mlflow" / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    if "?" in str(link):
        raise ConfigError(f"{link}: no database address can hold '?'; set SAFELIGHT_HOME to a folder without it")
    link.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        link.symlink_to(folder, target_is_directory=True)
    return link
