"""API keys: who may ask the models. One key a line of a file, or keys in an environment variable; none asks for none.

A request says `Authorization: Bearer KEY`. Digests are compared, each with each, in a time that depends on neither; a
key is in no log, metric or answer.
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
    """The digests of the keys in a file, a line each, or without one of those in RBSERVE_API_KEYS, between commas.

    Empty lines and those that begin with # are none. UsageError for a file without keys, or a key that is short.
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
    found = [key.strip() for key in keys if key.strip() and not key.strip().startswith("#")]
    if file is not None and not found:
        raise UsageError(f"{file} has no API key", f"a key a line; {MAKE_ONE}")
    for number, key in enumerate(found, 1):
        if len(key) < SHORTEST:
            raise UsageError(
                f"API key {number} has {len(key)} characters: at least {SHORTEST} make it hard to guess",
                MAKE_ONE,
            )
    return frozenset(_digest(key) for key in found)


class Authorized:
    """ASGI middleware: all but the `free` paths take one of the keys; without, `refusal(path)` answers."""

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
    """Whether a request has one of the keys; it takes as long for a wrong one."""
    kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    asked, known = _digest(key.strip()), False
    for digest in keys:
        known |= hmac.compare_digest(asked, digest)
    return known and kind.lower() == "bearer"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
