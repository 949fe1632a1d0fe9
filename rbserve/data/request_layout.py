"""How a table lays out its requests: which columns are of candidates, which of the whole request, and of what type."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import DataError, UsageError, unknown_name
from rbserve.core.requests import TEXT
from rbserve.data.request_set import ColumnRecord
from rbserve.data.table_columns import ColumnProfile, profile_columns
from rbserve.data.table_files import RequestTable

Profiles = Mapping[str, ColumnProfile]


@dataclass(frozen=True)
class RequestLayout:
    """The layout of a table.

    `candidates` is the column whose lists tell how many candidates a row's request has; None where a row is a
    candidate. `notes` are sentences on what was guessed or changed; `missing` counts the numbers that are not there.
    """

    table: RequestTable
    label: str | None
    group: str | None
    user: str | None
    candidates: str | None
    columns: dict[str, ColumnRecord]
    missing: dict[str, int]
    notes: list[str]


def find_layout(table: RequestTable, options: AdoptOptions) -> RequestLayout:
    """The layout of a table; DataError or UsageError where the options or the columns do not make requests."""
    roles = {"label": options.label, "group": options.group, "user": options.user}
    for name in roles.values():
        if name is not None and name not in table.schema.names:
            raise unknown_name("column", name, table.schema.names)
    if options.label is not None and options.label in (options.group, options.user):
        raise UsageError(
            f"column {options.label} cannot be the label and a group or user", "name another column"
        )
    profiles = profile_columns(table, options.label)
    candidates, notes = _candidates(table, options, profiles)
    _check_roles(table, profiles, options, candidates)
    shown = {name: profile for name, profile in profiles.items() if name != options.label}
    scopes = _scopes(shown, profiles[candidates]) if candidates else _row_scopes(table, shown)
    columns = {
        name: _record(table, name, shown[name], scope, number, candidates is not None)
        for number, (name, scope) in enumerate(scopes.items())
    }
    if not columns:
        raise DataError(f"{table.source} has no column beside the label", "a model needs features")
    missing = {name: profile.missing for name, profile in shown.items() if profile.missing}
    return RequestLayout(
        table, options.label, options.group, options.user, candidates, columns, missing,
        [*notes, *_notes(profiles, columns, candidates)],
    )  # fmt: skip


def _candidates(
    table: RequestTable, options: AdoptOptions, profiles: Profiles
) -> tuple[str | None, list[str]]:
    """The column whose lists have one item a candidate, and what was guessed."""
    if options.label is not None:
        return (options.label if profiles[options.label].depth else None), []
    classes: dict[bytes, list[str]] = defaultdict(list)
    for name, profile in profiles.items():
        fixed = _is_fixed(table, name) and profile.depth == 1
        if profile.depth and not fixed:
            classes[profile.lengths.digest()].append(name)
    if options.group is not None or not classes:
        return None, []
    names = max(classes.values(), key=lambda names: (len(names), profiles[names[0]].values))
    guess = f"a row is a request, whose candidates are the items of {', '.join(names)}"
    return names[0], [f"{guess}: --group COLUMN if a row is a candidate, --label COLUMN to tell by its lists"]


def _is_fixed(table: RequestTable, name: str) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_fixed_size_list(table.schema.field(name).type))


def _check_roles(
    table: RequestTable, profiles: Profiles, options: AdoptOptions, candidates: str | None
) -> None:
    label, group, user = options.label, options.group, options.user
    if label is not None:
        if profiles[label].dtype == TEXT:
            raise DataError(
                f"{table.source}: label {label} holds texts", "labels are 0 and 1, or grades of 0 and more"
            )
        if profiles[label].depth > 1:
            raise DataError(f"{table.source}: label {label} holds lists of lists", "one label a candidate")
    if group is not None and profiles[group].depth:
        raise DataError(f"{table.source}: group {group} holds lists", "the group is one value a row")
    if user is not None and profiles[user].depth > (candidates is not None):
        raise DataError(f"{table.source}: user {user} holds lists", "the user is one value a row")


def _scopes(profiles: Profiles, reference: ColumnProfile) -> dict[str, str]:
    """The scope of each column, where a row is a request."""
    expected = reference.lengths.digest()
    return {
        name: "candidate" if profile.depth and profile.lengths.digest() == expected else "request"
        for name, profile in profiles.items()
    }


def _row_scopes(table: RequestTable, profiles: Profiles) -> dict[str, str]:
    """The scope of each column, where a row is a candidate: lists of different lengths are histories of a request."""
    for name, profile in profiles.items():
        if profile.depth > 1:
            raise DataError(
                f"{table.source}: column {name} holds lists of lists",
                "a row is a candidate: give it one list",
            )
    return {
        name: "request" if profile.depth and profile.width(0) == -1 else "candidate"
        for name, profile in profiles.items()
    }


def _record(
    table: RequestTable, name: str, profile: ColumnProfile, scope: str, number: int, nested: bool
) -> ColumnRecord:
    depth = 1 if nested and scope == "candidate" else 0  # the list of the candidates is none of a value
    if profile.depth - depth > 1:
        raise DataError(
            f"{table.source}: column {name} holds lists of lists, but not one list a candidate",
            "its outer lists must be as long as the labels",
        )
    width = profile.width(depth) if profile.depth > depth else None
    if depth and width == -1:
        raise DataError(
            f"{table.source}: the lists of candidates in column {name} have different lengths",
            "pad them to one length: only a whole request's list may have any",
        )
    return ColumnRecord(profile.dtype, scope, width, number)  # type: ignore[arg-type]


def _notes(profiles: Profiles, columns: Mapping[str, ColumnRecord], candidates: str | None) -> list[str]:
    notes = []
    for name, record in columns.items():
        profile = profiles[name]
        if record.dtype != TEXT and profile.gaps:
            kind = " as float64" if record.dtype == "float64" else ""
            notes.append(f"{name}: {profile.gaps:,} missing numbers are NaN{kind}")
        if candidates and record.scope == "request" and profile.other:
            row, length, expected = profile.other
            notes.append(
                f"{name} is of the request: its list in row {row:,} has {length} items for {expected} candidates"
            )
    return notes
