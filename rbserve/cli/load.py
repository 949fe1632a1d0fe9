"""The verb `load`: latency of a server under a load that does not wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import MODEL, SLATE, Json, Url, only, only_count, words
from rbserve.cli.records import FromRecord
from rbserve.core.errors import RbserveError
from rbserve.profilers.client.plan import LoadPlan

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.profilers.client.load import Load, RequestTimes


def load(
    *,
    url: Url,
    plan: Annotated[LoadPlan, FromRecord(LoadPlan, flags={"seconds": "--duration"})],
    slate: Annotated[
        list[str] | None,
        typer.Option(
            *SLATE,
            help="Candidates per request (default 100), or items to ask for where a model ranks (default 10).",
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(*MODEL, help="Which of the server's models (default its only one).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a server's latency under a load that does not wait for it.

    Requests of test users are sent at random times, whether or not the server keeps up. Latency counts from these
    times.

    Example: rbserve load --url http://127.0.0.1:8000 --rate 200 --duration 30 --slate 100
    """
    from rbserve.pipeline import serving

    served = None if model is None else only(words(model), "--model")
    result = serving.load(url, served, only_count(slate, "--slate"), plan)
    if as_json:
        print_json(result)
    else:
        _show(result)
    if result.latency_ms is None:
        raise RbserveError(f"none of {result.sent:,} requests was answered with success: {_outcomes(result)}")
    if result.void is not None:
        raise RbserveError(f"void: {result.void}")


def _show(result: Load) -> None:
    from rbserve.cli.console import show

    print(
        f"{result.asked_per_s:.1f} requests a second for {result.seconds:g} s to {result.url}: "
        f"goodput {result.goodput_per_s:.1f} a second; {_outcomes(result)}"
    )
    show(times_table(result))
    if result.waited:
        print(f"{result.waited:,} requests result every connection busy and waited; latency includes it")


def times_table(result: Load) -> Table:
    """Percentiles of latency, refusals and the generator's own lag, in milliseconds."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("ms")
    for name in ("requests", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    rows = {
        "latency, from the request's time": result.latency_ms,
        "latency, from when it was sent": result.service_ms,
        "refusals (429, 503)": result.refusal_ms,
        "lag of this generator": result.lag_ms,
    }
    for name, times in rows.items():
        if times is not None:
            table.add_row(name, f"{times.n:,}", *_cells(times))
    return table


def _cells(times: RequestTimes) -> list[str]:
    figures = (times.p50, times.p90, times.p99, times.max)
    return ["–" if figure is None else f"{figure:.3g}" for figure in figures]


def _outcomes(result: Load) -> str:
    """Requests by how they ended."""
    answers = [f"{number:,} answered {status}" for status, number in result.answers.items()]
    return ", ".join([*answers, *(f"{number:,} {how}" for how, number in result.failures.items())])
