"""The tensors of each kind of model in the Open Inference Protocol, and how they become a query and an answer.

A zoo row that scores takes history BYTES[T] and candidates BYTES[N] and gives scores FP32[N]; where it reads fields of
the user and of the context it takes them too, such as user.country BYTES[1] and context.hour FP32[1 or N]. One that
ranks takes history BYTES[T] and k INT64[1] and gives items BYTES[K] and scores FP32[K]. An adopted model takes and
gives the tensors of its own signature.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.fields import TIME, FieldSpec
from rbserve.core.requests import SLATE, TEXT, Dimension, TensorSpec
from rbserve.core.types import Scores
from rbserve.server.api.options import Limits, UnknownHistory
from rbserve.server.http.requests import RequestError, check_length, encode
from rbserve.server.routes.answering import check_candidates, check_slate_size, history_rows, item_rows
from rbserve.server.routes.fields import field_entries
from rbserve.server.routes.tensors import MAX_DIMENSIONS, InputTensor, Tensor, invalid
from rbserve.server.scoring.adopted import AdoptedScoring, EveryOutput
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Ranked, Ranking, Scoring, SlateQuery, Top

HISTORY = Tensor("history", "BYTES", [-1])
SCORES = Tensor("scores", "FP32", [-1])
Unknown = UnknownHistory | msgspec.UnsetType
Values = Mapping[str, Any]
"""The values of each input: strings, numbers, or an array of an adopted model's."""


class TensorQuery(NamedTuple):
    """A query, and the parameters that its reply has."""

    query: Any
    parameters: Mapping[str, str] = {}


class ModelTensors(Protocol):
    """The tensors of a model, and what they mean to it."""

    service: Service[Any, Any]

    @property
    def inputs(self) -> Sequence[Tensor]:
        """The tensors that go in."""
        ...

    @property
    def outputs(self) -> Sequence[Tensor]:
        """The tensors that come out."""
        ...

    @property
    def optional(self) -> Collection[str]:
        """The names of inputs that a request may leave out."""
        ...

    def check_shape(self, tensor: Tensor, sent: InputTensor) -> None:
        """Raises RequestError for a shape that the input cannot have."""
        ...

    def read(self, tensor: Tensor, sent: InputTensor, values: Any) -> Any:
        """The values of an input as `query` takes them; RequestError for values that the input cannot have."""
        ...

    def query(self, values: Values, unknown: Unknown) -> TensorQuery:
        """The query that the values of all inputs make; RequestError for values that the model does not take."""
        ...

    def outputs_of(self, answer: Any) -> Values:
        """The values of each output: a list of strings, or an array."""
        ...


class ItemTensors:
    """What zoo rows have in common: a history of items."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    optional: Collection[str] = ()

    def __init__(self, service: Service[Any, Any], limits: Limits) -> None:
        self.service, self._limits = service, limits

    def check_shape(self, tensor: Tensor, sent: InputTensor) -> None:
        """Any shape will do: ids are counted in `read`, and some clients send a batch of one."""

    def read(self, tensor: Tensor, sent: InputTensor, values: Any) -> Any:
        """The values as they are, of an input of as many."""
        if tensor.shape != [-1] and len(values) != tensor.shape[0]:
            raise invalid(f"input {sent.name} has {len(values)} values, not {tensor.shape[0]}")
        return values

    def _history(self, values: Values, unknown: Unknown) -> tuple[Any, Mapping[str, str]]:
        check_length("history", values["history"], self._limits.max_history)
        history, skipped = history_rows(self.service, values["history"], unknown, self._limits)
        return history, {} if skipped is msgspec.UNSET else {"skipped": encode(skipped).decode()}


class SlateTensors(ItemTensors):
    """The tensors of a zoo row that scores candidates; those of the fields that it reads of requests are optional."""

    outputs = (SCORES,)

    def __init__(self, service: Service[Any, Any], limits: Limits) -> None:
        super().__init__(service, limits)
        assert isinstance(service.work, Scoring)
        self._sent = {spec.entry: spec for spec in service.work.fields.sent}
        fields = [field_tensor(spec) for spec in self._sent.values()]
        if service.work.fields.reads_time:
            fields.append(Tensor(TIME, "INT64", [1]))
        self.inputs: Sequence[Tensor] = (HISTORY, Tensor("candidates", "BYTES", [-1]), *fields)
        self.optional: Collection[str] = {tensor.name for tensor in fields}

    def query(self, values: Values, unknown: Unknown) -> TensorQuery:
        """A history and candidates, both ids of items."""
        history, parameters = self._history(values, unknown)
        check_candidates(values["candidates"], self._limits)
        rows = item_rows(self.service, "candidates", values["candidates"])
        fields: dict[str, dict[str, Any]] = {}
        for entry in self._sent.keys() & values.keys():
            own = values[entry] if isinstance(values[entry], list) else values[entry].tolist()
            scope, _, name = entry.partition(".")
            fields.setdefault(scope, {})[name] = own[0] if len(own) == 1 else own
        time = int(values[TIME][0]) if TIME in values else None
        return TensorQuery(
            SlateQuery(history, rows, field_entries(self.service, fields, time, len(rows))), parameters
        )

    def outputs_of(self, answer: Scores) -> Values:
        """The scores."""
        return {"scores": answer}


def field_tensor(spec: FieldSpec) -> Tensor:
    """The tensor of a field: one value of the user, or of the context one or one for each candidate.

    Several categories are one string, with the field's separator between them.
    """
    return Tensor(spec.entry, "FP32" if spec.is_number else "BYTES", [1] if spec.scope == "user" else [-1])


class TopTensors(ItemTensors):
    """The tensors of a zoo row that ranks its catalogue."""

    inputs, outputs = (HISTORY, Tensor("k", "INT64", [1])), (Tensor("items", "BYTES", [-1]), SCORES)

    def query(self, values: Values, unknown: Unknown) -> TensorQuery:
        """A history, and how many items to recommend."""
        history, parameters = self._history(values, unknown)
        (k,) = values["k"]
        if not 1 <= k <= self._limits.max_k:
            raise RequestError(
                422, "k_too_large", f"k is {k}, and must lie between 1 and {self._limits.max_k}"
            )
        return TensorQuery(Top(history, int(k)), parameters)

    def outputs_of(self, answer: Ranked) -> Values:
        """The ids of the best items, and their scores."""
        return {"items": self.service.items.names(answer.items), "scores": answer.scores}


class SignatureTensors:
    """The tensors of an adopted model: those of its signature."""

    def __init__(self, service: Service[Any, Any], limits: Limits) -> None:
        assert isinstance(service.work, AdoptedScoring)
        self.service, self._limits, self._work = service, limits, service.work
        self.optional: Collection[str] = ()
        self._specs = {spec.name: spec for spec in self._work.signature.inputs}
        self.inputs: Sequence[Tensor] = [*map(tensor_of_spec, self._work.signature.inputs)]
        self.outputs: Sequence[Tensor] = [*map(tensor_of_spec, self._work.outputs)]

    def check_shape(self, tensor: Tensor, sent: InputTensor) -> None:
        """Raises RequestError for a shape that is not the signature's; one without dimensions may be sent as [1]."""
        shape = [] if not tensor.shape and sent.shape == [1] else sent.shape
        if len(shape) != len(tensor.shape) or any(
            size not in (-1, length) for size, length in zip(tensor.shape, shape, strict=True)
        ):
            shown = sent.shape[:MAX_DIMENSIONS]
            raise invalid(f"input {sent.name} has shape {shown}, not {tensor.shape}")

    def read(self, tensor: Tensor, sent: InputTensor, values: Any) -> NDArray[Any]:
        """An array of the input's dtype and shape."""
        spec = self._specs[tensor.name]
        try:
            with np.errstate(over="ignore"):
                array = np.asarray(values, object if spec.dtype == TEXT else spec.dtype)
        except OverflowError:
            raise invalid(f"input {sent.name} has a number that {tensor.datatype} cannot hold") from None
        if isinstance(values, list) and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise invalid(f"input {sent.name} has a number that {tensor.datatype} cannot hold")
        return array.reshape(sent.shape if tensor.shape else [])

    def query(self, values: Values, unknown: Unknown) -> TensorQuery:
        """A request for all outputs."""
        del unknown  # it has no items
        self._check_sizes(values)
        query = EveryOutput(values)
        check_slate_size(self._work.size(query), self._limits)
        return TensorQuery(query)

    def _check_sizes(self, values: Values) -> None:
        """Raises RequestError where two inputs have different sizes in the dimension of one symbol."""
        known: dict[Dimension, tuple[str, int]] = {}
        for spec in self._specs.values():
            for symbol, size in zip(spec.dims, values[spec.name].shape, strict=True):
                if isinstance(symbol, int):
                    continue
                name, other = known.setdefault(symbol, (spec.name, size))
                if other != size:
                    counted = "candidates" if symbol == SLATE else f"in dimension {symbol}"
                    raise invalid(f"input {name} has {other} {counted}, and input {spec.name} has {size}")

    def outputs_of(self, answer: Values) -> Values:
        """Every output."""
        return answer


DATATYPES = {
    TEXT: "BYTES", "bool": "BOOL", "uint8": "UINT8", "int8": "INT8", "int16": "INT16", "int32": "INT32",
    "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
"""The protocol's name of each dtype of a signature."""


def tensor_of_spec(spec: TensorSpec) -> Tensor:
    """A tensor of a signature as the protocol describes it."""
    return Tensor(
        spec.name, DATATYPES[spec.dtype], [size if isinstance(size, int) else -1 for size in spec.dims]
    )


KINDS: Mapping[type, Callable[[Service[Any, Any], Limits], ModelTensors]] = {
    Scoring: SlateTensors, Ranking: TopTensors, AdoptedScoring: SignatureTensors,
}  # fmt: skip


def tensors_of(service: Service[Any, Any], limits: Limits) -> ModelTensors:
    """The tensors of the model of a service."""
    return KINDS[type(service.work)](service, limits)
