"""Tensors of the Open Inference Protocol: from JSON or binary data to values, and back to binary data."""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from rbserve.core.wire import OIP_JSON_BYTES
from rbserve.server.http.requests import (
    RequestError,
    encode,
    quote,
)

MAX_DIMENSIONS = 8


_EXAMPLES = {"BYTES": 'strings, such as ["50", "181"]', "INT64": "whole numbers, such as [10]"}


class Tensor(NamedTuple):
    """A tensor of the protocol's: its name, its type, and its shape, where -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class InputTensor(msgspec.Struct, frozen=True):
    """A tensor of a request. Its values are `data`, flat or nested, or binary_data_size bytes behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


def split_body(request: Request, body: bytes) -> tuple[bytes, memoryview]:
    """The JSON of a request, and the binary tensors behind it."""
    header = request.headers.get(OIP_JSON_BYTES)
    length = len(body) if header is None else int(header) if header.isdecimal() else -1
    if not 0 <= length <= len(body):
        raise invalid(f"{OIP_JSON_BYTES} is {quote(header or '')}, and the body has {len(body)} bytes")
    return body[:length], memoryview(body)[length:]


def tensor_values(sent: InputTensor, tail: memoryview) -> tuple[Any, memoryview]:
    """An input's values, and what of the binary tensors is left."""
    size = (sent.parameters or {}).get("binary_data_size")
    values: list[Any]
    if size is None:
        if sent.data is None:
            raise invalid(f"input {sent.name} has no data: send {_EXAMPLES[sent.datatype]}")
        values = _flat(sent.data, sent)
        kind = str if sent.datatype == "BYTES" else int
        for value in values:
            if type(value) is not kind:
                raise invalid(
                    f"input {sent.name} is {sent.datatype}, and has {_shown(value)} among its data: "
                    f"send {_EXAMPLES[sent.datatype]}"
                )
    else:
        if not isinstance(size, int) or not 0 <= size <= len(tail):
            raise invalid(f"input {sent.name} has {size} bytes, and {len(tail)} are there")
        own, tail = tail[:size], tail[size:]
        values = _strings(own, sent.name) if sent.datatype == "BYTES" else _numbers(own, sent.name)
    if sent.shape != [len(values)] and not _holds(sent.shape, len(values)):
        raise invalid(
            f"input {sent.name} has shape {sent.shape[:MAX_DIMENSIONS]} and {len(values)} values: "
            f"send shape [{len(values)}]"
        )
    return values, tail


def _flat(data: list[Any], sent: InputTensor) -> list[Any]:
    """The values of data that are in one list, or nested as the shape has it."""
    if not any(type(part) is list for part in data):
        return data
    for size in sent.shape[1:MAX_DIMENSIONS]:
        if any(type(part) is not list or len(part) != size for part in data):
            raise invalid(
                f"input {sent.name} has data that are not nested as its shape {sent.shape[:MAX_DIMENSIONS]} has it: "
                f"send its N values in one list, with shape [N]"
            )
        data = [value for part in data for value in part]
    return data


def _shown(value: Any) -> str:
    """A value of JSON for a message, cut when it is long."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return encode(value).decode()
    return quote(value) if isinstance(value, str) else f"the number {value}"


def _holds(shape: list[int], count: int) -> bool:
    """Whether a tensor of this shape has so many values, such as [1, N] and [N, 1] of a batch of one."""
    positive = all(0 <= size <= count for size in shape)
    return positive and len(shape) <= MAX_DIMENSIONS and math.prod(shape) == count


def _strings(data: memoryview, name: str) -> list[str]:
    """Each with its length before it, in four bytes."""
    texts, at = [], 0
    try:
        while at < len(data):
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
            if at + length > len(data):
                raise ValueError
            texts.append(str(data[at : at + length], "utf-8"))
            at += length
    except (struct.error, ValueError):  # a length that is cut off, or leads beyond the end; no UTF-8
        raise invalid(
            f"input {name} is no list of strings: each takes four bytes of length, then UTF-8"
        ) from None
    return texts


def _numbers(data: memoryview, name: str) -> list[int]:
    if len(data) % 8:
        raise invalid(f"input {name} has {len(data)} bytes, and INT64 take eight each")
    found: NDArray[np.int64] = np.frombuffer(data, "<i8")
    values: list[int] = found.tolist()
    return values


def packed(values: Any) -> bytes:
    """Values as the protocol's bytes."""
    if isinstance(values, list):
        encoded = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
    data: bytes = np.ascontiguousarray(values, "<f4").tobytes()
    return data


def invalid(message: str) -> RequestError:
    return RequestError(400, "invalid_request", message)
