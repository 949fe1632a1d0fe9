"""The types of requests and responses.

The Structs validate requests, and openapi.py makes the API document of them, so that it cannot drift from what the
server accepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rbserve.core.fields import HashedValue
from rbserve.core.ids import value_text
from rbserve.core.tasks import CTR, SEQREC, Task
from rbserve.core.wire import FeatureInfo, FieldInfo, RecommendResponse, RequestsInfo, ScoreResponse
from rbserve.runs.plan import Slate
from rbserve.server.api.options import UnknownHistory

NUMBERS = 'An id is a string; the number 50 is the id "50".'

UNKNOWN_HISTORY = " or ".join(get_args(UnknownHistory))


ItemId = str | int | float
"""An item's id in a request. A number is the id that its digits spell: 50 and 50.0 are "50"."""
History = Annotated[
    list[ItemId],
    Meta(description="Ids of the items the user consumed, oldest first. Empty for a new user. " + NUMBERS),
]
Which = Annotated[
    str | UnsetType,
    Meta(description="Which of the server's models; may be left out where one alone does this."),
]
Unknown = Annotated[
    UnknownHistory | UnsetType,
    Meta(
        description="Ids of the history that the model does not know: refuse the request (422), or skip them. "
        "Left out, the server's --unknown-history decides."
    ),
]


FieldValue = str | int | float | bool | HashedValue | None
"""A value of a field; null is missing."""
UserFields = Annotated[
    dict[str, FieldValue | list[FieldValue]] | UnsetType,
    Meta(
        description="Fields of the user by name, for models that read them: GET /v1/models lists them. A list is of a "
        "field with several categories."
    ),
]
ContextFields = Annotated[
    dict[str, FieldValue | list[FieldValue | list[FieldValue]]] | UnsetType,
    Meta(description="Fields of the context by name: one value, or a list with one for each candidate."),
]
Time = Annotated[
    int | UnsetType,
    Meta(
        description="The time of the request in the unit of the data set, for models whose counts have times. Left "
        "out, it is the last time that was counted."
    ),
]


class NewItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item that the model's data set does not have, by its text; for models that read texts."""

    text: Annotated[str, Meta(description="Not blank.")]
    id: Annotated[ItemId | None, Meta(description="What the answer is to call it. " + NUMBERS)] = None
    fields: Annotated[
        dict[str, FieldValue | list[FieldValue]] | UnsetType,
        Meta(
            description="Of a candidate, its fields of items by name, for models that read them. What is left out is "
            "missing."
        ),
    ] = UNSET

    @property
    def name(self) -> str | None:
        """The item's name in the answer."""
        return None if self.id is None else value_text(self.id)


class ScoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One user and the slate to score for that user."""

    history: Annotated[
        list[ItemId | NewItem],
        Meta(
            description="Ids of the items the user consumed, or texts of new ones, oldest first. Empty for a new user."
        ),
    ]
    candidates: Annotated[
        list[ItemId | NewItem],
        Meta(
            description="Ids of the items to score, or texts of new ones. A repeated id is scored each time. "
            + NUMBERS,
            extra_json_schema={"minItems": 1},
        ),
    ]
    model: Which = UNSET
    unknown_history: Unknown = UNSET
    user: UserFields = UNSET
    context: ContextFields = UNSET
    time: Time = UNSET

    @property
    def fields(self) -> Mapping[str, Mapping[str, Any]]:
        """The fields that were sent, by scope and name."""
        sent = {"user": self.user, "context": self.context}
        return {scope: fields for scope, fields in sent.items() if fields is not UNSET}


class FeatureScoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request of a model that was adopted: its candidates as named features."""

    features: Annotated[
        dict[str, msgspec.Raw],
        Meta(
            description="By the columns of the request table that the model was adopted with. A list has a value for "
            "each candidate, a single value belongs to the whole request. GET /v1/models lists them."
        ),
    ]
    model: Which = UNSET


class RecommendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One user, and how many items to recommend."""

    history: History
    k: Annotated[int, Meta(ge=1, description="How many items to recommend.")] = 10
    exclude_seen: Annotated[bool, Meta(description="Leave out the items of the history.")] = False
    model: Which = UNSET
    unknown_history: Unknown = UNSET


class RerankDocument(msgspec.Struct, frozen=True):
    """A document as an object; fields beside its text are not read."""

    text: Annotated[str, Meta(description="Not blank.")]


class RerankRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query and the documents to order by their relevance to it."""

    query: Annotated[
        str | list[str],
        Meta(
            description="A text; for models of users a list of texts as well: what the user consumed, oldest first."
        ),
    ]
    documents: Annotated[
        list[str | RerankDocument],
        Meta(description="Texts, or objects with a text.", extra_json_schema={"minItems": 1}),
    ]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: Annotated[bool, Meta(description="Send the texts of the results back.")] = False
    model: Which = UNSET


TYPES: dict[Task, tuple[type[msgspec.Struct], ...]] = {
    CTR: (ScoreRequest, ScoreResponse),
    SEQREC: (RecommendRequest, RecommendResponse),
}
"""What zoo rows of a task are asked with, and answer."""


class Health(msgspec.Struct, frozen=True):
    """The state of the process (live) or of the model in it (ready, warming, draining)."""

    status: str


class Measured(msgspec.Struct, frozen=True):
    """Figures of `rbserve profile` for the very file that is served: one scope and slate (or k) of its newest run."""

    scope: str
    slate: Slate
    threads: int
    p50_ms: float
    p99_ms: Annotated[float | None, Meta(description="null: too few runs to certify it.")]
    metric: str
    accuracy: Annotated[float | None, Meta(description="null where it was not judged.")]
    run: str
    inconclusive: Annotated[
        list[str], Meta(description="Why the latency may have been disturbed; empty where it was not.")
    ] = []


class Profiled(msgspec.Struct, frozen=True):
    """The figures that profiles have of a variant; `note` says why there are none."""

    measured: list[Measured] = []
    note: str | None = None


NOT_PROFILED = Profiled(note="not profiled")


class TensorInfo(msgspec.Struct, frozen=True):
    """A tensor of an adopted model: its datatype and shape in the Open Inference Protocol, where -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class FeatureSchema(NamedTuple):
    """The named features of an adopted model: their JSON Schema, and those of a request of two candidates."""

    schema: dict[str, Any]
    example: dict[str, Any]


class ModelInfo(msgspec.Struct, frozen=True):
    """A served model and the data set its item ids come from; of an adopted model its features and tensors."""

    name: str
    variant: str
    version: Annotated[str, Meta(description="A digest of the artefact.")]
    task: Annotated[
        str, Meta(description=" ".join(f"{task.name}: POST {task.path}." for task in (CTR, SEQREC)))
    ]
    dataset: str
    fingerprint: str
    items: Annotated[int, Meta(description="How many items can be scored.")]
    measured: Annotated[list[Measured], Meta(description="By a profile on this machine; empty without one.")]
    measured_note: Annotated[
        str | None, Meta(description="Why nothing is measured; null where something is.")
    ]
    examples: Annotated[list[str], Meta(description="Ids of some of its items that may be candidates.")]
    features: Annotated[
        list[FeatureInfo] | UnsetType, Meta(description="Of an adopted model: what it is asked by.")
    ] = UNSET
    inputs: Annotated[
        list[TensorInfo] | UnsetType, Meta(description="Of an adopted model: its tensors below /v2.")
    ] = UNSET
    requests: Annotated[
        RequestsInfo | UnsetType,
        Meta(description="Of an adopted model: the request set it was adopted with."),
    ] = UNSET
    example: Annotated[
        dict[str, Any] | UnsetType, Meta(description="Of an adopted model: features of two candidates.")
    ] = UNSET
    fields: Annotated[
        list[FieldInfo] | UnsetType, Meta(description="The fields that it reads, where it reads any.")
    ] = UNSET
    reads_time: Annotated[bool, Meta(description="Whether its features depend on the time of a request.")] = (
        False
    )
    reranks: Annotated[bool, Meta(description="Whether it reads texts: POST /v1/rerank.")] = False


class ModelsResponse(msgspec.Struct, frozen=True):
    """Every model this server answers for."""

    models: list[ModelInfo]
