"""Which columns of a request table fill which input of a model: said with `--map`, or guessed by names and counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod

import msgspec

from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.requests import SLATE, TEXT, TensorSpec
from rbserve.data.request_set import ColumnRecord

Columns = Mapping[str, ColumnRecord]


def fill_inputs(
    inputs: Sequence[TensorSpec],
    columns: Columns,
    mapping: Mapping[str, Sequence[str]],
    features: Sequence[str],
    guessed: list[str],
) -> list[TensorSpec]:
    """The inputs, each with the columns that fill it.

    In this order: the columns that are said; a column with the input's name; for the only input that is left the
    `features` that the model itself lists, else all columns that are left, in the table's order. Lines of `guessed` say
    which of these it was. Raises UsageError for an input that nothing fills, and for columns that cannot fill theirs.
    """
    _check_mapping(inputs, columns, mapping)
    chosen = {name: list(names) for name, names in mapping.items()}
    for spec in inputs:
        if spec.name not in chosen and (name := _namesake(spec.name, columns)) is not None:
            chosen[spec.name] = [name]
            if name != spec.name:
                guessed.append(f"The column {name} fills the input {spec.name}: their names are alike.")
    match [spec for spec in inputs if spec.name not in chosen]:
        case [spec]:
            used = {name for names in chosen.values() for name in names}
            left = {name: record for name, record in columns.items() if name not in used}
            chosen[spec.name] = _remaining(spec, left, features, guessed)
        case [spec, *_] as several:
            _refuse_unfilled(spec, [other.name for other in several], columns)
    filled = [msgspec.structs.replace(spec, columns=chosen[spec.name]) for spec in inputs]
    for spec in filled:
        _check_columns(spec, columns, guessed)
    return filled


def _check_mapping(
    inputs: Sequence[TensorSpec], columns: Columns, mapping: Mapping[str, Sequence[str]]
) -> None:
    for name, names in mapping.items():
        if name not in (known := [spec.name for spec in inputs]):
            raise unknown_name("input of --map", name, known)
        for column in names:
            if column not in columns:
                raise unknown_name(f"column of --map {name}", column, columns)


def _namesake(name: str, columns: Columns) -> str | None:
    """The column of a name: letter for letter, else the only one with the same letters and digits."""
    if name in columns:
        return name
    alike = [column for column in columns if _letters(column) == _letters(name)]
    return alike[0] if len(alike) == 1 else None


def _letters(name: str) -> str:
    return re.sub(r"\W|_", "", name).lower()


def _remaining(spec: TensorSpec, left: Columns, features: Sequence[str], guessed: list[str]) -> list[str]:
    """The columns of the only input that no name fills."""
    if features and all(name in left for name in features):
        guessed.append(f"The columns {_listed(features)} fill the input {spec.name}: the model lists them.")
        return list(features)
    kind = {name: record for name, record in left.items() if (record.dtype == TEXT) == (spec.dtype == TEXT)}
    if not kind or values_of(spec) not in (None, _width(kind.values())):
        missing = [name for name in features if name not in left]
        if missing:
            raise UsageError(
                f"the table has no column {missing[0]}, which the model lists as a feature of {spec.name}",
                f"its columns: {', '.join(left) or 'none'}",
            )
        _refuse_unfilled(spec, [spec.name], left)
    guessed.append(
        f"The columns {_listed(kind)} fill the input {spec.name}, in the table's order: no other input takes them."
    )
    return list(kind)


def _refuse_unfilled(spec: TensorSpec, names: Sequence[str], left: Columns) -> None:
    texts = {name: record for name, record in left.items() if (record.dtype == TEXT) == (spec.dtype == TEXT)}
    kind = "of texts" if spec.dtype == TEXT else "of numbers"
    needs = values_of(spec)
    raise UsageError(
        f"it is not clear which columns fill the input{'s' * (len(names) > 1)} {_listed(names)}: {spec} takes "
        f"{'lists' if needs is None else f'{needs} value' + 's' * (needs != 1)}, "
        f"and the table has {len(texts)} columns {kind}" + (f": {_listed(texts)}" if texts else ""),
        f"--map {names[0]}=COLUMN,… names them in their order",
    )


def values_of(spec: TensorSpec) -> int | None:
    """How many values of each candidate, or of the request, an input takes; None where it takes any number."""
    if any(isinstance(size, str) and size != SLATE for size in spec.dims):
        return None
    return prod(size for size in spec.dims if isinstance(size, int))


def _width(records: Iterable[ColumnRecord]) -> int | None:
    """How many values several columns have together; None where one of them has lists of different lengths."""
    widths = [1 if record.width is None else record.width for record in records]
    return None if -1 in widths else sum(widths)


def _check_columns(spec: TensorSpec, columns: Columns, guessed: list[str]) -> None:
    """Raises UsageError where the columns of an input cannot fill it, whatever their values are."""
    records = {name: columns[name] for name in spec.columns}
    for name, record in records.items():
        if (record.dtype == TEXT) != (spec.dtype == TEXT):
            raise UsageError(
                f"the column {name} has {_kind(record.dtype)}, and the input {spec} takes {_kind(spec.dtype)}",
                f"--map {spec.name}=COLUMN,… names other columns",
            )
        if record.width == -1 and record.scope == "candidate":
            raise UsageError(
                f"the column {name} has lists of different lengths for the candidates: {spec} cannot be filled",
                "pad the lists of the table to one length",
            )
        if record.scope == "candidate" and not spec.per_candidate:
            guessed.append(
                f"The input {spec.name} takes the first candidate's {name}: it has no row for each."
            )
    needs, width = values_of(spec), _width(records.values())
    if needs is not None and needs != width:
        raise UsageError(
            f"the input {spec} takes {needs} values, and {_listed(records)} "
            f"{'have' if len(records) > 1 else 'has'} {'lists of different lengths' if width is None else width}",
            f"--map {spec.name}=COLUMN,… names columns with {needs} values together",
        )
    if sum(isinstance(size, str) and size != SLATE for size in spec.dims) > 1:
        raise UsageError(
            f"the input {spec} has more than one free dimension beside the candidates", "fix all but one"
        )


def _kind(dtype: str) -> str:
    return "texts" if dtype == TEXT else "numbers"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
