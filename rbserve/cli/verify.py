"""The verb `verify`: does a server answer as the model itself does, and as fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import SLATE, Json, Model, Trained, Url, dataset_name, model_name, only_count
from rbserve.core.errors import RbserveError
from rbserve.core.tasks import TASKS

if TYPE_CHECKING:
    from rbserve.profilers.client.verify import Verified


def verify(
    model: Model,
    url: Url,
    dataset: Trained = None,
    slate: Annotated[
        list[str] | None,
        typer.Option(
            *SLATE,
            help="Candidates per request (default 1), or items to ask for where a model ranks (default 10).",
        ),
    ] = None,
    overhead: Annotated[
        float | None,
        typer.Option(
            help="What HTTP may add to p50, as a multiple of the p50 of the server's bare echo of the same bodies "
            "(default 3)."
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Rounds of 200 calls of the model itself, of the server and of its echo.")
    ] = 10,
    as_json: Json = False,
) -> None:
    """Compare a server with the model itself: scores, and the time that HTTP adds.

    Fails where scores differ, or where HTTP adds more to the model's p50 than --overhead times the server's bare echo:
    the same bodies, parsed and answered without a model.

    Example: rbserve verify --model dnn --url http://127.0.0.1:8000 --slate 1
    """
    from rbserve.home.target import resolve
    from rbserve.pipeline import serving

    name, size = model_name(model), only_count(slate, "--slate")
    data = None if dataset is None else dataset_name(dataset)
    result = serving.verify(resolve(name, data), url, size, overhead, rounds)
    if as_json:
        print_json(result)
    else:
        print(_verified(result))
    if result.verdict != "OK":
        raise RbserveError(_fault(result), _remedy(result))


def _verified(result: Verified) -> str:
    (low, high), (least, most) = result.overhead_ci95, result.ratio_ci95
    same = "other items" if result.difference is None else f"scores differ by at most {result.difference:.1g}"
    size = next(task.size_name for task in TASKS.values() if task.path == result.path)
    return (
        f"{result.model} {result.variant}, {size} {result.slate}: {same} in {result.compared} requests\n"
        f"p50 {result.in_process_ms:.3f} ms in process, {result.served_ms:.3f} ms served; "
        f"HTTP adds {result.overhead_ms:.3f} ms [{low:.3f}, {high:.3f}] in {result.rounds} rounds\n"
        f"the server's bare echo takes {result.echo_ms:.3f} ms: HTTP adds {result.ratio:.2f} times that [{least:.2f}, "
        f"{most:.2f}], {result.limit:g} allowed: {result.verdict}"
    )


def _fault(result: Verified) -> str:
    return {
        "OTHER SCORES": f"{result.url} does not answer as {result.model} {result.variant} does",
        "SLOWER": f"{result.url} adds more than {result.limit:g} times its echo to {result.model}",
        "INCONCLUSIVE": f"whether {result.url} adds more than {result.limit:g} times its echo cannot be told",
    }[result.verdict]


def _remedy(result: Verified) -> str | None:
    return {
        "OTHER SCORES": "serve the artefact that --model and --dataset name",
        "SLOWER": "is the server busy with other requests? --overhead sets another limit",
        "INCONCLUSIVE": "--rounds 40 measures longer",
    }[result.verdict]
