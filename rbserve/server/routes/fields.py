"""Fields of the user and of the context in requests for scores, and what the list of models says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET

from rbserve.core.wire import FieldInfo
from rbserve.server.api.schema import ItemId, NewItem
from rbserve.server.http.requests import RequestError
from rbserve.server.scoring.features import FeatureError
from rbserve.server.scoring.request_fields import NO_ENTRIES, Entries, takes
from rbserve.server.scoring.service import Service
from rbserve.server.scoring.work import Scoring


def field_entries(
    service: Service[Any, Any], fields: Mapping[str, Mapping[str, Any]], time: int | None, slate: int
) -> Entries:
    """The entries of a request with `slate` candidates; `fields` has values by scope and name.

    Raises RequestError (422) for a field that the model does not read, and for a value that it cannot have.
    """
    if not fields and time is None:
        return NO_ENTRIES
    work = service.work
    assert isinstance(work, Scoring)
    try:
        return work.fields.read(fields, time, slate)
    except FeatureError as error:
        raise RequestError(422, error.code, f"{service.model}: {error.message}", error.hint) from None


def item_entries(
    service: Service[Any, Any], history: Sequence[ItemId | NewItem], candidates: Sequence[ItemId | NewItem]
) -> Entries:
    """The entries of the fields that new items among the candidates bring.

    Raises RequestError (422) for fields of an item of the history, for a field of items that the model does not read,
    and for a value that it cannot have.
    """
    fields, past = (
        [item.fields if isinstance(item, NewItem) and item.fields is not UNSET else None for item in items]
        for items in (candidates, history)
    )
    if any(past):
        message = f"{service.model}: the model reads no fields of items of the history"
        raise RequestError(422, "unknown_field", message, "send them of candidates alone")
    work = service.work
    assert isinstance(work, Scoring)
    try:
        return work.fields.read_items(fields)
    except FeatureError as error:
        raise RequestError(422, error.code, f"{service.model}: {error.message}", error.hint) from None


def fields_info(service: Service[Any, Any]) -> dict[str, Any]:
    """What the list of models says of a model that reads fields beside what it says of every model."""
    work = service.work
    if not isinstance(work, Scoring) or not work.fields.layout:
        return {}
    sent = {spec.name: takes(spec) for spec in work.fields.sent}
    fields = [
        FieldInfo(spec.name, spec.scope, spec.kind, sent.get(spec.name)) for spec in work.fields.layout.fields
    ]
    return {"fields": fields, "reads_time": work.fields.reads_time}
