"""Keys of a bucket in, their objects' bytes out by one plain request each; or None, and boto3 is to be asked instead.

obstore (the object_store crate of Apache Arrow) takes a fifth of boto3's processor time for an object, and holds no
lock of Python's meanwhile. It reads variables and follows redirects that boto3 does not, so it is never believed alone:
an answer counts when it is whole and has the ETag that boto3 listed for the object. What goes wrong is asked again,
retried and explained by boto3, so that there is one place that judges.
"""

import logging
import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from obstore import sign
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

logger = logging.getLogger(__name__)

# obstore writes other keys in a way of its own: "a//b" and "./a" are another object there, or none.
PLAIN = re.compile(r"(?!\.{1,2}(/|$))[A-Za-z0-9_.=-]+(/(?!\.{1,2}(/|$))[A-Za-z0-9_.=-]+)*")
MOST_BYTES = 32 << 20  # a larger object may take longer than the time that one request has
MOST_FAILURES = 8  # without a success in between: something here is not as it should be, and boto3 does it all
CONNECT, REQUEST = timedelta(seconds=10), timedelta(seconds=60)
# After which boto3 is asked for them again. It renews what ends within ten minutes; obstore asks five minutes early.
CREDENTIALS = timedelta(minutes=10)
GLOBAL = "s3.amazonaws.com"  # what boto3 writes into addresses for others in place of a region's own host


class QuickReader:
    """Reads objects of one bucket, until too much has gone wrong."""

    def __init__(self, url: SplitResult, bucket: str, region: str, credentials: Callable[[], Any]) -> None:
        """`url` is that of the object "x" in the bucket. Raises: ValueError, when obstore would ask another one."""
        self._failures = 0
        self._store = S3Store(
            bucket,
            endpoint=f"{url.scheme}://{url.netloc}",
            virtual_hosted_style_request=url.path == "/x",
            region=region,
            credential_provider=credentials,
            client_options={"allow_http": url.scheme == "http", "connect_timeout": CONNECT, "timeout": REQUEST},
            retry_config={"max_retries": 0},
            skip_signature=False,
            request_payer=False,
        )
        if urlsplit(sign(self._store, "GET", "x", timedelta(minutes=1)))[:3] != url[:3]:
            raise ValueError("variables of obstore's own lead elsewhere")

    def read(self, key: str, etag: str) -> bytes | None:
        """The bytes of the object with this ETag (without quotes); None for whatever boto3 has to judge."""
        if self._failures >= MOST_FAILURES or PLAIN.fullmatch(key) is None:
            return None
        try:
            answer = self._store.get(key)
            size, found = int(answer.meta["size"]), (answer.meta["e_tag"] or "").strip('"')
            data = answer.bytes().to_bytes() if size <= MOST_BYTES and found == etag else None
        except (BaseError, OSError, ValueError):
            found = None
        self._failures = 0 if found == etag else self._failures + 1
        return data if found == etag and data is not None and len(data) == size else None


def choose_reader(client: "S3Client", bucket: str) -> QuickReader | None:
    """The quick reader of a bucket that this boto3 client reaches; None where boto3 does what it would not.

    That is to check the checksums of bodies (boto3's default; AWS_RESPONSE_CHECKSUM_VALIDATION=when_required turns it
    off), to go through proxies, to trust certificates of the user's own, and to explain what is missing.
    """
    if client.meta.config.response_checksum_validation != "when_required":  # type: ignore[attr-defined]
        return None
    try:
        url = find_address(client, bucket)
        if _is_proxied(url) or (url.scheme == "https" and not _trusts_all(client)):
            return None
        return QuickReader(url, bucket, client.meta.region_name, Boto3CredentialProvider(ttl=CREDENTIALS))
    except Exception as error:  # no credentials, a profile that is not there, …: boto3 meets it again, and says so
        logger.debug("objects of %s are read by boto3 (%s)", bucket, type(error).__name__)
        return None


def find_address(client: "S3Client", bucket: str) -> SplitResult:
    """Where boto3 asks for the object "x" of a bucket. Raises: ValueError, when obstore cannot ask there."""
    url = urlsplit(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x"}))
    if url.netloc in (GLOBAL, f"{bucket}.{GLOBAL}"):
        url = url._replace(netloc=url.netloc.removesuffix(GLOBAL) + urlsplit(client.meta.endpoint_url).netloc)
    if url.path not in ("/x", f"/{bucket}/x"):
        raise ValueError("an endpoint with a path")
    return url


def _is_proxied(url: SplitResult) -> bool:
    proxies = getproxies()
    return (url.scheme in proxies or "all" in proxies) and not proxy_bypass(url.hostname or "")


def _trusts_all(client: "S3Client") -> bool:
    """Whether boto3 trusts the certificates that everyone does; botocore has no public word for it."""
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    return getattr(session, "_verify", None) is True and not os.environ.get("REQUESTS_CA_BUNDLE")
