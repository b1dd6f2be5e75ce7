"""Explain errors of an S3 client: the cause and the way out, without secrets."""

import os
from collections.abc import Mapping
from typing import Any

from cnn.errors import BadImage
from cnn.text import redact
from infra.machine.proxies import explain_proxy

AWS = "https://amazonaws.com"
MISSING = {"404", "NoSuchKey", "NotFound"}
CHANGED = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
DENIED = {"403", "AccessDenied", "Forbidden"}
STATUSES = {429, 500, 502, 503, 504}  # of a server that is overloaded, or about to start
OVERLOADED = {"SlowDown", "RequestTimeout", "Throttling", "RequestLimitExceeded", "BandwidthLimitExceeded"}
UNANSWERED = {"ConnectionError", "HTTPClientError", "IncompleteReadError"}  # classes of botocore, and all below them
EXPLANATIONS: list[tuple[set[str], str]] = [
    ({"NoSuchBucket"}, "there is no bucket {bucket!r}; create it, or check the address and AWS_ENDPOINT_URL"),
    (MISSING, "it is not there; prepare the workspace again or name the right one"),
    (DENIED, "access denied; give these credentials access to bucket {bucket!r}, or use others"),
    (
        {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"},
        "the server does not accept these credentials; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (
        {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"},
        "bucket {bucket!r} is in another region; set AWS_REGION to it",
    ),
    ({"SlowDown", "503", "ServiceUnavailable"}, "the S3 server is overloaded; run again later"),
    ({"QuotaExceeded", "507", "413"}, "no space is left; free some or choose another workspace"),
    (
        {"NoCredentialsError", "PartialCredentialsError"},
        "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    ({"ParamValidationError", "InvalidBucketName"}, "{bucket!r} is no name for a bucket; check the address"),
    (
        {"ProfileNotFound", "ConfigNotFound", "ConfigParseError"},
        "no such AWS profile; check AWS_PROFILE and ~/.aws/config",
    ),
]


def read_code(error: Exception) -> str:
    """The code that the server answered, such as "NoSuchKey" or "404"; else the name of the error's class."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return str(code) or type(error).__name__


def explain_s3_error(error: Exception, bucket: str) -> str:
    """The cause and the way out, for the end of a sentence."""
    cause = error.__cause__ or error.__context__  # an upload's fault hides the server's answer behind its own class
    for code in (read_code(error), read_code(cause) if isinstance(cause, Exception) else ""):
        for codes, text in EXPLANATIONS:
            if code in codes:
                return text.format(bucket=bucket)
    if hasattr(error, "response"):
        return f"the S3 server answered {read_code(error)}; look at its logs, or run again"
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    proxy = explain_proxy(address or AWS, catch_all=False)
    return f"no answer from {describe_s3_server()} ({read_code(error)}){proxy}; check the network and AWS_ENDPOINT_URL"


def describe_s3_server() -> str:
    """The address that S3 is asked at, without secrets."""
    return redact(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS")


def is_outage_answer(answer: Mapping[str, Any]) -> bool:
    """Whether this answer says no more than that the server cannot answer now."""
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in STATUSES or str(answer.get("Error", {}).get("Code", "")) in OVERLOADED | {"503", "500"}


def is_s3_outage(error: BaseException | None) -> bool:
    """Whether the same request may succeed in a minute: there was no answer, or one of a server that cannot now."""
    if error is None:
        return False
    answer = getattr(error, "response", None)
    if isinstance(answer, Mapping):
        return is_outage_answer(answer)
    if UNANSWERED & {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("botocore.")}:
        return True
    return is_s3_outage(error.__cause__ or error.__context__)  # an upload's fault hides the server's behind its own


def to_bad_image(error: Exception) -> BadImage | None:
    """The fault as one of a single file; None when it is the server's or the bucket's."""
    code = read_code(error)
    if code in MISSING:
        return BadImage("vanished", "it is no longer in the bucket")
    if code in DENIED:
        return BadImage("unreadable", "access denied")
    if code == "InvalidObjectState":
        return BadImage("archived", "it must be restored before it can be read")
    return None
