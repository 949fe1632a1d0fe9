"""Feature columns of a user's own tables, as options name them: price:numeric, tags:multi, brand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.fields import ALL, COUNTED, OWN, TIME, WORDS, FieldKind, FieldScope, FieldSpec
from rbserve.core.names import plain_name
from rbserve.data.dataset_export import EXPORTED
from rbserve.features.counted import counted_names
from rbserve.train.datasets.field_tables import OwnFields
from rbserve.train.datasets.options import Reading

KINDS: dict[str, FieldKind] = {"category": "category", "numeric": "number", "multi": "multi", "text": "multi"}
"""The kinds of a feature by their names in options; the words of a text are several categories."""
OPTIONS: dict[FieldScope, str] = {
    "item": "--item-feature", "user": "--user-feature", "context": "--context"
}  # fmt: skip


def feature_fields(
    named: Iterable[tuple[FieldScope, Sequence[str]]], separator: str
) -> tuple[FieldSpec, ...]:
    """The fields that options name, by scope; UsageError for a name that is given twice or cannot be a field's."""
    fields = [_field(text, scope, separator) for scope, texts in named for text in texts]
    for place, spec in enumerate(fields):
        before = next((other for other in fields[:place] if other.name.lower() == spec.name.lower()), None)
        if before is not None:
            raise UsageError(
                f"two features are called {spec.name}: {OPTIONS[before.scope]} and {OPTIONS[spec.scope]}",
                "name each once; rename one of two columns that have one name",
            )
    return tuple(fields)


def _field(text: str, scope: FieldScope, separator: str) -> FieldSpec:
    option = OPTIONS[scope]
    name, colon, kind = text.rpartition(":")
    if not colon:
        name, kind = text, "category"
    if kind not in KINDS:
        error = unknown_name(f"kind of feature in {option} {text}", kind, KINDS)
        raise UsageError(
            error.message, f"{error.hint}; kinds: {', '.join(KINDS)}, such as {option} price:numeric"
        )
    plain_name(
        name, option, f"a column whose name has no slash and no dot in front, such as {option} price:numeric"
    )
    if "," in name:
        raise UsageError(
            f"{option} takes one column, not {name}",
            f"name each on its own: {option} price:numeric {option} brand",
        )
    if re.fullmatch(r"values\..*|.*\.(npy|parquet)", name) or name in RESERVED:
        raise UsageError(
            f"a feature cannot be called {name}: {RESERVED.get(name, 'a file has that name')}",
            "rename the column",
        )
    return FieldSpec(name, scope, KINDS[kind], separator=WORDS if kind == "text" else separator)


def own_fields(reading: Reading) -> OwnFields:
    """The fields that a `Reading` names; UsageError for names that cannot be fields'."""
    named: list[tuple[FieldScope, Sequence[str]]] = [
        ("item", reading.item_features), ("user", reading.user_features), ("context", reading.context)
    ]  # fmt: skip
    specs = feature_fields(named, reading.separator)
    if reading.users is not None and not reading.user_features:
        raise UsageError("--users names a table, and no column of it is named", "--user-feature country")
    for spec in specs:
        _require_no_role(spec, reading)
    return OwnFields(specs, reading.users is not None, reading.most_values, reading.allow_loss)


def _require_no_role(spec: FieldSpec, reading: Reading) -> None:
    """UsageError for a feature that is the column of the user, the item, the time, the label or the rating."""
    roles = {"user": reading.user, "item": reading.item, "time": reading.time, "label": reading.label,
             "rating": reading.rating}  # fmt: skip
    for role, column in roles.items():
        if spec.name == column:
            says = "it would tell the model the label" if role in ("label", "rating") else f"it is the {role}"
            raise UsageError(
                f"{OPTIONS[spec.scope]} {spec.name}: {says}, which --{role} names",
                "leave it out; a feature is a column that has no other role",
            )


_ROLE = "it is one of the columns user, item, label, time, text, history that every row has"
RESERVED = {
    **dict.fromkeys(counted_names(times=True, texts=True), "a feature that training counts has that name"),
    **dict.fromkeys((*EXPORTED, TIME), _ROLE),
    **dict.fromkeys((ALL, OWN, COUNTED), "--set fields= takes that word for several fields"),
}
"""Names that no feature has, and why."""
