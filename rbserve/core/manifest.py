"""Reading the JSON files that say what a directory or a run is: one check of their version, one set of errors."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from rbserve.core.errors import DataError, RbserveError

T = TypeVar("T", bound=msgspec.Struct)


class _AnyVersion(msgspec.Struct):
    schema: int


def read_manifest(
    file: Path, of: type[T], schema: int, kind: str, again: str, error: type[RbserveError] = DataError
) -> T:
    """The Struct `of` that a JSON file holds; `error` when it is absent, no such thing or of another schema.

    `kind` says what it is ("a run file"), `again` what to do when it cannot be used.
    """
    try:
        content = file.read_bytes()
        version = msgspec.json.decode(content, type=_AnyVersion).schema
        if version != schema:
            raise error(f"{file} has schema {version}, this rbserve reads {schema}", again)
        return msgspec.json.decode(content, type=of)
    except OSError as problem:
        raise error(f"cannot read {kind}, {file}: {problem.strerror}", again) from None
    except msgspec.MsgspecError as problem:
        raise error(f"{file} is not {kind}: {problem}", again) from None
