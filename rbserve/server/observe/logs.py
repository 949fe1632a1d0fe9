"""Logs: failures on stderr and, if the user wants them, a JSON line a request on stdout.

A line has no item, history or text unless the level is `items`: what a user consumed is private. No line has a key or
an address.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.types import Scope

from rbserve.core.files import optional_write
from rbserve.server.api.options import Level

HEADER = b"x-request-id"
USABLE = re.compile(rb"[A-Za-z0-9._:-]{1,64}").fullmatch
QUERY, CODE = "rbserve.query", "rbserve.error"
"""Keys of an ASGI scope: handlers set them to the `LoggedQuery`, and to the code of an error."""

_encode = msgspec.json.Encoder().encode
_numbers = random.Random()


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The request id that a client or a proxy sent, where it can stand in a log; else a random one."""
    for name, value in headers:
        if name == HEADER and USABLE(value):
            return value.decode()
    return f"{_numbers.getrandbits(64):016x}"


class LoggedQuery(msgspec.Struct, omit_defaults=True):
    """The fields of a log line about a request to a model."""

    model: str
    variant: str
    size: int
    """Candidates scored or items asked for, of all its users."""
    users: int = 1
    items: Any = None
    """The requests themselves, in a log with items."""


class Log:
    """JSON lines on stdout. `items`: with the ids and texts of the requests."""

    def __init__(self, items: bool) -> None:
        self.items = items

    def request(
        self, scope: Scope, route: str, status: int, seconds: float, failure: str | None = None
    ) -> None:
        """Logs an answered request; `failure` is the traceback of a fault of the server's."""
        line: dict[str, Any] = {
            "time": _now(),
            "level": "error" if status >= 500 else "info",
            "request_id": scope["request_id"],
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 3),
        }
        query: LoggedQuery | None = scope.get(QUERY)
        if query is not None:
            line |= msgspec.to_builtins(query)
        if (code := scope.get(CODE)) is not None:
            line["error"] = code
        if failure is not None:
            line["traceback"] = failure
        write(line)


class JsonFormatter(logging.Formatter):
    """Log records of libraries, and failures with their traceback, as JSON lines."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": _now(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return _encode(line).decode()


def uvicorn_logging(level: Level) -> dict[str, Any]:
    """The configuration of logging: warnings and failures on stderr, as text or, beside other JSON, as JSON."""
    plain = {"()": "logging.Formatter", "fmt": "%(levelname)s: %(message)s"}
    formatter = plain if level == "errors" else {"()": JsonFormatter}
    handler = {"class": "logging.StreamHandler", "formatter": "own", "stream": "ext://sys.stderr"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"own": formatter},
        "handlers": {"stderr": handler},
        "loggers": {"uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False}},
    }


def write(line: dict[str, Any]) -> None:
    """One line, whole: several workers share the stream. A full disk or a closed pipe costs the line, no request."""
    with optional_write("a line of the log"):
        sys.stdout.buffer.write(_encode(line) + b"\n")
        sys.stdout.buffer.flush()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
