"""How a profile is measured: the options of `rbserve profile`, as run files keep them. Nothing here imports NumPy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from rbserve.core.errors import unknown_name
from rbserve.core.options import Amount, Count, Natural, Positive, check

FORWARD, END_TO_END = "forward", "end_to_end"
SCOPES = (FORWARD, END_TO_END)
WARM = "warm"
TABLE: Literal["table"] = "table"
Slate = int | Literal["table"]
"""Candidates per call, or `TABLE`: the requests of a request table with the candidates that each of them has."""


class Plan(msgspec.Struct, frozen=True):
    """How a profile is measured.

    A scope is where a timed call begins and ends: forward takes rows of the item table and gives scores or rows,
    end_to_end takes and gives raw ids, and warm is forward for a user whom a language model read at an earlier request.
    With a budget, `runs_of` has the runs that were planned for each variant, in the place of `runs`; `processes` is 0
    until they are planned.
    """

    processes: Annotated[
        Natural,
        Meta(description="Fresh processes per variant.", extra={"note": "1 for API endpoints"}),
    ] = 5
    runs: Annotated[
        Count,
        Meta(
            description="Timed calls per process and slate, at most.", extra={"note": "50 for API endpoints"}
        ),
    ] = 200
    seconds: Annotated[
        Amount,
        Meta(
            description="Seconds of timed calls per process and slate, at most.",
            extra={"note": "60 for API endpoints"},
        ),
    ] = 10.0
    slates: Annotated[
        list[Count | Literal["table"]],
        Meta(
            min_length=1,
            examples=["1,100"],
            description="Candidates per call, or items to ask for where a model ranks the catalogue; table: the "
            "requests of an adopted model's own table, with as many candidates as each has.",
            extra={"note": "table,1,100 for an adopted model; 10 where a model ranks the catalogue"},
        ),
    ] = msgspec.field(default_factory=lambda: [1, 100])
    threads: Annotated[Count, Meta(description="Threads of a call, each on a core of its own.")] = 1
    scope: Annotated[
        str,
        Meta(
            description="What is timed: forward (from rows of the item table), end_to_end (from raw ids), or both.",
            extra={"note": "both where a model ranks the catalogue"},
        ),
    ] = "forward"
    seed: Annotated[int, Meta(description="Seed of the requests and of the test users drawn.")] = 2024
    exclude_seen: Annotated[bool, Meta(description="Leave the items of a history out of its ranking.")] = (
        False
    )
    test_users: Annotated[
        Natural, Meta(description="Test users for accuracy, drawn at random; 0 takes all.")
    ] = 0
    budget_s: Annotated[
        Positive | None,
        Meta(description="Seconds that the profile of a model may take; plans --processes and --runs."),
    ] = None
    runs_of: Annotated[dict[str, int], Meta(description="Runs planned for each variant, with a budget.")] = {}
    cost: Annotated[
        bool,
        Meta(description="Count operations and bytes of a call, and compare them with the machine's limits."),
    ] = False
    warm: Annotated[
        bool,
        Meta(description="Also time users whom a language model remembers from an earlier request."),
    ] = False

    def __post_init__(self) -> None:
        check(self)

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes to measure, one by one."""
        scopes = SCOPES if self.scope == "both" else (self.scope,)
        return (*scopes, WARM) if self.warm else scopes


def check_scope(scope: str) -> None:
    """Raises UsageError for an unknown scope."""
    if scope not in (*SCOPES, "both"):
        raise unknown_name("scope", scope, (*SCOPES, "both"))


def in_order(slates: Iterable[Slate]) -> list[Slate]:
    """The slates, each once: `TABLE` first, then the smallest."""
    return sorted(set(slates), key=lambda slate: 0 if slate == TABLE else slate)
