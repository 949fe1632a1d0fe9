"""Records of options: a field says its type, its limits, its default and what it is for, and is checked by that.

A record is a frozen dataclass that inherits from `Options`, or, where it is written to a file or sent to another
process, a frozen `msgspec.Struct` that calls `check` when it is made. A field is written once:

    batch: Annotated[Count, Meta(description="Training rows per update.")] = 5_000

The command line makes its parameters from the fields, `rbserve models show` prints them, and a value that a field does
not take is a UsageError. A default that is no single value is told by a note: `Meta(extra={"note": "all of them"})`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from rbserve.core.errors import UsageError, unknown_name

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0.0)]
Positive = Annotated[float, Meta(gt=0.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Rate = Annotated[float, Meta(ge=0.0, lt=1.0)]
Name = Annotated[str, Meta(min_length=1)]
Names = Annotated[tuple[Name, ...], Meta(examples=["likes,country"])]
Widths = Annotated[tuple[Count, ...], Meta(min_length=1, examples=["512,256"])]

REQUIRED = msgspec.NODEFAULT
"""The default of a field that has none."""

Record = TypeVar("Record")


@dataclass(frozen=True)
class Options:
    """A record of options that checks its values when it is made."""

    def __post_init__(self) -> None:
        check(self)


class OptionField(NamedTuple):
    """A field of a record: `type` is int, float, bool, str, Path, a Literal or a tuple; `optional` fields may be None.

    `limits` has the keys ge, gt, le, lt and min_length of `msgspec.Meta`, where they are set.
    """

    name: str
    hint: Any
    type: Any
    optional: bool
    default: Any
    description: str
    note: str
    example: str
    limits: Mapping[str, float]

    @property
    def takes(self) -> str:
        """The values that the field takes, in words: an integer of at least 1."""
        if get_origin(self.type) is Literal:
            return f"one of: {', '.join(map(str, get_args(self.type)))}"
        if get_origin(self.type) in (tuple, list):
            noun = "names" if Name in get_args(self.type) else "integers of at least 1"
            return f"one or more {noun}{_literals_text(self.type)}, such as {self.example}"
        words = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}
        noun = words.get(self.type, "another kind of value")
        return "a name" if "min_length" in self.limits else f"{noun}{_range(self.limits)}"

    def value_of(self, value: object) -> Any:
        """`value` as the field stores it: a list becomes a tuple, 0 becomes 0.0. UsageError if it is not taken."""
        return self._converted(value, value, strict=True)

    def parse(self, text: str) -> Any:
        """The value that `text` stands for, such as 512,256 or true. UsageError if it is not taken."""
        parts = [part.strip() for part in text.split(",")] if get_origin(self.type) is tuple else text
        return self._converted(parts, text, strict=False)

    def help(self, default: object) -> str:
        """The description with a default: Training rows per update (default 5000)."""
        parts = [text for text in (default_text(default), self.note) if text]
        return (
            f"{self.description.removesuffix('.')} (default {'; '.join(parts)})."
            if parts
            else self.description
        )

    def _converted(self, value: object, given: object, *, strict: bool) -> Any:
        try:
            converted = msgspec.convert(value, self.hint, strict=strict)
        except msgspec.ValidationError:
            raise self.refusal(given) from None
        if isinstance(converted, float) and not math.isfinite(converted):
            raise self.refusal(given)
        return converted

    def refusal(self, value: object) -> UsageError:
        """The error for a value that the field does not take."""
        return UsageError(f"invalid option: {self.name}={value!r}", f"{self.name} takes {self.takes}")


_FIELDS: dict[type[Any], dict[str, OptionField]] = {}


def option_fields(record: type[Any]) -> dict[str, OptionField]:
    """The fields of a record's class in the order in which they are written, by the names that documents have."""
    if record not in _FIELDS:
        hints = get_type_hints(record, include_extras=True)
        _FIELDS[record] = {
            key: _option_field(name, hints[name], default) for key, name, default in _defaults(record)
        }
    return _FIELDS[record]


def check(record: Any) -> None:
    """Checks every value of a record and stores it as its field does; UsageError for the first invalid one."""
    store = msgspec.structs.force_setattr if isinstance(record, msgspec.Struct) else object.__setattr__
    for field in option_fields(type(record)).values():
        store(record, field.name, field.value_of(getattr(record, field.name)))


def from_mapping(record: type[Record], values: Mapping[str, Any]) -> Record:
    """The record with `values`, and defaults for the rest; UsageError for an unknown name or a wrong value."""
    return record(**{_field(record, name).name: value for name, value in values.items()})


def with_options(record: Record, changes: Mapping[str, Any]) -> Record:
    """A copy of `record` with some values changed; text is read as the field's type ("512,256", "0.2").

    Raises UsageError for an unknown name and for a value of the wrong type or out of range.
    """
    values = {}
    for name, value in changes.items():
        field = _field(type(record), name)
        values[field.name] = field.parse(value) if isinstance(value, str) else value
    replace: Any = msgspec.structs.replace if isinstance(record, msgspec.Struct) else dataclasses.replace
    replaced: Record = replace(record, **values)
    return replaced


def default_text(value: object) -> str:
    """A default as the command line takes it: 512,256 or true; empty for None and for a field without one."""
    if value is None or value is REQUIRED or value in ((), [], {}, frozenset()):
        return ""
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _field(record: type[Any], name: str) -> OptionField:
    fields = option_fields(record)
    if name not in fields:
        raise unknown_name("option", name, fields)
    return fields[name]


def _defaults(record: type[Any]) -> Iterator[tuple[str, str, Any]]:
    """Of each field its name in documents, its name and its default."""
    missing = (dataclasses.MISSING, msgspec.NODEFAULT)
    fields: Any = msgspec.structs.fields if issubclass(record, msgspec.Struct) else dataclasses.fields
    for field in fields(record):
        key = getattr(field, "encode_name", field.name)
        if field.default_factory not in missing:
            yield key, field.name, field.default_factory()
        else:
            yield key, field.name, REQUIRED if field.default in missing else field.default


def _option_field(name: str, hint: Any, default: Any) -> OptionField:
    bare, optional, metas = _unwrapped(hint)
    limits: dict[str, float] = {}
    texts = {"description": "", "note": "", "example": ""}
    for meta in metas:
        names = ("ge", "gt", "le", "lt", "min_length")
        limits |= {key: value for key in names if (value := getattr(meta, key)) is not None}
        texts |= {key: text for key, text in _texts(meta).items() if text}
    return OptionField(name, hint, bare, optional, default, limits=limits, **texts)


def _unwrapped(hint: Any) -> tuple[Any, bool, list[Meta]]:
    """The type below Annotated and `| None`, whether None is allowed, and every Meta, the innermost first."""
    if get_origin(hint) is Annotated:
        bare, optional, metas = _unwrapped(hint.__origin__)
        return bare, optional, [*metas, *(meta for meta in hint.__metadata__ if isinstance(meta, Meta))]
    if get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint):
        (kind,) = (kind for kind in get_args(hint) if kind is not NoneType)
        bare, _, metas = _unwrapped(kind)
        return bare, True, metas
    return hint, False, []


def _texts(meta: Meta) -> dict[str, str]:
    note = (meta.extra or {}).get("note", "")
    example = meta.examples[0] if meta.examples else ""
    return {"description": meta.description or "", "note": str(note), "example": str(example)}


def _literals_text(listed: Any) -> str:
    """The words that a list takes beside integers: " or table"; empty where it takes none."""
    kinds = [kind for element in get_args(listed) for kind in get_args(element)]
    words = [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return "".join(f" or {word}" for word in words)


def _range(limits: Mapping[str, float]) -> str:
    """Limits in words: from 0 up to, but not including, 1."""
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "up to, but not including,"}
    if set(limits) == {"ge"}:
        words = {"ge": "of at least"}
    elif "gt" in limits:
        words |= {"le": "and at most", "lt": "and below"}
    return "".join(f" {word} {limits[key]:g}" for key, word in words.items() if key in limits)
