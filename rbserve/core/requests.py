"""What a model is asked: named arrays (`Request`), and the record of which arrays it takes (`Signature`).

Every model that scores candidates is called with a request. A zoo row takes `history` int32[T] and `candidates`
int32[N], rows of its item table (`slate_request`). An adopted model takes the tensors of its own signature.

Dimensions are numbers or symbols. SLATE, "N", counts the candidates of a request; any other symbol, such as "T", is a
length that differs from request to request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from rbserve.core.fields import TIME, USER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Request: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Arrays by the name of the tensor that they are."""
NO_TENSORS: Request = {}

SLATE = "N"
TEXT = "str"
"""The dtype of texts: in NumPy, arrays of objects that are strings."""
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool", TEXT)

Dimension = int | str


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that goes into a model or comes out of it.

    `dtype` is one of DTYPES. `dims` are its dimensions; a tensor with SLATE among them has a row for each candidate,
    any other has the same values for the whole request. `columns` are those of the request table that an input is
    filled from: one column, as it is; several, side by side along the last dimension.
    """

    name: str
    dtype: str
    dims: list[Dimension]
    columns: list[str] = []

    @property
    def per_candidate(self) -> bool:
        """Whether the tensor has a row for each candidate."""
        return SLATE in self.dims

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.dims))}]"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tensors of a model.

    `score` names the output that has the scores; `score_column` is the column of that output where it has several (the
    probability of class 1). `fixed_slate`: the graph takes exactly so many candidates a call; None: any number.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    score: str
    score_column: int | None = None
    fixed_slate: int | None = None

    def input(self, name: str) -> TensorSpec:
        """The input of a name; KeyError for none."""
        return {spec.name: spec for spec in self.inputs}[name]

    @property
    def text_pair(self) -> tuple[str, str] | None:
        """The names of the query and of the documents, where the inputs are a text of the request and one of each
        candidate; None for other inputs."""
        if any(spec.dtype != TEXT or len(spec.dims) != spec.per_candidate for spec in self.inputs):
            return None
        match sorted(self.inputs, key=lambda spec: spec.per_candidate):
            case [query, document] if document.per_candidate > query.per_candidate:
                return query.name, document.name
        return None

    @property
    def columns(self) -> list[str]:
        """The columns of a request table that the inputs are filled from, each once."""
        return list(dict.fromkeys(column for spec in self.inputs for column in spec.columns))


class FeatureSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of a request table as a model's requests have it: a named feature.

    `dtype` is one of DTYPES. `scope`: a value for each candidate, or one for the whole request. `width` is how many
    values each has: None of a single one, -1 of a list of any length. `missing`: the table lacks some of its numbers,
    which are NaN.
    """

    dtype: str
    scope: Literal["candidate", "request"]
    width: int | None = None
    missing: bool = False


HISTORY, CANDIDATES = "history", "candidates"
ZOO_SIGNATURE = Signature(
    inputs=[TensorSpec(HISTORY, "int32", ["T"]), TensorSpec(CANDIDATES, "int32", [SLATE])],
    outputs=[TensorSpec("scores", "float32", [SLATE])],
    score="scores",
)
"""What every zoo row that scores candidates takes and gives."""


def slate_request(history: NDArray[np.int32], candidates: NDArray[np.int32]) -> Request:
    """The request of a zoo row: history int32[T], oldest first, and candidates int32[N], rows of the item table."""
    return {HISTORY: history, CANDIDATES: candidates}


def row_request(
    history: NDArray[np.int32],
    candidates: NDArray[np.int32],
    extras: Mapping[str, NDArray[Any]],
    begin: int,
    end: int,
) -> Request:
    """The request of rows begin to end of a split, which have one history.

    `extras` has a value for each row of the split: of the user's fields the request has the first row's, of the
    context's, and of counted features, one a candidate.
    """
    request = {HISTORY: history, CANDIDATES: candidates}
    for name, column in extras.items():
        request[name] = column[begin : begin + 1] if is_of_request(name) else column[begin:end]
    return request


def is_of_request(entry: str) -> bool:
    """Whether an entry of a request has one value, whatever the number of candidates: the user's fields, the time."""
    return entry == TIME or entry.startswith(USER)


def slate_of(request: Request) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The history int32[T] and the candidates int32[N] of a zoo row's request."""
    return request[HISTORY], request[CANDIDATES]
