"""Named features of a request, in JSON, become the tensors of an adopted model.

    {"likes": [3, 4], "shows": [10, 20], "age": 7, "history": [12, 15, 9]}

A feature is a column of the request table that the model was adopted with. A list has a value for each candidate; a
single value belongs to the whole request. The tensors are assembled by `data.request_set.tensor_of`, as those were that
the model was judged on: served scores equal profiled ones to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import RbserveError, unknown_name
from rbserve.core.requests import TEXT, FeatureSpec, Request, Signature, TensorSpec
from rbserve.data.request_set import tensor_of

Features = Mapping[str, Any]
"""Values of JSON by the name of their feature."""

_KINDS = {"f": (float, "float64", "numbers"), "i": (int, "int64", "whole numbers"),
          "u": (int, "int64", "whole numbers"), "b": (bool, "bool", "true or false")}  # fmt: skip
_TEXTS = (str, "object", "texts")
_EXAMPLES: Mapping[type, object] = {float: 0.0, int: 0, bool: False, str: "text"}


class FeatureError(RbserveError):
    """Features that do not make a request of the model; `code` names the fault for programs."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.code = code


class FeatureValues(NamedTuple):
    """The values of a feature: [N] or [N, w] where there is one for `each` candidate, else [] or [w]."""

    array: NDArray[Any]
    each: bool

    def of(self, spec: TensorSpec, slate: int) -> NDArray[Any]:
        """The values as an input of `slate` candidates takes them: one for each, or that of the first candidate."""
        if not spec.per_candidate:
            return self.array[0] if self.each else self.array
        return self.array if self.each else np.broadcast_to(self.array, (slate, *self.array.shape))


class Feature:
    """Reads one feature, which fills some inputs of a model."""

    def __init__(self, name: str, spec: FeatureSpec, inputs: Sequence[TensorSpec]) -> None:
        self.name, self.spec = name, spec
        text = spec.dtype == TEXT
        self._type, self._wide, self._said = _TEXTS if text else _KINDS[np.dtype(spec.dtype).kind]
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self.json_type)
        self._limits = None if text else _limits(spec.dtype, [filled.dtype for filled in inputs])

    @property
    def json_type(self) -> Any:
        """The type of its values in JSON."""
        value: Any = self._type | None if self.spec.missing and self._type is float else self._type
        if self.spec.width is None:
            return value | list[value] if self.per_candidate else value
        return list[value | list[value]] if self.per_candidate else list[value]

    @property
    def per_candidate(self) -> bool:
        """Whether each candidate may have a value of its own."""
        return self.spec.scope == "candidate"

    @property
    def description(self) -> str:
        """What to send, for a message and for the API's document."""
        width = self.spec.width
        if width is None:
            kind = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}[
                self._type
            ]
        else:
            kind = f"a list of {'' if width < 0 else f'{width} '}{self._said}"
        if not self.per_candidate:
            return f"{kind}, of the whole request"
        return f"{kind} for each candidate, in a list, or one for all"

    def example(self, size: int, length: int) -> Any:
        """Values of a request of `size` candidates whose lists of any length have `length` items."""
        value: Any = _EXAMPLES[self._type]
        if self.spec.width is not None:
            value = [value] * (length if self.spec.width < 0 else self.spec.width)
        return [value] * size if self.per_candidate else value

    def read(self, sent: msgspec.Raw) -> FeatureValues:
        """The values that were sent. Raises FeatureError for values of another type, length or size."""
        try:
            values = self._decoder.decode(sent)
        except msgspec.ValidationError as error:
            place = str(error).replace("`$", f"`$.features.{self.name}")
            if "`$" not in place:
                place += f" - at `$.features.{self.name}`"
            raise self._error("invalid_feature", place) from None
        each = self.per_candidate and isinstance(values, list) and self._is_of_each(values)
        self._check_lengths(values if each else [values])
        return FeatureValues(self._array(values), each)

    def _is_of_each(self, values: list[Any]) -> bool:
        """Whether a list has values of candidates; else it is one value that is a list."""
        if self.spec.width is None:
            return True
        lists = [isinstance(value, list) for value in values]
        if any(lists) and not all(lists):
            raise self._error("ragged_feature", f"feature {self.name} has lists beside single values")
        return any(lists)

    def _check_lengths(self, values: list[Any]) -> None:
        if self.spec.width is None or self.spec.width < 0:
            return
        for place, value in enumerate(values):
            if len(value) != self.spec.width:
                where = f" at index {place}" if len(values) > 1 else ""
                raise self._error(
                    "ragged_feature",
                    f"feature {self.name} has {len(value)} values{where}, and the model takes {self.spec.width}",
                )

    def _array(self, values: Any) -> NDArray[Any]:
        try:
            wide = np.array(values, self._wide)
        except OverflowError:
            raise self._out_of_range("a number of more than 64 bits") from None
        if self._limits is not None:
            self._check_range(wide, *self._limits)
        return wide if self.spec.dtype == TEXT else wide.astype(self.spec.dtype, copy=False)

    def _check_range(self, wide: NDArray[Any], low: float, high: float, whole: bool) -> None:
        outside = (wide < low) | (wide > high)
        if whole:
            outside |= wide != np.trunc(wide)  # NaN is none as well
        if outside.any():
            raise self._out_of_range(f"{wide[outside].flat[0]:g}")

    def _out_of_range(self, value: str) -> FeatureError:
        low, high, whole = self._limits or (-np.inf, np.inf, False)
        kind = "whole numbers" if whole or self._type is int else "numbers"
        return self._error(
            "invalid_feature", f"feature {self.name} has {value}: it takes {kind} from {low:g} to {high:g}"
        )

    def _error(self, code: str, message: str) -> FeatureError:
        return FeatureError(code, message, f"{self.name}: {self.description}")


def _limits(dtype: str, inputs: Sequence[str]) -> tuple[float, float, bool] | None:
    """The least and the greatest value that a column and the inputs it fills can hold, and whether only whole ones.

    None where every value of JSON fits.
    """
    if dtype == "bool":
        return None
    kinds = [np.dtype(name) for name in (dtype, *inputs)]
    ranges = [
        (0, 1) if kind.kind == "b" else
        (np.finfo(kind).min, np.finfo(kind).max) if kind.kind == "f" else
        (np.iinfo(kind).min, np.iinfo(kind).max)
        for kind in kinds
    ]  # fmt: skip
    low, high = max(float(least) for least, _ in ranges), min(float(most) for _, most in ranges)
    whole = kinds[0].kind == "f" and any(kind.kind != "f" for kind in kinds)
    wide = np.finfo(np.float64) if kinds[0].kind == "f" else np.iinfo(np.int64)
    return None if not whole and low <= float(wide.min) and high >= float(wide.max) else (low, high, whole)


class FeatureReader:
    """Reads the requests of a model by its named features."""

    def __init__(self, signature: Signature, features: Mapping[str, FeatureSpec]) -> None:
        self._inputs = signature.inputs
        self.features = {
            name: Feature(name, spec, [tensor for tensor in signature.inputs if name in tensor.columns])
            for name, spec in features.items()
        }

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of a request's features."""
        properties = {
            name: {**msgspec.json.schema(feature.json_type), "description": feature.description}
            for name, feature in self.features.items()
        }
        return {
            "type": "object", "properties": properties, "required": [*properties], "additionalProperties": False,
        }  # fmt: skip

    def example(self, size: int, length: int = 2) -> dict[str, Any]:
        """Features of a request of `size` candidates, in JSON: zeros, or the word text."""
        return {name: feature.example(size, length) for name, feature in self.features.items()}

    def read(self, sent: Mapping[str, msgspec.Raw]) -> tuple[Request, int]:
        """The tensors of a request, and how many candidates it has.

        Raises FeatureError for an unknown or missing feature, for values of another type than the table's, and for
        lists of different lengths.
        """
        self._check_names(sent)
        values = {name: feature.read(sent[name]) for name, feature in self.features.items()}
        slate = _slate({name: len(value.array) for name, value in values.items() if value.each})
        return self._request(values, slate), slate

    def _request(self, values: Mapping[str, FeatureValues], slate: int) -> Request:
        request = {}
        for spec in self._inputs:
            try:
                filling = [values[name].of(spec, slate) for name in spec.columns]
                request[spec.name] = tensor_of(spec, filling, slate)
            except ValueError as error:
                columns = ", ".join(spec.columns)
                raise FeatureError(
                    "invalid_feature", f"{columns} do not fill the model's input {spec}: {error}"
                ) from None
        return request

    def _check_names(self, sent: Mapping[str, object]) -> None:
        for name in sent:
            if name not in self.features:
                unknown = unknown_name("feature", name, self.features)
                raise FeatureError("unknown_feature", unknown.message, unknown.hint)
        for name, feature in self.features.items():
            if name not in sent:
                raise FeatureError(
                    "missing_feature", f"feature {name} is missing", f"{name}: {feature.description}"
                )


def _slate(lengths: Mapping[str, int]) -> int:
    """How many candidates lists of these lengths have: 1 where no feature has a list of candidates."""
    if len({*lengths.values()}) > 1:
        (first, length), *others = lengths.items()
        other, differing = next((name, size) for name, size in others if size != length)
        raise FeatureError(
            "ragged_features",
            f"feature {first} has {length} values and {other} has {differing}: each candidate needs one of each",
            "send lists of one length, or a single value for all candidates",
        )
    return next(iter(lengths.values()), 1)
