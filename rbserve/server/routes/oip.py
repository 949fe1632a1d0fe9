"""The Open Inference Protocol, version 2, over HTTP: what KServe, Triton and their clients speak, for the same models.

    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /v2/models/NAME, /v2/models/NAME/ready       (or /v2/models/NAME/versions/1, …/versions/1/ready)
    POST /v2/models/NAME/infer                         (or /v2/models/NAME/versions/1/infer)

and of Triton's extensions those that tell something, which its tools ask for:

    GET  /v2/models/NAME/config, /v2/models/NAME/stats, /v2/models/stats
    POST /v2/repository/index

`model_tensors.py` has what each kind of model takes and gives. Ids of items are strings. Tensors are JSON or, by
the protocol's extension, binary: the JSON has Inference-Header-Content-Length bytes, the tensors follow.

The request parameter unknown_history, "refuse" or "skip", says what becomes of ids in the history that the model does
not know. With "skip" the answer's parameter skipped has them: a JSON list in a string, as parameters hold no lists.

An error is {"error": "what, and what to do"}, as the protocol has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rbserve.core.version import __version__
from rbserve.core.wire import OIP_JSON_BYTES, OIP_PREFIX
from rbserve.server.api.options import Limits, UnknownHistory
from rbserve.server.api.schema import UNKNOWN_HISTORY
from rbserve.server.http.requests import (
    encode,
    json_response,
    parse,
    quote,
    read_body,
)
from rbserve.server.routes.answering import ModelQuery, answer_queries
from rbserve.server.routes.model_tensors import HISTORY, ModelTensors, tensors_of
from rbserve.server.routes.tensors import (
    InputTensor,
    Tensor,
    invalid,
    json_data,
    packed,
    shape_of,
    split_body,
    tensor_values,
)
from rbserve.server.scoring.models import Models

VERSION = "1"


class WantedOutput(msgspec.Struct, frozen=True):
    """An output that a request names."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct, frozen=True):
    """One user's request, in tensors. A field of null counts as absent: some clients send null."""

    inputs: list[InputTensor]
    id: str | None = None
    outputs: list[WantedOutput] | None = None
    parameters: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(InferRequest)


def model_paths(name: str) -> tuple[str, str]:
    """The two paths below which a model's routes are: without and with its version."""
    own = f"{OIP_PREFIX}/models/{name}"
    return own, f"{own}/versions/{VERSION}"


def model_name(path: str) -> str | None:
    """The name of the model that a path is about, served or not; None where the path names none."""
    begin, _, rest = path.partition(f"{OIP_PREFIX}/models/")
    return None if begin else rest.partition("/")[0] or None


class _Interface:
    """The tensors of a version of a model, and what every request needs of them.

    `inputs` are by name, `outputs` are the datatypes by name; `example` is a body, for an error.
    """

    def __init__(self, tensors: ModelTensors) -> None:
        self.tensors = tensors
        self.inputs = {tensor.name: tensor for tensor in tensors.inputs}
        self.outputs = {tensor.name: tensor.datatype for tensor in tensors.outputs}
        first = tensors.inputs[0]
        shape = [1 if size < 0 else size for size in first.shape]
        kind = "ids are strings" if first == HISTORY else f"it is {first.datatype}"
        self.example = f'{{"inputs": [{{"name": "{first.name}", "shape": {shape}, …}}]}}; {kind}'


class ModelRoutes:
    """The routes of one model."""

    def __init__(self, models: Models, name: str, limits: Limits) -> None:
        self._models, self.name, self._limits = models, name, limits
        self._known = _Interface(tensors_of(models[name], limits))

    @property
    def _interface(self) -> _Interface:
        """The tensors of the model's version that is served now."""
        service = self._models[self.name]
        if self._known.tensors.service is not service:
            self._known = _Interface(tensors_of(service, self._limits))
        return self._known

    async def metadata(self, request: Request) -> Response:
        """What goes in and what comes out."""
        del request
        service = self._models[self.name]
        return json_response({
            "name": service.model, "versions": [VERSION], "platform": f"rbserve_{service.variant}",
            "inputs": [tensor._asdict() for tensor in self._interface.tensors.inputs],
            "outputs": [tensor._asdict() for tensor in self._interface.tensors.outputs],
        })  # fmt: skip

    async def ready(self, request: Request) -> Response:
        """Whether to send requests here."""
        del request
        ready = self._models.status == "ready"
        return json_response({"name": self.name, "ready": ready}, 200 if ready else 503)

    async def config(self, request: Request) -> Response:
        """Metadata in the shape of Triton's model configuration: the client batches nothing (max_batch_size 0)."""
        del request
        tensors = self._interface.tensors
        return json_response({
            "name": self.name, "platform": "rbserve", "backend": "", "max_batch_size": 0,
            "input": [
                _configured(tensor) | ({"optional": True} if tensor.name in tensors.optional else {})
                for tensor in tensors.inputs
            ],
            "output": [_configured(tensor) for tensor in tensors.outputs],
        })  # fmt: skip

    async def stats(self, request: Request) -> Response:
        """How many requests were answered, and how long they waited and took."""
        del request
        return json_response({"model_stats": [self.statistics()]})

    def statistics(self) -> dict[str, Any]:
        """Triton's statistics of the model since the start; encoding answers counts as `compute_output`.

        Triton counts an inference at every station, also where it took no time, and perf_analyzer holds it to that.
        """
        samples, own = self._models.telemetry.samples(), {("model", self.name)}

        def sample(name: str, *more: tuple[str, str]) -> float:
            return samples.get((f"rbserve_{name}", frozenset({*own, *more})), 0.0)

        calls = int(sample("scoring_duration_seconds_count"))
        answered = calls - int(sample("batch_requests_count")) + int(sample("batch_requests_sum"))

        def spent(seconds: float) -> dict[str, int]:
            return {"count": answered, "ns": round(seconds * 1e9)}

        queue, computed = sample("queue_duration_seconds_sum"), sample("scoring_duration_seconds_sum")
        nothing = {"count": 0, "ns": 0}
        return {
            "name": self.name, "version": VERSION, "last_inference": 0,
            "inference_count": answered, "execution_count": calls,
            "inference_stats": {
                "success": spent(queue + computed), "fail": nothing, "queue": spent(queue),
                "compute_input": spent(0), "compute_infer": spent(computed),
                "compute_output": spent(sample("stage_duration_seconds_sum", ("stage", "encode"))),
                "cache_hit": nothing, "cache_miss": nothing,
            },
            "batch_stats": [],
        }  # fmt: skip

    async def infer(self, request: Request) -> Response:
        """One request: candidates scored, or the catalogue ranked."""
        body = bytes(await read_body(request, self._limits.max_body_bytes))
        head, tail = split_body(request, body)
        interface = self._interface
        tensors = interface.tensors
        body_request = parse(bytearray(head), _decoder, interface.example)
        wanted = self._wanted_outputs(interface.outputs, body_request)
        values = self._input_values(interface, body_request, tail)
        query, parameters = tensors.query(values, _unknown_history(body_request))
        (answer,) = await answer_queries(request, self._limits, [ModelQuery(tensors.service, query)])
        outputs = tensors.outputs_of(answer)
        chosen = [(output, interface.outputs[output.name], outputs[output.name]) for output in wanted]
        return self._reply(body_request, chosen, parameters)

    def _wanted_outputs(self, known: Mapping[str, str], asked: InferRequest) -> list[WantedOutput]:
        """The outputs that the request names; all where it names none."""
        for output in asked.outputs or ():
            if output.name not in known:
                raise invalid(
                    f"there is no output {quote(output.name)}: {self.name} gives {', '.join(known)}"
                )
        return asked.outputs or [WantedOutput(name) for name in known]

    def _input_values(self, interface: _Interface, asked: InferRequest, tail: memoryview) -> dict[str, Any]:
        """The values of each input by its name, as the model's tensors read them."""
        values: dict[str, Any] = {}
        tensors, known = interface.tensors, interface.inputs
        for tensor in asked.inputs:
            if tensor.name not in known:
                raise invalid(f"there is no input {quote(tensor.name)}: {self.name} takes {', '.join(known)}")
            if tensor.name in values:
                raise invalid(f"input {tensor.name} is there twice")
            expected = known[tensor.name]
            if tensor.datatype != expected.datatype:
                raise invalid(f"input {tensor.name} is {quote(tensor.datatype)}, not {expected.datatype}")
            tensors.check_shape(expected, tensor)
            own, tail = tensor_values(tensor, tail, flat=len(expected.shape) == 1)
            values[tensor.name] = tensors.read(expected, tensor, own)
        if missing := known.keys() - values.keys() - {*tensors.optional}:
            raise invalid(f"input {min(missing)} is missing")
        if len(tail):
            raise invalid(f"{len(tail)} bytes follow the last binary input")
        return values

    def _reply(
        self,
        asked: InferRequest,
        chosen: Sequence[tuple[WantedOutput, str, Any]],
        parameters: Mapping[str, str],
    ) -> Response:
        """The reply with the chosen outputs, their datatypes and values."""
        binary_by_default = bool((asked.parameters or {}).get("binary_data_output", False))
        outputs, blobs = [], []
        for wanted, datatype, values in chosen:
            output: dict[str, Any] = {
                "name": wanted.name,
                "datatype": datatype,
                "shape": shape_of(values),
            }
            if (wanted.parameters or {}).get("binary_data", binary_by_default):
                blobs.append(packed(values, datatype))
                output["parameters"] = {"binary_data_size": len(blobs[-1])}
            else:
                output["data"] = json_data(values)
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
            headers={OIP_JSON_BYTES: str(len(head))},
            media_type="application/octet-stream",
        )


async def server(request: Request) -> Response:
    """The server's name, version and extensions."""
    del request
    extensions = ["binary_tensor_data", "model_configuration", "statistics"]
    return json_response({"name": "rbserve", "version": __version__, "extensions": extensions})


class RepositoryRoutes:
    """The routes about all models."""

    def __init__(self, models: Models, routes: Sequence[ModelRoutes]) -> None:
        self._models, self._routes = models, routes

    async def index(self, request: Request) -> Response:
        """Names the models."""
        del request
        state = "READY" if self._models.status == "ready" else "UNAVAILABLE"
        return json_response([
            {"name": service.model, "version": VERSION, "state": state, "reason": ""} for service in self._models
        ])  # fmt: skip

    async def stats(self, request: Request) -> Response:
        """The statistics of every model."""
        del request
        return json_response({"model_stats": [routes.statistics() for routes in self._routes]})


def _unknown_history(asked: InferRequest) -> UnknownHistory | msgspec.UnsetType:
    """The request's parameter unknown_history; UNSET where it has none."""
    wanted: UnknownHistory | msgspec.UnsetType = (asked.parameters or {}).get(
        "unknown_history", msgspec.UNSET
    )
    if wanted is not msgspec.UNSET and wanted not in get_args(UnknownHistory):
        raise invalid(f"parameter unknown_history is {quote(str(wanted))}: it takes {UNKNOWN_HISTORY}")
    return wanted


def _configured(tensor: Tensor) -> dict[str, Any]:
    kind = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    return {"name": tensor.name, "data_type": kind, "dims": tensor.shape}
