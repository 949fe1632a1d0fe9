"""Options of a command that are made from a record of options (`core/options.py`).

A verb names the record in the annotation of a parameter:

    settings: Annotated[dict[str, Any], FromRecord(Settings, panel="Training")]

`with_records(verb)` is the command: it has an option for each field, with the field's description, default and limits,
and calls the verb with the values that were given, by the names of the fields. A parameter that is annotated with the
record's class instead of `dict` gets a record of these values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from rbserve.core.options import REQUIRED, OptionField, option_fields

UNITS = ("_s", "_ms")
"""Endings of fields that their options do not have: timeout_s is --timeout."""


@dataclass(frozen=True)
class FromRecord:
    """The fields of a record that are options of a command: those that `fields` names, or all of them.

    `panel` is their heading in --help. `flags` has the names of options that are not called like their field:
    {"max_waiting": "--queue"}. `defaults` has the values that --help shows where the command's are not the record's,
    `limits` those limits (ge, le) that are narrower for the command: {"read_timeout_s": {"ge": 1.0}}.
    """

    record: type[Any]
    fields: tuple[str, ...] = ()
    panel: str | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def options(self) -> Iterator[tuple[str, OptionField]]:
        """The flag and the field of each option."""
        known = option_fields(self.record)
        for name in self.fields or known:
            bare = next((name.removesuffix(unit) for unit in UNITS if name.endswith(unit)), name)
            yield self.flags.get(name, f"--{bare.replace('_', '-')}"), known[name]

    def parameters(self) -> list[inspect.Parameter]:
        """A parameter of a Typer command for each option; an option that is not given is None."""
        return [self._parameter(flag, option) for flag, option in self.options()]

    def given(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Takes the values of the options out of a command's arguments: those that were given, checked, by field."""
        values = {}
        for flag, option in self.options():
            value = arguments.pop(option.name)
            if value is not None and value != []:
                values[option.name] = option._replace(name=flag).value_of(value)
        return values

    def _parameter(self, flag: str, option: OptionField) -> inspect.Parameter:
        default = self.defaults.get(option.name, option.default)
        required = default is REQUIRED
        is_switch = option.type is bool
        declared = f"{flag}/--no-{flag.removeprefix('--')}" if is_switch and default else flag
        shown = None if is_switch and not default else default
        limits = {**option.limits, **self.limits.get(option.name, {})} if option.type in (int, float) else {}
        choices = (
            get_args(option.type) if get_origin(option.type) is Literal else ()
        )  # the record checks them
        is_list = get_origin(option.type) is tuple  # given once for each element
        kind = str if choices else list[str] if is_list else option.type
        info = typer.Option(
            declared,
            metavar=f"<{'|'.join(choices)}>" if choices else "<name>" if is_list else None,
            help=option.help(shown),
            min=limits.get("ge"),
            max=limits.get("le"),
            rich_help_panel=self.panel,
            show_default=False,
        )
        return inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if required else None,
            annotation=Annotated[kind if required else kind | None, info],
        )


def with_records(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The command of a verb: its parameters that stand for records are replaced by the records' options."""
    signature = inspect.signature(verb, eval_str=True)
    records = {
        name: (parameter.annotation.__origin__, marker)
        for name, parameter in signature.parameters.items()
        if (marker := _marker(parameter.annotation)) is not None
    }

    @wraps(verb)
    def command(**arguments: Any) -> Any:
        for name, (kind, marker) in records.items():
            values = marker.given(arguments)
            arguments[name] = values if get_origin(kind) is dict else kind(**values)
        return verb(**arguments)

    command.__annotations__ = {}  # the signature has them all; Typer would evaluate these again
    command.__signature__ = signature.replace(parameters=list(_expanded(signature, records)))  # type: ignore[attr-defined]
    return command


def _marker(annotation: Any) -> FromRecord | None:
    if get_origin(annotation) is not Annotated:
        return None
    return next((extra for extra in get_args(annotation)[1:] if isinstance(extra, FromRecord)), None)


def _expanded(
    signature: inspect.Signature, records: Mapping[str, tuple[Any, FromRecord]]
) -> Iterator[inspect.Parameter]:
    for name, parameter in signature.parameters.items():
        if name in records:
            yield from records[name][1].parameters()
        else:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
