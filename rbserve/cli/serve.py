"""The verb that serves: `serve`, and what it says of a precision that it chose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rbserve.cli.options import (
    MODEL,
    SLATE,
    VARIANT,
    Trained,
    dataset_name,
    model_names,
    only,
    only_count,
    words,
)
from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.tasks import TASKS
from rbserve.core.variants import BY_PRECISION, DEFAULT_SERVED, check_variants
from rbserve.progress import say

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.data.artifact import Artifact
    from rbserve.home.target import ModelName
    from rbserve.profilers.choose.choice import Choice, Option

AUTO = "auto"


def serve(
    model: Annotated[
        list[str],
        typer.Option(
            *MODEL,
            help="A zoo row (see rbserve models) or an artefact's directory; several: comma-separated or repeated.",
        ),
    ],
    dataset: Trained = None,
    make: Annotated[
        bool,
        typer.Option("--make", help="Train a row that is not trained yet, and prepare its data set, first."),
    ] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option(*VARIANT, help="onnx-fp32 (the default), onnx-int8, openvino-bf16, torch-fp32 …"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="auto: the fastest variant that holds the accuracy of fp32; or fp32, bf16, int8, int4."
        ),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Of --precision auto: AUC or nDCG@10 that may be lost; 0.002.")
    ] = None,
    slate: Annotated[
        list[str] | None,
        typer.Option(
            *SLATE,
            help="Of --precision auto: candidates a call, 100, of a language model 20; or items asked for, 10.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535)
    ] = 8000,
    threads: Annotated[int, typer.Option(help="Threads a scoring call uses.", min=1)] = 1,
    workers: Annotated[
        int, typer.Option(help="Processes behind the port, each with the models in its memory.", min=1)
    ] = 1,
    user_cache: Annotated[
        int, typer.Option(help="MB in which a language model keeps what it read of its last users.", min=0)
    ] = 256,
    queue: Annotated[
        int, typer.Option(help="Requests that may wait for the model; more are refused at once (503).", min=1)
    ] = 64,
    deadline: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds after which a request that waits is not computed (504), if it names none."
        ),
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            help="A file of API keys, one a line; else those in RBSERVE_API_KEYS. Without any, all may ask."
        ),
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="POST /v1/admin/reload takes up new versions, as SIGHUP does.")
    ] = False,
    unknown_history: Annotated[
        Literal["refuse", "skip"],
        typer.Option(
            help="Ids in a history that the model does not know: refuse the request (422), or skip them and list "
            "them in the answer. A request's own field unknown_history goes before (default refuse)."
        ),
    ] = "refuse",
    read_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Time in which a client must send a request, head and body (408 after that), or read an answer.",
        ),
    ] = 20.0,
    drain_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="Time in which the server ends after SIGTERM, finished requests or not."
        ),
    ] = 30.0,
    max_connections: Annotated[
        int, typer.Option(help="Open connections of each worker; one more is refused (503).", min=1)
    ] = 1000,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="An origin whose pages may ask from a browser, such as https://shop.example, or *; "
            "more than once: several (default none).",
        ),
    ] = None,
    log: Annotated[
        str,
        typer.Option(help="errors; requests: a JSON line for each; items: with what was asked about, too."),
    ] = "errors",
) -> None:
    """Serve scores, or recommendations where the model ranks the catalogue, over HTTP; SIGTERM drains.

    Takes the artefact alone, not its data set, and trains nothing unless --make says so.

    Examples: rbserve serve --model gdcn --variant onnx-int8 --port 8000; rbserve serve --model gdcn --precision auto
    """
    from rbserve.home.target import parse_model
    from rbserve.pipeline.home import Home
    from rbserve.server.http.cors import check_origins
    from rbserve.server.http.keys import read_keys
    from rbserve.server.logs import LEVELS
    from rbserve.server.process.options import ServerOptions
    from rbserve.server.schema import Limits

    if deadline is not None and not 0 < deadline < float("inf"):
        raise UsageError(f"--deadline must be above 0, not {deadline:g}")
    for name, seconds in (("--read-timeout", read_timeout), ("--drain-timeout", drain_timeout)):
        if not 1 <= seconds < float("inf"):
            raise UsageError(f"{name} must be 1 second or more, not {seconds:g}")
    if log not in LEVELS:
        raise unknown_name("log", log, LEVELS)
    options = ServerOptions(
        host, port, workers, read_keys(api_keys), admin, log,
        drain_timeout, read_timeout, max_connections, check_origins(cors_origin or ()),
    )  # fmt: skip
    wanted = _wanted(only(words(variant), "--variant") if variant else None, precision)
    names, data = model_names(model), None if dataset is None else dataset_name(dataset)
    size = only_count(slate, "--slate")
    if wanted is None:
        chosen = [_chosen(name, data, size, threads, tolerance, make) for name in names]
        served: dict[ModelName, str] = {parse_model(artifact.path): variant for artifact, variant in chosen}
    elif tolerance is not None or slate is not None:
        raise UsageError("--tolerance and --slate are for --precision auto", "--precision auto")
    else:
        served = dict.fromkeys(names, wanted)
    Home().serve(
        served, data, threads=threads, user_cache_mb=user_cache, make=make, options=options,
        limits=Limits(max_waiting=queue, deadline_ms=deadline, unknown_history=unknown_history),
    )  # fmt: skip


def _wanted(variant: str | None, precision: str | None) -> str | None:
    """The variant that was asked for; None where it is to be chosen."""
    check_variants([] if variant is None else [variant])
    if precision is None:
        return variant or DEFAULT_SERVED
    if variant is not None:
        raise UsageError("--variant and --precision both say what to serve", "give one or the other")
    if precision == AUTO:
        return None
    if precision not in BY_PRECISION:
        raise unknown_name("precision", precision, (AUTO, *BY_PRECISION))
    return BY_PRECISION[precision]


def _chosen(
    model: ModelName,
    dataset: str | None,
    slate: int | None,
    threads: int,
    tolerance: float | None,
    make: bool,
) -> tuple[Artifact, str]:
    """Chooses, and says what was refused and why."""
    from rbserve.cli.console import show
    from rbserve.pipeline.home import Home

    artifact, choice = Home().choose(
        model, dataset, slate=slate, threads=threads, tolerance=tolerance, make=make
    )
    print(_title(choice))
    show(choice_table(choice))
    disturbed = [one for one in choice.options if one.disturbed]
    for one in disturbed:
        say(f"warning: the p50 of {one.variant} was disturbed: {'; '.join(one.disturbed)}")
    if disturbed:
        say(
            f"hint: rbserve profile --model {artifact.path} --slates {choice.question.slate} measures longer; "
            "where its figures are settled, the next start takes them"
        )
    return artifact, choice.chosen


def _title(choice: Choice) -> str:
    """What was asked, and where the figures come from."""
    asked = choice.question
    size = f"{TASKS[choice.task].size_name} {asked.slate}, {asked.threads} thread{'s' * (asked.threads > 1)}"
    most = f"at most {asked.tolerance:g} {choice.metric.upper()} lost against {choice.reference}"
    source = "measured for this choice" if choice.measured else f"from run {choice.run}"
    return f"{choice.model} on {choice.dataset}, {size}, {most}; {source}"


def choice_table(choice: Choice) -> Table:
    """Every variant with its p50, what it loses, and what became of it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("variant", no_wrap=True)
    for name in ("p50 ms", f"{choice.metric.upper()} change [95%]"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for one in choice.options:
        p50 = "–" if one.p50_ms is None else f"{one.p50_ms:.3g}"
        table.add_row(one.variant, p50, _change(one, choice), escape(_outcome(one, choice)))
    return table


def _change(one: Option, choice: Choice) -> str:
    """What the variant's accuracy is above the reference's: the loss, turned around."""
    if one.loss is None:
        return "–"
    if one.variant == choice.reference:
        return "reference"
    if one.loss.same:
        return f"0, the same {'ranks' if TASKS[choice.task].ranks else 'scores'}"
    low, high = one.loss.ci95
    change, least, most = (round(-loss, 5) + 0.0 for loss in (one.loss.change, high, low))  # no -0
    return f"{change:+.5f} [{least:+.5f}, {most:+.5f}]"


def _outcome(one: Option, choice: Choice) -> str:
    if one.refused is not None:
        return f"refused: {one.refused}"
    return "chosen: the fastest that is allowed" if one.variant == choice.chosen else "allowed, slower"
