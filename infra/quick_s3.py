"""Keys of a bucket in, their objects' bytes out by one plain request each; or None, and boto3 is to be asked instead.

obstore (the object_store crate of Apache Arrow) takes a fifth of boto3's processor time for an object, and holds no
lock of Python's meanwhile. It only ever answers with a whole object: what goes wrong is asked again, retried and
explained by boto3, so that there is one place that judges.
"""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

# obstore writes other keys in a way of its own: "a//b" and "./a" are another object there, or none.
PLAIN = re.compile(r"(?!\.{1,2}(/|$))[A-Za-z0-9_.=-]+(/(?!\.{1,2}(/|$))[A-Za-z0-9_.=-]+)*")
MOST_BYTES = 32 << 20  # a larger object may take longer than the time that one request has
MOST_FAILURES = 8  # without a success in between: something here is not as it should be, and boto3 does it all
CONNECT, REQUEST = timedelta(seconds=10), timedelta(seconds=60)
CREDENTIALS = timedelta(minutes=5)  # after which boto3 is asked for them again; it hands out none that end sooner


class QuickReader:
    """Reads objects of one bucket, until too much has gone wrong."""

    def __init__(self, url: str, bucket: str, region: str, credentials: Callable[[], Any]) -> None:
        """`url` is that of the object "x" in the bucket, as boto3 writes it; it tells where buckets are found."""
        place = urlsplit(url)
        self._failures = 0
        self._store = S3Store(
            bucket,
            endpoint=f"{place.scheme}://{place.netloc}",
            virtual_hosted_style_request=place.path == "/x",
            region=region,
            credential_provider=credentials,
            client_options={"allow_http": place.scheme == "http", "connect_timeout": CONNECT, "timeout": REQUEST},
            retry_config={"max_retries": 0},
        )

    def read(self, key: str) -> bytes | None:
        """The object's bytes as they stood at one moment; None for whatever boto3 has to judge."""
        if self._failures >= MOST_FAILURES or PLAIN.fullmatch(key) is None:
            return None
        try:
            answer = self._store.get(key)
            size = int(answer.meta["size"])
            data = answer.bytes().to_bytes() if size <= MOST_BYTES else None
        except (BaseError, OSError, ValueError):
            self._failures += 1
            return None
        self._failures = 0
        return data if data is not None and len(data) == size else None


def choose_reader(client: "S3Client", bucket: str) -> QuickReader | None:
    """The quick reader of a bucket that this boto3 client reaches; None where boto3 does what it would not.

    That is to check the checksums of bodies (boto3's default; AWS_RESPONSE_CHECKSUM_VALIDATION=when_required turns it
    off), and to go through proxies or trust certificates of the user's own.
    """
    if client.meta.config.response_checksum_validation != "when_required":  # type: ignore[attr-defined]
        return None
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "x"})
    place = urlsplit(url)
    proxies = getproxies()
    proxied = (place.scheme in proxies or "all" in proxies) and not proxy_bypass(place.hostname or "")
    trusted = any(os.environ.get(name) for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"))
    if proxied or (trusted and place.scheme == "https"):
        return None
    try:
        credentials = Boto3CredentialProvider(ttl=CREDENTIALS)
    except ValueError:  # there are none: boto3 says so
        return None
    return QuickReader(url, bucket, client.meta.region_name, credentials)
