"""What AWS's client libraries read of the environment, and what they must not write into logs."""

import logging
import os

# At DEBUG they log headers and bodies, and credentials with them (boto/botocore#2626). A level of their own holds even
# where somebody, Prefect's PREFECT_LOGGING_EXTRA_LOGGERS say, sets that of "botocore" afterwards.
_CLIENTS = ("boto3", "botocore", "s3transfer", "urllib3", "boto3.resources", "urllib3.connectionpool")
_PARTS = "args auth awsrequest client credentials endpoint handlers hooks httpchecksum httpsession loaders parsers"
_PARTS += " regions retries.standard retryhandler session signers tokens utils configprovider"


def read_aws_variables() -> tuple[tuple[str, str], ...]:
    """The AWS variables of the environment: what decides which server answers, and as whom."""
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


def silence_aws_clients() -> None:
    """Keep what S3's client libraries would log below WARNING out of every log."""
    for name in (*_CLIENTS, *(f"botocore.{part}" for part in _PARTS.split())):
        library = logging.getLogger(name)
        library.setLevel(max(logging.WARNING, library.level))
