"""A web server that behaves badly on request, and manifests of one small artifact."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serving.weights import Artifact, Manifest

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    """/good, /flipped (same size, one bit differs), /short, /long, /cut (promises more than it sends),
    /redirect.
    """

    server: Web

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        body = {
            "/good": CONTENT,
            "/flipped": bytes([CONTENT[0] ^ 1]) + CONTENT[1:],
            "/short": CONTENT[:-1],
            "/long": CONTENT + b"x",
            "/cut": CONTENT[: len(CONTENT) // 2],
        }.get(self.path)
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
            return
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) if self.path == "/cut" else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output clean."""


class Web(ThreadingHTTPServer):
    """The server; `requests` holds every path asked for, `url` makes an address of one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def manifest_of(*urls: str, licence: str = "Apache-2.0") -> Manifest:
    """A manifest of one artifact, "net", whose right bytes are CONTENT."""
    return Manifest(
        artifacts={
            "net": Artifact.model_validate(
                {
                    "filename": "net.bin",
                    "sha256": SHA256,
                    "size": len(CONTENT),
                    "licence": licence,
                    "note": "bytes",
                    "sources": [{"kind": "url", "url": url} for url in urls],
                }
            )
        }
    )


@pytest.fixture
def content() -> bytes:
    return CONTENT


@pytest.fixture
def make_manifest() -> object:
    return manifest_of
