"""An HTTP proxy before a server that cuts connections, damages bodies and refuses requests, as a test says."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


@dataclass(frozen=True)
class Cut:
    """The connection ends after so many bytes of the answer's body."""

    after: int = 0


@dataclass(frozen=True)
class Damage:
    """The last byte of the answer's body is another one."""


@dataclass(frozen=True)
class Refusal:
    """An error of S3 instead of an answer of the server."""

    status: int
    code: str


Rule = Callable[[str, str], Cut | Damage | Refusal | None]


def no_fault(method: str, path: str) -> None:
    """A rule that lets everything through."""


@dataclass
class Proxy:
    """`rule` says of each request what goes wrong with it; `requests` has every (method, path) that came."""

    url: str = ""
    rule: Rule = no_fault
    requests: list[tuple[str, str]] = field(default_factory=list)

    def count(self, method: str, text: str) -> int:
        """How many requests of a method had a text in their path."""
        return sum(one == method and text in path for one, path in self.requests)


@contextmanager
def faulty_proxy(target: str) -> Iterator[Proxy]:
    """A proxy before the server at `target`, on a free port of this machine."""
    proxy = Proxy()
    host = urlsplit(target).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.requests.append((self.command, self.path))
            fault = proxy.rule(self.command, self.path)
            if isinstance(fault, Refusal):
                text = (
                    f"<Error><Code>{fault.code}</Code><Message>{fault.code} here</Message></Error>".encode()
                )
                self._answer(fault.status, [("Content-Type", "application/xml")], text, len(text))
                return
            forward = http.client.HTTPConnection(host, timeout=30)
            forward.request(self.command, self.path, body, dict(self.headers))
            answer = forward.getresponse()
            content = answer.read()
            forward.close()
            size = int(answer.headers.get("Content-Length") or len(content))
            if isinstance(fault, Damage) and content:
                content = content[:-1] + bytes([content[-1] ^ 1])
            if isinstance(fault, Cut):
                content = content[: fault.after]
                self.close_connection = True
            self._answer(answer.status, answer.getheaders(), content, size)

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, size: int) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
