"""The verb `serve`: models over HTTP, and the choice of a precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Meta

from rbserve.cli.options import (
    MODEL,
    SLATE,
    VARIANT,
    Trained,
    dataset_name,
    model_names,
    only,
    only_slate,
    words,
)
from rbserve.cli.records import FromRecord
from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.options import Count, Natural, Options
from rbserve.core.tasks import TASKS
from rbserve.core.variants import BY_PRECISION, DEFAULT_SERVED, check_variants
from rbserve.progress import say
from rbserve.runs.plan import Slate
from rbserve.server.api.options import Limits, ServerOptions

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.data.artifact import Artifact
    from rbserve.home.target import ModelName
    from rbserve.profilers.choose.choice import Choice, Option

AUTO = "auto"
SERVER_FIELDS = (
    "host", "port", "workers", "admin", "log", "read_timeout_s", "drain_timeout_s", "max_connections",
)  # fmt: skip
TIMEOUTS = {"read_timeout_s": {"ge": 1.0}, "drain_timeout_s": {"ge": 1.0}}
LIMIT_FIELDS = ("max_candidates", "max_text", "max_waiting", "deadline_ms", "unknown_history")
VARIANTS = "What is served"
SERVER = "Server"


@dataclass(frozen=True)
class Opened(Options):
    """How the models are opened, and what may be done for that."""

    make: Annotated[
        bool, Meta(description="Train a row that is not trained yet, and prepare its data set, first.")
    ] = False
    trust: Annotated[
        bool, Meta(description="Serve models that run your own Python code (MODULE:FACTORY).")
    ] = False
    threads: Annotated[Count, Meta(description="Threads of a scoring call.")] = 1
    user_cache_mb: Annotated[
        Natural, Meta(description="MB in which a language model keeps what it read of its last users.")
    ] = 256


@dataclass(frozen=True)
class Choosing(Options):
    """The variant by its precision, or the choice of one."""

    precision: Annotated[
        str | None,
        Meta(
            description="auto: the fastest variant that holds the accuracy of fp32; or fp32, bf16, int8, int4."
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        Meta(description="AUC or nDCG@10 that --precision auto may lose.", extra={"note": "0.002"}),
    ] = None


def serve(
    *,
    model: Annotated[
        list[str],
        typer.Option(
            *MODEL,
            help="A zoo row (see rbserve models) or an artefact's directory; several: comma-separated or repeated.",
        ),
    ],
    dataset: Trained = None,
    allowed: Annotated[dict[str, Any], FromRecord(Opened, ("make", "trust"))],
    variant: Annotated[
        list[str] | None,
        typer.Option(
            *VARIANT,
            rich_help_panel=VARIANTS,
            help=f"Variant: onnx-fp32, onnx-int8, openvino-bf16, torch-fp32, … (default {DEFAULT_SERVED}).",
        ),
    ] = None,
    choosing: Annotated[Choosing, FromRecord(Choosing, panel=VARIANTS)],
    slate: Annotated[
        list[str] | None,
        typer.Option(
            *SLATE,
            rich_help_panel=VARIANTS,
            help="Candidates per call that --precision auto is chosen for (default 100; 20 for a language model; "
            "table: an adopted model's own requests), or items to ask for where a model ranks (default 10).",
        ),
    ] = None,
    calls: Annotated[
        dict[str, Any],
        FromRecord(Opened, ("threads", "user_cache_mb"), SERVER, {"user_cache_mb": "--user-cache"}),
    ],
    options: Annotated[dict[str, Any], FromRecord(ServerOptions, SERVER_FIELDS, SERVER, limits=TIMEOUTS)],
    limits: Annotated[Limits, FromRecord(Limits, LIMIT_FIELDS, SERVER, {"max_waiting": "--queue"})],
    api_keys: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=SERVER,
            help="File of API keys, one a line (default the keys in RBSERVE_API_KEYS; without any, every request is "
            "answered).",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            rich_help_panel=SERVER,
            help="Origin whose pages may send requests from a browser, such as https://shop.example, or *; may be "
            "repeated (default none).",
        ),
    ] = None,
) -> None:
    """Serve models over HTTP: scores, or recommendations where a model ranks the catalogue.

    Needs the artefact alone, not its data set, and trains nothing without --make. SIGTERM finishes the requests under
    way, then ends the server.

    Examples: rbserve serve --model gdcn --variant onnx-int8 --port 8000; rbserve serve --model gdcn --precision auto
    """
    from rbserve.home.target import parse_model
    from rbserve.pipeline.home import Home
    from rbserve.server.http.cors import check_origins
    from rbserve.server.http.keys import read_keys

    server = ServerOptions(**options, keys=read_keys(api_keys), origins=check_origins(cors_origin or ()))
    opened = Opened(**allowed, **calls)
    wanted = _variant(only(words(variant), "--variant") if variant else None, choosing.precision)
    names, data = model_names(model), None if dataset is None else dataset_name(dataset)
    size = only_slate(slate)
    if wanted is None:
        chosen = [_chosen(name, data, size, choosing.tolerance, opened) for name in names]
        served: dict[ModelName, str] = {parse_model(artifact.path): variant for artifact, variant in chosen}
    elif choosing.tolerance is not None or slate is not None:
        raise UsageError("--tolerance and --slate are for --precision auto", "--precision auto")
    else:
        served = dict.fromkeys(names, wanted)
    Home().serve(served, data, options=server, limits=limits, **vars(opened))


def _variant(variant: str | None, precision: str | None) -> str | None:
    """The variant of --variant or --precision; None for --precision auto, which chooses it."""
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
    slate: Slate | None,
    tolerance: float | None,
    opened: Opened,
) -> tuple[Artifact, str]:
    """Chooses the variant of a model, and shows which variants were refused and why."""
    from rbserve.cli.console import show
    from rbserve.pipeline.home import Home

    artifact, choice = Home().choose(
        model, dataset, slate=slate, threads=opened.threads, tolerance=tolerance, make=opened.make
    )
    print(_title(choice))
    show(choice_table(choice))
    for option in choice.options:
        if option.variant == choice.chosen and option.below:
            say(f"warning: {choice.model} {option.variant} is {option.below.text}")
    disturbed = [option for option in choice.options if option.disturbed]
    for option in disturbed:
        say(f"warning: the p50 of {option.variant} was disturbed: {'; '.join(option.disturbed)}")
    if disturbed:
        say(
            f"hint: rbserve profile --model {artifact.path} --slates {choice.question.slate} measures longer; "
            "where its figures are settled, the next start takes them"
        )
    return artifact, choice.chosen


def _title(choice: Choice) -> str:
    """The size and tolerance of the choice, and where its figures come from."""
    question = choice.question
    size = f"{TASKS[choice.task].size_name} {question.slate}, {question.threads} thread{'s' * (question.threads > 1)}"
    most = f"at most {question.tolerance:g} {choice.metric.upper()} lost against {choice.reference}"
    source = "measured for this choice" if choice.measured else f"from run {choice.run}"
    return f"{choice.model} on {choice.dataset}, {size}, {most}; {source}"


def choice_table(choice: Choice) -> Table:
    """Every variant with its p50, its change of accuracy, and whether it is refused, allowed or chosen."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("variant", no_wrap=True)
    for name in ("p50 ms", f"{choice.metric.upper()} change [95%]"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for option in choice.options:
        p50 = "–" if option.p50_ms is None else f"{option.p50_ms:.3g}"
        table.add_row(option.variant, p50, _change(option, choice), escape(_outcome(option, choice)))
    return table


def _change(option: Option, choice: Choice) -> str:
    """The variant's accuracy minus the reference's, with its interval."""
    if option.loss is None:
        return "–"
    if option.variant == choice.reference:
        return "reference"
    if option.loss.same:
        return f"0, the same {'ranks' if TASKS[choice.task].ranks else 'scores'}"
    low, high = option.loss.ci95
    change, least, most = (round(-loss, 5) + 0.0 for loss in (option.loss.change, high, low))  # no -0
    return f"{change:+.5f} [{least:+.5f}, {most:+.5f}]"


def _outcome(option: Option, choice: Choice) -> str:
    if option.refused is not None:
        return f"refused: {option.refused}"
    outcome = "chosen: the fastest that is allowed" if option.variant == choice.chosen else "allowed, slower"
    return f"{outcome}; {option.below.mark}" if option.below else outcome
