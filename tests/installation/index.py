"""A package index on loopback that offers all that the real one does, and for each package one version more: 999.0."""

from __future__ import annotations

import hashlib
import io
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urljoin

from pip._internal.models.index import PyPI

NEWER = "999.0"
UPSTREAM_TIMEOUT_S = 60


def newer_wheel(package: str) -> bytes:
    """Return a wheel of the version that must never be installed: it fails when anything imports it."""
    name = package.replace("-", "_")
    info = f"{name}-{NEWER}.dist-info"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise ImportError('published after the lock')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {NEWER}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return content.getvalue()


class _Links(HTMLParser):
    """Collect the links of a page of the simple index, absolute, with the attributes that installers read."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base, self.lines = base, list[str]()
        self._attributes: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._attributes = dict(attrs)

    def handle_data(self, data: str) -> None:
        if self._attributes and data.strip():
            kept = {name: value for name, value in self._attributes.items() if name != "data-core-metadata"}
            kept["href"] = urljoin(self.base, kept["href"] or "")
            written = " ".join(
                f"{name}='{(value or '').replace('>', '&gt;')}'" for name, value in kept.items()
            )
            self.lines.append(f"<a {written}>{data.strip()}</a><br>")
            self._attributes = {}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        package = self.path.strip("/").split("/")[-1]
        if self.path.startswith("/files/"):
            package = package.partition("-999")[0].replace("_", "-")
            self._answer(newer_wheel(package), "application/octet-stream")
            return
        asked = urllib.request.Request(f"{PyPI.simple_url}/{package}/", headers={"Accept": "text/html"})
        with urllib.request.urlopen(asked, timeout=UPSTREAM_TIMEOUT_S) as page:
            links = _Links(page.url)
            links.feed(page.read().decode())
        wheel = f"{package.replace('-', '_')}-{NEWER}-py3-none-any.whl"
        digest = hashlib.sha256(newer_wheel(package)).hexdigest()
        links.lines.append(f"<a href='/files/{wheel}#sha256={digest}'>{wheel}</a><br>")
        self._answer(
            "\n".join(["<!DOCTYPE html><html><body>", *links.lines, "</body></html>"]).encode(), "text/html"
        )

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: an installation asks hundreds of times."""


@contextmanager
def index_with_newer_versions() -> Iterator[str]:
    """Serve the index while the block runs, and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
