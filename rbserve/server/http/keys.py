"""API keys: a file with one key a line, or the environment variable RBSERVE_API_KEYS. Without keys, all may ask.

A request has the header `Authorization: Bearer KEY`. Digests of keys are compared in constant time. A key is in no log,
metric or answer.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Collection
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rbserve.core.errors import UsageError

VARIABLE = "RBSERVE_API_KEYS"
SHORTEST = 16
MAKE_ONE = "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"

Digests = frozenset[bytes]


def read_keys(file: Path | None) -> Digests:
    """Digests of the keys in a file, one a line; without a file, of the keys in RBSERVE_API_KEYS, separated by commas.

    Empty lines and lines that begin with # are skipped. Raises UsageError for a file without keys, or a short key.
    """
    if file is None:
        keys = os.environ.get(VARIABLE, "").split(",")
    else:
        try:
            keys = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot read the API keys of {file}: {error}", "a text file, a key a line"
            ) from None
    stripped = [key.strip() for key in keys if key.strip() and not key.strip().startswith("#")]
    if file is not None and not stripped:
        raise UsageError(f"{file} has no API key", f"a key a line; {MAKE_ONE}")
    for number, key in enumerate(stripped, 1):
        if len(key) < SHORTEST:
            raise UsageError(
                f"API key {number} has {len(key)} characters: at least {SHORTEST} make it hard to guess",
                MAKE_ONE,
            )
    return frozenset(_digest(key) for key in stripped)


class Authorized:
    """ASGI middleware: every path but the `free` ones needs one of the keys; else `refusal(path)` answers."""

    def __init__(
        self, app: ASGIApp, keys: Digests, free: Collection[str], refusal: Callable[[str], ASGIApp]
    ) -> None:
        self._app, self._keys, self._free, self._refusal = app, keys, frozenset(free), refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._free and not may_ask(scope, self._keys):
            await self._refusal(scope["path"])(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def may_ask(scope: Scope, keys: Digests) -> bool:
    """Whether a request has one of the keys; takes as long for a wrong key as for a right one."""
    kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    sent, known = _digest(key.strip()), False
    for digest in keys:
        known |= hmac.compare_digest(sent, digest)
    return known and kind.lower() == "bearer"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
