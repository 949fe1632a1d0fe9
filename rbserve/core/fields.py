"""Fields: what is known of an item, a user or a request beside ids and texts, and how a model is given it.

A field is a number, a category, or several categories. It belongs to the items (`item`), to the user (`user`) or to
what is asked (`context`: the hour, the page); `counted` ones are counted in the training rows (`features/counted.py`).

A category is a code: MISSING, UNSEEN (a value that training did not have), or a number from FIRST on. A number that is
missing is NaN. Several categories are a row of `width` codes, filled up with MISSING.

A model that reads fields is given up to four tensors beside history and candidates, N being the candidates:

    numbers       float32[N, numbers of items, context and counts]     codes       int32[N, codes of items and context]
    user_numbers  float32[numbers of the user]                         user_codes  int32[codes of the user]

Columns stand in the order of the layout. Each field's codes begin at 0: a model that has one table for all of them adds
`code_starts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import msgspec

from rbserve.core.errors import UsageError, unknown_name

MISSING, UNSEEN, FIRST = 0, 1, 2
FieldScope = Literal["item", "user", "context", "counted"]
FieldKind = Literal["number", "category", "multi"]
NUMBERS, CODES, USER_NUMBERS, USER_CODES = "numbers", "codes", "user_numbers", "user_codes"
USER, CONTEXT, TIME = "user.", "context.", "time"
"""How the entries of a request are called that have a user's fields (`user.country`), those of what is asked
(`context.hour`), and the time of the request, in the unit of the data set."""
SEPARATOR, WORDS = "|", ""
"""What stands between several categories in a text, unless a field says otherwise; WORDS: a text's words are meant."""
ALL, OWN, COUNTED = "all", "own", "counted"
"""What `fields=` takes beside names: every field, those of the user's tables, those that are counted."""


class FieldSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field of a data set.

    `size` is how many codes a category has, MISSING and UNSEEN among them, and 0 of a number. `width` is how many
    categories it has at most. `hashed`: its codes are hashes of the values, for which no vocabulary is kept.
    `separator` stands between several categories that are written as one text; WORDS: its words are the categories.
    """

    name: str
    scope: FieldScope
    kind: FieldKind
    size: int = 0
    width: int = 1
    hashed: bool = False
    separator: str = SEPARATOR

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers, not codes."""
        return self.kind == "number"

    @property
    def has_values(self) -> bool:
        """Whether there is a vocabulary: the value of each code."""
        return not (self.is_number or self.hashed)

    @property
    def entry(self) -> str:
        """The name of a request's entry that has the field: of fields of the user and of the context."""
        return f"{self.scope}.{self.name}"


class HashedValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value of a hashed field by its code, {"hash": 17}: what is known of a row whose value was not kept."""

    hash: int

    def __repr__(self) -> str:
        return f'{{"hash": {self.hash}}}'


@dataclass(frozen=True)
class Layout:
    """The fields that a model reads, in the order of their columns."""

    fields: tuple[FieldSpec, ...]

    def __bool__(self) -> bool:
        return bool(self.fields)

    @cached_property
    def numbers(self) -> tuple[FieldSpec, ...]:
        """The columns of `numbers`."""
        return tuple(spec for spec in self.fields if spec.is_number and spec.scope != "user")

    @cached_property
    def codes(self) -> tuple[FieldSpec, ...]:
        """The fields of `codes`, each with `width` columns."""
        return tuple(spec for spec in self.fields if not spec.is_number and spec.scope != "user")

    @cached_property
    def user_numbers(self) -> tuple[FieldSpec, ...]:
        """The columns of `user_numbers`."""
        return tuple(spec for spec in self.fields if spec.is_number and spec.scope == "user")

    @cached_property
    def user_codes(self) -> tuple[FieldSpec, ...]:
        """The fields of `user_codes`, each with `width` columns."""
        return tuple(spec for spec in self.fields if not spec.is_number and spec.scope == "user")

    @property
    def counted(self) -> tuple[FieldSpec, ...]:
        """The fields that are counted in the training rows."""
        return tuple(spec for spec in self.fields if spec.scope == "counted")

    @property
    def tensors(self) -> dict[str, tuple[str, int, bool]]:
        """Of each tensor that there is: its dtype, its columns, and whether it has a row for each candidate."""
        sides = {
            NUMBERS: ("float32", len(self.numbers), True),
            CODES: ("int32", columns_of(self.codes), True),
            USER_NUMBERS: ("float32", len(self.user_numbers), False),
            USER_CODES: ("int32", columns_of(self.user_codes), False),
        }
        return {name: side for name, side in sides.items() if side[1]}


def columns_of(fields: Iterable[FieldSpec]) -> int:
    """How many columns the codes of fields take."""
    return sum(spec.width for spec in fields)


def code_starts(fields: Iterable[FieldSpec]) -> list[int]:
    """For each column of codes, the number of its field's first row in a table of all fields' codes."""
    starts, row = [], 0
    for spec in fields:
        starts += [row] * spec.width
        row += spec.size
    return starts


def chosen_fields(names: Sequence[str], own: Sequence[FieldSpec], counted: Sequence[FieldSpec]) -> Layout:
    """The layout of fields by name, in the order of the data set; ALL, OWN and COUNTED stand for several.

    Raises UsageError for a name that is neither, and where ALL or OWN or COUNTED stands for none.
    """
    groups = {ALL: [*own, *counted], OWN: [*own], COUNTED: [*counted]}
    by_name = {spec.name: spec for spec in groups[ALL]}
    wanted: set[str] = set()
    for name in names:
        if name in groups and not groups[name]:
            hint = (
                f"it has fields of its own: fields={OWN}"
                if own
                else "rbserve prepare --item-feature names columns"
            )
            raise UsageError(f"fields={name}: the data set has none", hint)
        if name not in groups and name not in by_name:
            raise unknown_name("field", name, [*groups, *by_name])
        wanted |= {spec.name for spec in groups[name]} if name in groups else {name}
    return Layout(tuple(spec for spec in groups[ALL] if spec.name in wanted))
