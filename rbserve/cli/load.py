"""The verbs about a server that runs: `load` and `verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rbserve.cli.console import print_json
from rbserve.cli.data import Json
from rbserve.cli.options import (
    MODEL,
    SLATE,
    Model,
    Trained,
    dataset_name,
    model_name,
    only,
    only_count,
    words,
)
from rbserve.core.errors import RbserveError
from rbserve.core.tasks import TASKS

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.profilers.client.load import Load, Times
    from rbserve.profilers.client.verify import Verified

Url = Annotated[str, typer.Option(help="Where the server listens, such as http://127.0.0.1:8000.")]


def load(
    url: Url,
    rate: Annotated[float, typer.Option(help="Requests a second, at the times of a Poisson process.")],
    duration: Annotated[float, typer.Option(help="Seconds that are counted.")] = 10.0,
    warm_up: Annotated[float, typer.Option(help="Seconds before them that are not.")] = 1.0,
    slate: Annotated[
        list[str] | None, typer.Option(*SLATE, help="Candidates a request, 100; or items asked for, 10.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(*MODEL, help="Which of the server's models; its only one.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Milliseconds after which an answer is no goodput.")
    ] = None,
    connections: Annotated[int, typer.Option(help="Requests under way at once, at most.", min=1)] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds after which a request is given up.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Draws times and requests.")] = 2024,
    as_json: Json = False,
) -> None:
    """Offer a server a load that does not wait for it, and measure latency from each request's own time.

    Requests are those of test users, at random times.

    Example: rbserve load --url http://127.0.0.1:8000 --rate 200 --duration 30 --slate 100
    """
    from rbserve.pipeline import serving
    from rbserve.profilers.client.load import LoadPlan

    plan = LoadPlan(rate, duration, warm_up, connections, timeout, deadline, seed)
    served = None if model is None else only(words(model), "--model")
    found = serving.load(url, served, only_count(slate, "--slate"), plan)
    if as_json:
        print_json(found)
    else:
        _show(found)
    if found.latency_ms is None:
        raise RbserveError(f"none of {found.sent:,} requests was answered with success: {_outcomes(found)}")
    if found.void is not None:
        raise RbserveError(f"void: {found.void}")


def verify(
    model: Model,
    url: Url,
    dataset: Trained = None,
    slate: Annotated[
        list[str] | None, typer.Option(*SLATE, help="Candidates a request, 1; or items asked for, 10.")
    ] = None,
    overhead: Annotated[
        float | None, typer.Option(help="Milliseconds that HTTP may add to p50: 0.25.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Rounds of 200 calls of the model itself and of the server.")
    ] = 10,
    as_json: Json = False,
) -> None:
    """Hold a server against the model itself: the same scores, and p50 no more than the published overhead above it.

    Example: rbserve verify --model dnn --url http://127.0.0.1:8000 --slate 1
    """
    from rbserve.home.target import resolve
    from rbserve.pipeline import serving

    name, size = model_name(model), only_count(slate, "--slate")
    data = None if dataset is None else dataset_name(dataset)
    found = serving.verify(resolve(name, data), url, size, overhead, rounds)
    if as_json:
        print_json(found)
    else:
        print(_verified(found))
    if found.verdict != "OK":
        raise RbserveError(_fault(found), _remedy(found))


def _show(found: Load) -> None:
    from rbserve.cli.console import show

    print(
        f"{found.asked_per_s:.1f} requests a second for {found.seconds:g} s to {found.url}: "
        f"goodput {found.goodput_per_s:.1f} a second; {_outcomes(found)}"
    )
    show(times_table(found))
    if found.waited:
        print(f"{found.waited:,} requests found every connection busy and waited; latency includes it")


def times_table(found: Load) -> Table:
    """A line for each thing that was timed."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("ms")
    for name in ("requests", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    rows = {
        "latency, from the request's time": found.latency_ms,
        "the same from when it was sent": found.service_ms,
        "refusals (429, 503)": found.refusal_ms,
        "lag of this generator": found.lag_ms,
    }
    for name, times in rows.items():
        if times is not None:
            table.add_row(name, f"{times.n:,}", *_cells(times))
    return table


def _cells(times: Times) -> list[str]:
    figures = (times.p50, times.p90, times.p99, times.max)
    return ["–" if one is None else f"{one:.3g}" for one in figures]


def _outcomes(found: Load) -> str:
    """How many requests ended how."""
    answers = [f"{number:,} answered {status}" for status, number in found.answers.items()]
    return ", ".join([*answers, *(f"{number:,} {how}" for how, number in found.failures.items())])


def _verified(found: Verified) -> str:
    low, high = found.overhead_ci95
    same = "other items" if found.difference is None else f"scores differ by at most {found.difference:.1g}"
    size = next(task.size_name for task in TASKS.values() if task.path == found.path)
    return (
        f"{found.model} {found.variant}, {size} {found.slate}: {same} in {found.compared} requests\n"
        f"p50 {found.in_process_ms:.3f} ms in process, {found.served_ms:.3f} ms served; "
        f"HTTP adds {found.overhead_ms:.3f} ms [{low:.3f}, {high:.3f}] in {found.rounds} rounds, "
        f"{found.limit_ms:g} allowed: {found.verdict}"
    )


def _fault(found: Verified) -> str:
    return {
        "OTHER SCORES": f"{found.url} does not answer as {found.model} {found.variant} does",
        "SLOWER": f"{found.url} adds more than {found.limit_ms:g} ms to {found.model}",
        "INCONCLUSIVE": f"whether {found.url} adds more than {found.limit_ms:g} ms cannot be told",
    }[found.verdict]


def _remedy(found: Verified) -> str | None:
    return {
        "OTHER SCORES": "serve the artefact that --model and --dataset name",
        "SLOWER": "is the server busy with other requests? --overhead sets another limit",
        "INCONCLUSIVE": "--rounds 40 measures longer",
    }[found.verdict]
