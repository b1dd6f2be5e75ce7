"""An S3 server in this process that holds objects in memory and answers the N-th request wrongly; see `Fault`."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from s3server import client_variables

from infra.storage.s3 import make_s3_client

BUCKET = "bucket"


@dataclass
class Fault:
    """What happens at the N-th request (0: never) and `lasts` requests long.

    `kind`: a status with its code ("503 SlowDown"), "reset" (no answer, nothing done), "lost" (done, but no answer),
    "cut" (half a body), "slow" (a body in pieces).
    """

    number: int = 0
    kind: str = ""
    lasts: int = 1


@dataclass
class Memory:
    """The objects by key as (bytes, time), the unfinished uploads by id, and what was asked and went wrong so far."""

    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    uploads: dict[str, tuple[str, float]] = field(default_factory=dict)
    fault: Fault = field(default_factory=Fault)
    passed: int = 0
    headers: dict[str, str] = field(default_factory=dict)  # of the last request
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self, files: dict[str, bytes], fault: Fault) -> None:
        """Hold these files alone, and count requests from here."""
        self.objects = {key: (data, time.time()) for key, data in files.items()}
        self.fault, self.passed = fault, 0

    def next_fault(self) -> str:
        """What happens to the request that came just now."""
        with self.lock:
            self.passed += 1
            hit = 0 < self.fault.number <= self.passed < self.fault.number + self.fault.lasts
            return self.fault.kind if hit else ""


class Handler(BaseHTTPRequestHandler):
    """One request; path-style addresses only."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a head and a body in two pieces must not wait for each other
    memory: ClassVar[Memory]

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.memory.headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.memory.next_fault()
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        is_read = self.command in ("GET", "HEAD") and key
        if fault == "reset" or (fault.startswith(("404", "412")) and not is_read):
            self.close_connection = True
        elif fault[:1].isdigit():
            self.refuse(int(fault[:3]), fault[4:])
        else:
            self.serve(key, parse_qs(parts.query, keep_blank_values=True), body, fault)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_any  # noqa: N815

    def serve(self, key: str, query: dict[str, list[str]], body: bytes, fault: str) -> None:
        objects = self.memory.objects
        if "uploads" in query or "uploadId" in query:
            self.answer(200, self.serve_uploads(query), fault)
        elif not key:
            self.answer(200, self.list_objects(query.get("prefix", [""])[0]), fault)
        elif self.command == "PUT":
            objects[key] = (body, time.time())
            self.answer(200, b"", fault, body)
        elif self.command == "DELETE":
            objects.pop(key, None)
            self.answer(204, b"", fault)
        elif key not in objects:
            self.refuse(404, "NoSuchKey")
        else:
            self.answer(200, objects[key][0], fault, objects[key][0])

    def serve_uploads(self, query: dict[str, list[str]]) -> bytes:
        if self.command == "DELETE":
            self.memory.uploads.pop(query["uploadId"][0])
            return b""
        found = "".join(
            f"<Upload><Key>{escape(key)}</Key><UploadId>{name}</UploadId><Initiated>{stamp(begun)}</Initiated></Upload>"
            for name, (key, begun) in self.memory.uploads.items()
        )
        return f"<ListMultipartUploadsResult>{found}</ListMultipartUploadsResult>".encode()

    def list_objects(self, prefix: str) -> bytes:
        found = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>{len(data)}</Size><ETag>&quot;{md5(data)}&quot;</ETag>"
            f"<LastModified>{stamp(written)}</LastModified></Contents>"
            for key, (data, written) in sorted(self.memory.objects.items())
            if key.startswith(prefix)
        )
        head = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{head}{found}</ListBucketResult>".encode()

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode(), "")

    def answer(self, status: int, body: bytes, fault: str, tagged: bytes | None = None) -> None:
        if fault == "lost":
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.FOUND:
            self.send_header("Location", "/login")  # an object beside the bucket's own, if the test puts one there
        self.send_header("Last-Modified", formatdate(usegmt=True))
        if tagged is not None:
            self.send_header("ETag", f'"{md5(tagged)}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut" and body:
            body, self.close_connection = body[: len(body) // 2], True
        step = max(1, len(body) // 8) if fault == "slow" else max(1, len(body))
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            self.wfile.flush()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


@contextmanager
def run_faulty_s3() -> Iterator[tuple[Memory, dict[str, str]]]:
    """(its memory, the environment that boto3 needs to reach it) of a server that ends with the block."""
    memory = Memory()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"memory": memory}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield memory, client_variables(server.server_port, "hunter2-key", "hunter2-canary")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def reach_faulty_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """The memory of such a server, which this process's client reaches for the length of the block."""
    with run_faulty_s3() as (memory, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        make_s3_client.cache_clear()
        yield memory
        make_s3_client.cache_clear()
