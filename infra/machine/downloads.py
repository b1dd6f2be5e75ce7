"""Whether the host of a download answers, asked within seconds and before work begins that would need it.

By Python's own client and so through the proxies and with the certificates that Keras' downloader has as well.
"""

import threading
import urllib.request
from urllib.error import HTTPError, URLError

from infra.machine.proxies import find_proxy

PATIENCE = 10.0  # seconds, in all: names, connections and answers


def find_host_fault(address: str, seconds: float = PATIENCE) -> str | None:
    """Why nothing can be downloaded from an http(s) address, in a few words; None where its host answers."""
    found: list[str | None] = []
    # A thread of its own, for nothing bounds the time that a system takes to look a name up.
    asking = threading.Thread(target=lambda: found.append(_ask(address, seconds)), daemon=True)
    asking.start()
    asking.join(seconds)
    obstacle = found[0] if found else f"no answer within {seconds:g} s"
    proxy = find_proxy(address)
    return f"{obstacle}, by the proxy {proxy}" if obstacle and proxy else obstacle


def _ask(address: str, seconds: float) -> str | None:
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - an address of ours
    try:
        with urllib.request.build_opener().open(request, timeout=seconds):  # the proxies of now, not of the first time
            return None
    except HTTPError as error:  # "forbidden" and the like are an answer to HEAD, and not to a download
        return f"it answers {error.code} {error.reason}" if error.code in (404, 407, 410) or error.code >= 500 else None
    except URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
