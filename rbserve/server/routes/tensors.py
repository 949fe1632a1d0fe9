"""Tensors of the Open Inference Protocol: from JSON or binary data to values, and back to binary data."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
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


class Datatype(NamedTuple):
    """A datatype of the protocol's: its little-endian NumPy dtype, its types in JSON, and what to send."""

    dtype: str
    json: frozenset[type]
    example: str


_WHOLE = frozenset((int,)), "whole numbers, such as [10]"
_FRACTIONS = frozenset((float, int)), "numbers, such as [0.5]"
DATATYPES: Mapping[str, Datatype] = {
    "BYTES": Datatype("O", frozenset((str,)), 'strings, such as ["50", "181"]'),
    "BOOL": Datatype("?", frozenset((bool,)), "truth values, such as [true]"),
    "UINT8": Datatype("<u1", *_WHOLE), "INT8": Datatype("<i1", *_WHOLE), "INT16": Datatype("<i2", *_WHOLE),
    "INT32": Datatype("<i4", *_WHOLE), "INT64": Datatype("<i8", *_WHOLE), "FP16": Datatype("<f2", *_FRACTIONS),
    "FP32": Datatype("<f4", *_FRACTIONS), "FP64": Datatype("<f8", *_FRACTIONS),
}  # fmt: skip
_IN_WORDS = {1: "one", 2: "two", 4: "four", 8: "eight"}


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


def tensor_values(sent: InputTensor, tail: memoryview, flat: bool) -> tuple[Any, memoryview]:
    """An input's values, in a flat list or array, and what of the binary tensors is left.

    `flat`: the input has one dimension, which an error may tell.
    """
    size = (sent.parameters or {}).get("binary_data_size")
    datatype = DATATYPES[sent.datatype]
    values: Any
    if size is None:
        if sent.data is None:
            raise invalid(f"input {sent.name} has no data: send {datatype.example}")
        values = _flat(sent.data, sent, flat)
        if not {*map(type, values)} <= datatype.json:
            wrong = next(value for value in values if type(value) not in datatype.json)
            raise invalid(
                f"input {sent.name} is {sent.datatype}, and has {_shown(wrong)} among its data: "
                f"send {datatype.example}"
            )
    else:
        if not isinstance(size, int) or not 0 <= size <= len(tail):
            raise invalid(f"input {sent.name} has {size} bytes, and {len(tail)} are there")
        own, tail = tail[:size], tail[size:]
        values = _strings(own, sent.name) if sent.datatype == "BYTES" else _numbers(own, sent)
    if sent.shape != [len(values)] and not _holds(sent.shape, len(values)):
        raise invalid(
            f"input {sent.name} has shape {sent.shape[:MAX_DIMENSIONS]} and {len(values)} values"
            + (f": send shape [{len(values)}]" if flat else "")
        )
    return values, tail


def _flat(data: list[Any], sent: InputTensor, flat: bool) -> list[Any]:
    """The values of data that are in one list, or nested as the shape has it."""
    if list not in {*map(type, data)}:
        return data
    for size in sent.shape[1:MAX_DIMENSIONS]:
        if any(type(part) is not list or len(part) != size for part in data):
            raise invalid(
                f"input {sent.name} has data that are not nested as its shape {sent.shape[:MAX_DIMENSIONS]} has it: "
                f"send its {'N values in one list, with shape [N]' if flat else 'values in one list'}"
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
    return len(shape) <= MAX_DIMENSIONS and min(shape, default=0) >= 0 and math.prod(shape) == count


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


def _numbers(data: memoryview, sent: InputTensor) -> NDArray[Any]:
    dtype = np.dtype(DATATYPES[sent.datatype].dtype)
    if len(data) % dtype.itemsize:
        raise invalid(
            f"input {sent.name} has {len(data)} bytes, and {sent.datatype} take {_IN_WORDS[dtype.itemsize]} each"
        )
    return np.frombuffer(data, dtype).copy()  # where a runtime may read it: at an aligned address


def packed(values: Any, datatype: str) -> bytes:
    """Values of a datatype, in a list or an array, as the protocol's bytes."""
    array = np.asarray(values, DATATYPES[datatype].dtype)
    if datatype != "BYTES":
        return array.tobytes()
    encoded = [value.encode() for value in array.ravel().tolist()]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


def shape_of(values: Any) -> list[int]:
    """The shape of values in a list or an array."""
    return [len(values)] if isinstance(values, list) else [*values.shape]


def json_data(values: Any) -> list[Any]:
    """Values in a list or an array as JSON has them: in one list, the last dimension running fastest."""
    data: list[Any] = values if isinstance(values, list) else values.ravel().tolist()
    return data


def invalid(message: str) -> RequestError:
    """The refusal of a request that is not of the protocol."""
    return RequestError(400, "invalid_request", message)
