"""The Open Inference Protocol, version 2, over HTTP: what KServe, Triton and their clients speak, for the same models.

    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/NAME, /v2/models/NAME/ready       (or /v2/models/NAME/versions/1, …/versions/1/ready)
    POST /v2/models/NAME/infer                         (or /v2/models/NAME/versions/1/infer)

and of Triton's extensions those that tell something, which its tools ask for:

    GET  /v2/models/NAME/config, /v2/models/NAME/stats, /v2/models/stats
    POST /v2/repository/index

A model that scores takes history BYTES[T] and candidates BYTES[N] and gives scores FP32[N]; one that ranks takes
history BYTES[T] and k INT64[1] and gives items BYTES[K] and scores FP32[K]. Ids are strings. Tensors are JSON or, by
the protocol's extension, binary: the JSON has Inference-Header-Content-Length bytes, the tensors follow.

The request parameter unknown_history, "refuse" or "skip", says what becomes of ids in the history that the model does
not know. With "skip" the answer's parameter skipped has them: a JSON list in a string, as parameters hold no lists.

An error is {"error": "what, and what to do"}, as the protocol has it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from rbserve import __version__
from rbserve.core.tasks import CTR, SEQREC
from rbserve.core.types import Items
from rbserve.server.asking import (
    Question,
    RequestError,
    answer,
    check_length,
    encode,
    history_rows,
    json_response,
    parse,
    quote,
    read_body,
    rows,
)
from rbserve.server.models import Models
from rbserve.server.schema import UNKNOWN_HISTORY, Limits, UnknownHistory
from rbserve.server.service import Service, Top

PREFIX = "/v2"
VERSION = "1"
JSON_BYTES = "inference-header-content-length"
MOST_DIMENSIONS = 8
_EXAMPLES = {"BYTES": 'strings, such as ["50", "181"]', "INT64": "whole numbers, such as [10]"}


class Tensor(NamedTuple):
    """A tensor of the protocol's: its name, its type, and its shape, where -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


HISTORY = Tensor("history", "BYTES", [-1])
INPUTS = {
    CTR: [HISTORY, Tensor("candidates", "BYTES", [-1])],
    SEQREC: [HISTORY, Tensor("k", "INT64", [1])],
}
OUTPUTS = {
    CTR: [Tensor("scores", "FP32", [-1])],
    SEQREC: [Tensor("items", "BYTES", [-1]), Tensor("scores", "FP32", [-1])],
}


class InputTensor(msgspec.Struct, frozen=True):
    """A tensor that is sent. Its data are here, flat or nested, or binary_data_size bytes of what follows."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class WantedOutput(msgspec.Struct, frozen=True):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct, frozen=True):
    """One user, in tensors. null says as much as a field that is not there: some clients send it."""

    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[WantedOutput] | None = None
    parameters: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(InferRequest)


def model_paths(name: str) -> tuple[str, str]:
    """Where a model's routes begin: with and without its version."""
    own = f"{PREFIX}/models/{name}"
    return own, f"{own}/versions/{VERSION}"


def model_name(path: str) -> str | None:
    """The model that a path is about, served or not; None of a path that names none."""
    begin, _, rest = path.partition(f"{PREFIX}/models/")
    return None if begin else rest.partition("/")[0] or None


class Model:
    """The routes of one model."""

    def __init__(self, models: Models, name: str, limits: Limits) -> None:
        self._models, self.name, self._limits = models, name, limits
        task = models[name].work.task
        self.inputs, self.outputs = INPUTS[task], OUTPUTS[task]

    async def metadata(self, request: Request) -> Response:
        """What goes in and what comes out."""
        del request
        service = self._models[self.name]
        return json_response({
            "name": service.model, "versions": [VERSION], "platform": f"rbserve_{service.variant}",
            "inputs": [one._asdict() for one in self.inputs], "outputs": [one._asdict() for one in self.outputs],
        })  # fmt: skip

    async def ready(self, request: Request) -> Response:
        """Whether to send requests here."""
        del request
        ready = self._models.status == "ready"
        return json_response({"name": self.name, "ready": ready}, 200 if ready else 503)

    async def config(self, request: Request) -> Response:
        """The same as metadata, as Triton configures a model: nothing of it can be batched by the client."""
        del request
        return json_response({
            "name": self.name, "platform": "rbserve", "backend": "", "max_batch_size": 0,
            "input": [_configured(one) for one in self.inputs], "output": [_configured(one) for one in self.outputs],
        })  # fmt: skip

    async def stats(self, request: Request) -> Response:
        """How many requests were answered, and how long they waited and took."""
        del request
        return json_response({"model_stats": [self.statistics()]})

    def statistics(self) -> dict[str, Any]:
        """Triton's statistics of the model, since the start. What it has of encoding counts as computing's output.

        Triton counts an inference at every station, also where it took no time, and perf_analyzer holds it to that.
        """
        samples, own = self._models.telemetry.samples(), {("model", self.name)}

        def found(name: str, *more: tuple[str, str]) -> float:
            return samples.get((f"rbserve_{name}", frozenset({*own, *more})), 0.0)

        calls = int(found("scoring_duration_seconds_count"))
        answered = calls - int(found("batch_requests_count")) + int(found("batch_requests_sum"))

        def spent(seconds: float) -> dict[str, int]:
            return {"count": answered, "ns": round(seconds * 1e9)}

        queue, computed = found("queue_duration_seconds_sum"), found("scoring_duration_seconds_sum")
        nothing = {"count": 0, "ns": 0}
        return {
            "name": self.name, "version": VERSION, "last_inference": 0,
            "inference_count": answered, "execution_count": calls,
            "inference_stats": {
                "success": spent(queue + computed), "fail": nothing, "queue": spent(queue),
                "compute_input": spent(0), "compute_infer": spent(computed),
                "compute_output": spent(found("stage_duration_seconds_sum", ("stage", "encode"))),
                "cache_hit": nothing, "cache_miss": nothing,
            },
            "batch_stats": [],
        }  # fmt: skip

    async def infer(self, request: Request) -> Response:
        """One user: a slate scored, or the catalogue ranked."""
        body = bytes(await read_body(request, self._limits.max_body_bytes))
        head, tail = _split(request, body)
        example = '{"inputs": [{"name": "history", "shape": [1], …}]}; ids are strings'
        asked = parse(bytearray(head), _decoder, example)
        wanted = self._wanted(asked)
        given = self._given(asked, tail)
        service = self._models[self.name]
        check_length("history", given["history"], self._limits.max_history)
        history, skipped = history_rows(service, given["history"], _unknown_history(asked), self._limits)
        found = await self._found(request, service, history, given)
        parameters = {} if skipped is msgspec.UNSET else {"skipped": encode(skipped).decode()}
        return self._reply(asked, [(one, found[one.name]) for one in wanted], parameters)

    async def _found(
        self, request: Request, service: Service[Any, Any], history: Items, given: dict[str, Any]
    ) -> dict[str, Any]:
        """The outputs by name."""
        limits = self._limits
        if not service.work.task.ranks:
            check_length("candidates", given["candidates"], limits.max_candidates)
            if not given["candidates"]:
                raise RequestError(
                    422, "empty_candidates", "candidates is empty: name at least one item to score"
                )
            candidates = rows(service, "candidates", given["candidates"])
            (scores,) = await answer(request, limits, [Question(service, history, candidates)])
            return {"scores": scores}
        (k,) = given["k"]
        if not 1 <= k <= limits.max_k:
            raise RequestError(422, "k_too_large", f"k is {k}, and must lie between 1 and {limits.max_k}")
        ((items, scores),) = await answer(request, limits, [Question(service, history, Top(int(k)))])
        return {"items": service.items.names(items), "scores": scores}

    def _wanted(self, asked: InferRequest) -> list[WantedOutput]:
        """The outputs that are asked for, all where none is named."""
        known = [one.name for one in self.outputs]
        for one in asked.outputs or ():
            if one.name not in known:
                raise _invalid(f"there is no output {quote(one.name)}: {self.name} gives {', '.join(known)}")
        return asked.outputs or [WantedOutput(name) for name in known]

    def _given(self, asked: InferRequest, tail: memoryview) -> dict[str, Any]:
        """Every input's values: strings, or numbers."""
        given: dict[str, Any] = {}
        known = {one.name: one for one in self.inputs}
        for one in asked.inputs:
            if one.name not in known:
                raise _invalid(f"there is no input {quote(one.name)}: {self.name} takes {', '.join(known)}")
            if one.name in given:
                raise _invalid(f"input {one.name} is there twice")
            want = known[one.name]
            if one.datatype != want.datatype:
                raise _invalid(f"input {one.name} is {quote(one.datatype)}, not {want.datatype}")
            given[one.name], tail = _values(one, tail)
            if want.shape != [-1] and len(given[one.name]) != want.shape[0]:
                raise _invalid(f"input {one.name} has {len(given[one.name])} values, not {want.shape[0]}")
        if missing := known.keys() - given.keys():
            raise _invalid(f"input {min(missing)} is missing")
        if len(tail):
            raise _invalid(f"{len(tail)} bytes follow the last binary input")
        return given

    def _reply(
        self, asked: InferRequest, found: Sequence[tuple[WantedOutput, Any]], parameters: dict[str, str]
    ) -> Response:
        kinds = {one.name: one.datatype for one in self.outputs}
        binary_unless_said = bool((asked.parameters or {}).get("binary_data_output", False))
        outputs, blobs = [], []
        for wanted, values in found:
            output: dict[str, Any] = {
                "name": wanted.name,
                "datatype": kinds[wanted.name],
                "shape": [len(values)],
            }
            if (wanted.parameters or {}).get("binary_data", binary_unless_said):
                blobs.append(_bytes(values))
                output["parameters"] = {"binary_data_size": len(blobs[-1])}
            else:
                output["data"] = values if isinstance(values, list) else values.tolist()
            outputs.append(output)
        reply: dict[str, Any] = {
            "model_name": self.name,
            "model_version": VERSION,
            "outputs": outputs,
        }
        if asked.id is not None:
            reply["id"] = asked.id
        if parameters:
            reply["parameters"] = parameters
        head = encode(reply)
        if not blobs:
            return Response(head, media_type="application/json")
        return Response(
            b"".join([head, *blobs]),
            headers={JSON_BYTES: str(len(head))},
            media_type="application/octet-stream",
        )


async def server(request: Request) -> Response:
    """What this server is."""
    del request
    extensions = ["binary_tensor_data", "model_configuration", "statistics"]
    return json_response({"name": "rbserve", "version": __version__, "extensions": extensions})


class Repository:
    """The routes about all models."""

    def __init__(self, models: Models, routes: Sequence[Model]) -> None:
        self._models, self._routes = models, routes

    async def index(self, request: Request) -> Response:
        """Names the models."""
        del request
        state = "READY" if self._models.status == "ready" else "UNAVAILABLE"
        return json_response([
            {"name": one.model, "version": VERSION, "state": state, "reason": ""} for one in self._models
        ])  # fmt: skip

    async def stats(self, request: Request) -> Response:
        """The statistics of every model."""
        del request
        return json_response({"model_stats": [one.statistics() for one in self._routes]})


def _unknown_history(asked: InferRequest) -> UnknownHistory | msgspec.UnsetType:
    """What a request says of ids that the model does not know."""
    wanted: UnknownHistory | msgspec.UnsetType = (asked.parameters or {}).get(
        "unknown_history", msgspec.UNSET
    )
    if wanted is not msgspec.UNSET and wanted not in get_args(UnknownHistory):
        raise _invalid(f"parameter unknown_history is {quote(str(wanted))}: it takes {UNKNOWN_HISTORY}")
    return wanted


def _configured(tensor: Tensor) -> dict[str, Any]:
    kinds = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}
    return {"name": tensor.name, "data_type": kinds[tensor.datatype], "dims": tensor.shape}


def _split(request: Request, body: bytes) -> tuple[bytes, memoryview]:
    """The JSON of a request, and the binary tensors behind it."""
    said = request.headers.get(JSON_BYTES)
    length = len(body) if said is None else int(said) if said.isdecimal() else -1
    if not 0 <= length <= len(body):
        raise _invalid(f"{JSON_BYTES} is {quote(said or '')}, and the body has {len(body)} bytes")
    return body[:length], memoryview(body)[length:]


def _values(sent: InputTensor, tail: memoryview) -> tuple[Any, memoryview]:
    """An input's values, and what of the binary tensors is left."""
    size = (sent.parameters or {}).get("binary_data_size")
    values: list[Any]
    if size is None:
        if sent.data is None:
            raise _invalid(f"input {sent.name} has no data: send {_EXAMPLES[sent.datatype]}")
        values = _flat(sent.data, sent)
        kind = str if sent.datatype == "BYTES" else int
        for value in values:
            if type(value) is not kind:
                raise _invalid(
                    f"input {sent.name} is {sent.datatype}, and has {_said(value)} among its data: "
                    f"send {_EXAMPLES[sent.datatype]}"
                )
    else:
        if not isinstance(size, int) or not 0 <= size <= len(tail):
            raise _invalid(f"input {sent.name} has {size} bytes, and {len(tail)} are there")
        own, tail = tail[:size], tail[size:]
        values = _strings(own, sent.name) if sent.datatype == "BYTES" else _numbers(own, sent.name)
    if sent.shape != [len(values)] and not _holds(sent.shape, len(values)):
        raise _invalid(
            f"input {sent.name} has shape {sent.shape[:MOST_DIMENSIONS]} and {len(values)} values: "
            f"send shape [{len(values)}]"
        )
    return values, tail


def _flat(data: list[Any], sent: InputTensor) -> list[Any]:
    """The values of data that are in one list, or nested as the shape has it."""
    if not any(type(part) is list for part in data):
        return data
    for size in sent.shape[1:MOST_DIMENSIONS]:
        if any(type(part) is not list or len(part) != size for part in data):
            raise _invalid(
                f"input {sent.name} has data that are not nested as its shape {sent.shape[:MOST_DIMENSIONS]} has it: "
                f"send its N values in one list, with shape [N]"
            )
        data = [value for part in data for value in part]
    return data


def _said(value: Any) -> str:
    """A value of JSON for a message, cut when it is long."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return encode(value).decode()
    return quote(value) if isinstance(value, str) else f"the number {value}"


def _holds(shape: list[int], count: int) -> bool:
    """Whether a tensor of this shape has so many values, such as [1, N] and [N, 1] of a batch of one."""
    positive = all(0 <= size <= count for size in shape)
    return positive and len(shape) <= MOST_DIMENSIONS and math.prod(shape) == count


def _strings(data: memoryview, name: str) -> list[str]:
    """Each with its length before it, in four bytes."""
    found, at = [], 0
    try:
        while at < len(data):
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
            if at + length > len(data):
                raise ValueError
            found.append(str(data[at : at + length], "utf-8"))
            at += length
    except (struct.error, ValueError):  # a length that is cut off, or leads beyond the end; no UTF-8
        raise _invalid(
            f"input {name} is no list of strings: each takes four bytes of length, then UTF-8"
        ) from None
    return found


def _numbers(data: memoryview, name: str) -> list[int]:
    if len(data) % 8:
        raise _invalid(f"input {name} has {len(data)} bytes, and INT64 take eight each")
    found: NDArray[np.int64] = np.frombuffer(data, "<i8")
    values: list[int] = found.tolist()
    return values


def _bytes(values: Any) -> bytes:
    """Values as the protocol's bytes."""
    if isinstance(values, list):
        encoded = [value.encode() for value in values]
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
    packed: bytes = np.ascontiguousarray(values, "<f4").tobytes()
    return packed


def _invalid(message: str) -> RequestError:
    return RequestError(400, "invalid_request", message)
