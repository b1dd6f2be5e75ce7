"""Kinds of errors that MLflow's client raises: its database is busy, its server is away. Imports no MLflow."""

from cnn.text import redact
from infra.machine.proxies import explain_proxy

# Of texts, since MLflow raises one class for all of it, and wraps what artifact stores raise.
ABSENCES = (
    "API request to",  # no answer, or none that is MLflow's
    "Max retries exceeded",
    "Connection refused",
    "Connection aborted",
    "Connection reset",
    "Remote end closed connection",
    "Could not connect to the endpoint",
    "Read timed out",
    "too many 50",
    "502 Server Error",
    "503 Server Error",
    "504 Server Error",
)
REFUSALS = ("error code 4",)  # as in "failed with error code 404": something answers
CLIENTS = ("requests", "urllib3", "botocore", "boto3", "s3transfer")


def is_busy(error: Exception) -> bool:
    """Whether the database is locked by somebody else, or says itself that it cannot answer now."""
    if "readonly database" in str(error):
        return False
    return getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE" or "database is locked" in str(error)


def is_away(error: Exception) -> bool:
    """Whether no server answered, MLflow's or that of its artifacts, so that the same request may succeed later."""
    library = type(error).__module__.partition(".")[0]
    text = str(error)
    if library not in ("mlflow", *CLIENTS) or any(mark in text for mark in REFUSALS):
        return False
    return any(mark in text for mark in ABSENCES)


def is_of_database(error: Exception) -> bool:
    """Whether the database's own libraries raised it, past MLflow."""
    return type(error).__module__.partition(".")[0] in ("sqlalchemy", "alembic", "sqlite3")


def explain_absence(tracking_uri: str, text: str) -> str:
    """One line on a server that does not answer, with the way out."""
    proxy = explain_proxy(tracking_uri)
    return f"MLflow at {redact(tracking_uri)} does not answer ({text}){proxy}; check MLFLOW_TRACKING_URI"
