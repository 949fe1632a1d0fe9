"""Records of options: what a field takes, how it is read from text, and what it says of itself."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from rbserve.core.errors import UsageError
from rbserve.core.options import (
    REQUIRED,
    Amount,
    Count,
    Options,
    Positive,
    check,
    default_text,
    from_mapping,
    option_fields,
    with_options,
)
from rbserve.core.settings import Settings, Teaching
from rbserve.models.configs import CONFIGS
from rbserve.models.rqvae_config import RqVaeConfig


@dataclass(frozen=True)
class Cake(Options):
    """A record that is a dataclass."""

    eggs: Annotated[Count, Meta(description="Eggs in the dough.")]
    sugar_g: Annotated[Amount, Meta(description="Sugar in grams.")] = 100.0
    oven: Annotated[Literal["hot", "cold"], Meta(description="How the oven is.")] = "hot"
    layers: Annotated[tuple[Count, ...], Meta(min_length=1, examples=["3,2"], description="Layers.")] = (1,)
    glaze_mm: Annotated[Positive | None, Meta(description="Glaze.", extra={"note": "no glaze"})] = None
    book: Annotated[Path | None, Meta(description="Book of recipes.")] = None
    vegan: Annotated[bool, Meta(description="Without eggs.")] = False


class Tart(msgspec.Struct, frozen=True):
    """A record that crosses a process."""

    eggs: Annotated[Count, Meta(description="Eggs in the dough.")]
    sugar_g: Annotated[Amount, Meta(description="Sugar in grams.")] = 100.0
    extra: dict[str, int] = {}

    def __post_init__(self) -> None:
        check(self)


def test_a_field_says_its_type_its_limits_its_default_and_what_it_is_for() -> None:
    fields = option_fields(Cake)
    assert list(fields) == [field.name for field in dataclasses.fields(Cake)]
    assert (fields["eggs"].type, fields["eggs"].limits, fields["eggs"].default) == (int, {"ge": 1}, REQUIRED)
    assert fields["eggs"].description == "Eggs in the dough."
    assert (fields["glaze_mm"].type, fields["glaze_mm"].optional, fields["glaze_mm"].limits) == (
        float,
        True,
        {"gt": 0},
    )
    assert option_fields(Tart)["extra"].default == {}


def test_a_struct_and_a_dataclass_are_described_alike() -> None:
    for name in ("eggs", "sugar_g"):
        assert option_fields(Tart)[name] == option_fields(Cake)[name]


@pytest.mark.parametrize("record", [Cake, Tart])
def test_a_record_stores_values_as_its_fields_do(record: Any) -> None:
    made = record(2, 3)
    assert (made.eggs, made.sugar_g) == (2, 3.0)
    assert isinstance(made.sugar_g, float)
    changed = with_options(made, {"eggs": "4", "sugar_g": 0.5})
    assert (type(changed), changed.eggs, changed.sugar_g) == (record, 4, 0.5)
    with pytest.raises(AttributeError):
        made.eggs = 5


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("layers", "3, 2", (3, 2)),
        ("vegan", "true", True),
        ("sugar_g", "1e2", 100.0),
        ("oven", "cold", "cold"),
    ],
)
def test_text_is_read_as_the_type_of_its_field(name: str, text: str, value: object) -> None:
    assert getattr(with_options(Cake(1), {name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("eggs", 0, "an integer of at least 1"), ("eggs", True, "an integer of at least 1"),
        ("eggs", 1.5, "an integer of at least 1"), ("sugar_g", -1, "a number of at least 0"),
        ("sugar_g", math.nan, "a number of at least 0"), ("sugar_g", math.inf, "a number of at least 0"),
        ("oven", "mild", "one of: hot, cold"), ("layers", (), "one or more integers of at least 1, such as 3,2"),
        ("glaze_mm", 0.0, "a number above 0"), ("book", 3, "a path"), ("vegan", 2, "true or false"),
    ],
)  # fmt: skip
def test_a_value_that_a_field_does_not_take_is_named_with_what_it_takes(
    name: str, value: object, takes: str
) -> None:
    with pytest.raises(UsageError) as wrong:
        from_mapping(Cake, {"eggs": 1, name: value})
    assert wrong.value.message == f"invalid option: {name}={value!r}"
    assert wrong.value.hint == f"{name} takes {takes}"


@pytest.mark.parametrize(
    ("limits", "takes"),
    [
        ({"ge": 0, "le": 20}, "an integer from 0 to 20"),
        ({"ge": 0, "lt": 1}, "an integer from 0 up to, but not including, 1"),
        ({"gt": 0, "lt": 0.5}, "an integer above 0 and below 0.5"),
        ({"gt": 0, "le": 9}, "an integer above 0 and at most 9"),
        ({}, "an integer"),
    ],
)
def test_limits_are_said_in_words(limits: dict[str, float], takes: str) -> None:
    field = option_fields(Cake)["eggs"]._replace(limits=limits)
    assert field.takes == takes


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"^unknown option: egs$") as wrong:
        from_mapping(Tart, {"egs": 1})
    assert wrong.value.hint == "did you mean eggs?"


def test_the_help_of_a_field_has_its_default_and_its_note() -> None:
    fields = option_fields(Cake)
    assert fields["sugar_g"].help(100.0) == "Sugar in grams (default 100)."
    assert fields["glaze_mm"].help(None) == "Glaze (default no glaze)."
    assert fields["glaze_mm"].help(2.5) == "Glaze (default 2.5; no glaze)."
    assert fields["eggs"].help(REQUIRED) == "Eggs in the dough."


@pytest.mark.parametrize(
    ("value", "text"),
    [(5_000, "5000"), (0.001, "0.001"), (True, "true"), ((512, 256), "512,256"), (None, "")],
)
def test_a_default_is_written_as_the_command_line_takes_it(value: object, text: str) -> None:
    assert default_text(value) == text


@pytest.mark.parametrize(
    "record", [*CONFIGS.values(), RqVaeConfig, Settings, Teaching], ids=lambda one: one.__name__
)
def test_every_field_says_what_it_is_for_and_takes_its_own_default(record: Any) -> None:
    for name, field in option_fields(record).items():
        assert field.description.endswith("."), name
        assert field.description[0].isupper(), name
        assert field.value_of(field.default) == field.default
