"""Fields of a request, in JSON, become the entries that a model's tensors are made of (`core/fields.py`).

    {"history": […], "candidates": ["172", {"text": "…", "fields": {"price": 3}}],
     "user": {"country": "DE"}, "context": {"hour": 7}, "time": 1700000000}

A field of the user has one value. A field of the context has one value, or a list with one for each candidate. Items of
the table have their fields there; a candidate that is given by its text brings its own. What is left out, or null, is
missing; a category that training did not have is UNSEEN. Values are coded as those of the data
set were (`features/coding.py`): served scores equal profiled ones to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.fields import TIME, FieldSpec, Layout
from rbserve.data.artifact import Artifact
from rbserve.features.coding import FieldCoder
from rbserve.features.counted import reads_time
from rbserve.features.opening import open_coders
from rbserve.server.scoring.features import FeatureError

Entries = Mapping[str, NDArray[Any]]
"""What a request has beside history and candidates, by the name of the entry."""
NO_ENTRIES: Entries = {}
SCOPES = ("user", "context")
"""What a request may have fields of; each is a name of its body."""


class RequestFields:
    """Reads the fields of requests for a model of a layout; `coders` codes the values of each field by its name."""

    def __init__(self, layout: Layout, coders: Mapping[str, FieldCoder]) -> None:
        self.layout = layout
        self.reads_time = reads_time(layout)
        self._coders, self._item_coders = (
            {spec.entry: coders[spec.name] for spec in layout.fields if spec.scope in scopes}
            for scopes in (SCOPES, ("item",))
        )

    @property
    def sent(self) -> Sequence[FieldSpec]:
        """The fields that a request may have: those of the user and of the context."""
        return [coder.spec for coder in self._coders.values()]

    def read(self, fields: Mapping[str, Mapping[str, Any]], time: int | None, slate: int) -> Entries:
        """The entries of a request with `slate` candidates; `fields` has values of JSON by scope and name.

        Raises FeatureError for a field that the model does not read, a value that the field cannot have, and a list of
        another length than the slate.
        """
        entries = {}
        for scope in SCOPES:
            for name, value in fields.get(scope, {}).items():
                entry = f"{scope}.{name}"
                coder = self._coders.get(entry)
                if coder is None:
                    raise self._unknown(entry)
                entries[entry] = _coded(coder, value, slate)
        if time is not None:
            entries[TIME] = self._time(time)
        return entries

    def read_items(self, fields: Sequence[Mapping[str, Any] | None]) -> Entries:
        """The entries of fields of items; `fields` has those of each candidate, None of one that has a row.

        Raises FeatureError for a field of items that the model does not read, and for a value that it cannot have.
        """
        for own in fields:
            for name in own or {}:
                if f"item.{name}" not in self._item_coders:
                    known = ", ".join(coder.spec.name for coder in self._item_coders.values())
                    hint = f"it reads {known}" if known else "leave it out: it reads no fields of items"
                    raise FeatureError(
                        "unknown_field", f"the model reads no field {name[:80]} of items", hint
                    )
        entries = {}
        for entry, coder in self._item_coders.items():
            values = [(own or {}).get(coder.spec.name) for own in fields]
            if any(value is not None for value in values):
                entries[entry] = _values(coder, values)
        return entries

    def _time(self, time: int) -> NDArray[np.int64]:
        if not self.reads_time:
            message = f"{TIME}: the model's features do not depend on the time of the request"
            raise FeatureError("unknown_field", message, "leave it out")
        if not -(1 << 63) < time < 1 << 63:
            raise FeatureError("invalid_field", f"{TIME} is a number of more than 64 bits")
        return np.array([time], np.int64)

    def _unknown(self, entry: str) -> FeatureError:
        known = ", ".join(self._coders)
        hint = f"it reads {known}" if known else "leave it out: it reads no fields of the user or the context"
        return FeatureError("unknown_field", f"the model reads no field {entry[:80]}", hint)


def open_request_fields(artifact: Artifact) -> RequestFields:
    """The fields that requests for an artefact's model may have, its files verified."""
    return RequestFields(artifact.layout, open_coders(artifact))


def takes(spec: FieldSpec) -> str:
    """What to send for a field, for a message and for the API's document."""
    value = {"number": "a number", "category": "a text or a number", "multi": "a list of categories"}[
        spec.kind
    ]
    if spec.hashed:
        value += ', or {"hash": its code} in the place of each text'
    return f"{value}, or a list with one for each candidate" if spec.scope == "context" else value


def _coded(coder: FieldCoder, value: Any, slate: int) -> NDArray[Any]:
    """The value of a field, [1, width], or those of each candidate, [slate, width]."""
    spec = coder.spec
    values = value if _is_of_each(spec, value) else [value]
    if values is value and len(values) != slate:
        message = f"{spec.entry} has {len(values)} values, and the request has {slate} candidates"
        raise FeatureError("invalid_field", message, f"{spec.entry}: {takes(spec)}")
    return _values(coder, values)


def _values(coder: FieldCoder, values: Sequence[Any]) -> NDArray[Any]:
    """The codes or numbers of R values of a field, [R, width]. Raises FeatureError for one that it cannot have."""
    spec = coder.spec
    try:
        return np.array([coder.value(value) for value in values]).reshape(len(values), spec.width)
    except ValueError as error:
        raise FeatureError(
            "invalid_field", f"{spec.entry}: {error}", f"{spec.entry}: {takes(spec)}"
        ) from None


def _is_of_each(spec: FieldSpec, value: Any) -> bool:
    """Whether a value is a list with one value for each candidate; several categories of one are a list as well."""
    if spec.scope != "context" or not isinstance(value, list):
        return False
    return spec.kind != "multi" or any(isinstance(own, list) for own in value)
