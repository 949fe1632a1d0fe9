"""The verb `recommend`: the variant to serve under a latency objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import DATASET, METRIC, SLATE, Json, Runs, only, only_slate, words
from rbserve.core.errors import RbserveError
from rbserve.core.tasks import TASKS
from rbserve.progress import say

if TYPE_CHECKING:
    from rich.table import Table

    from rbserve.profilers.choose.objectives import ObjectiveCheck
    from rbserve.profilers.choose.recommendation import Candidate, Recommendation


def recommend(
    slo: Annotated[
        str, typer.Option(help="Limits of a call's time, such as 'p99<20ms' or 'p50<2ms,p99<20ms'.")
    ],
    slate: Annotated[
        list[str] | None,
        typer.Option(
            *SLATE,
            help="Candidates per call (table: requests as they come), or items to ask for where a model ranks (default "
            "the only one measured).",
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(*DATASET, help="Data set of the runs (default the only one).")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            *METRIC,
            help="Metric of accuracy: auc, gauc, ndcg@10, … or your own MODULE:FUNCTION that the runs have (default "
            "the task's headline).",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="ctr or seqrec, where a data set has runs of both; the two are never compared."),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Scope of the runs: forward or end_to_end (default the only one).")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the runs (default the only number measured).", min=1)
    ] = None,
    confidence: Annotated[float, typer.Option(help="Least probability of meeting the limits.")] = 0.95,
    runs: Runs = None,
    as_json: Json = False,
) -> None:
    """Name the most accurate variant that meets a latency objective, and why the others do not.

    Where the requests have no labels, it is the fastest variant that meets it.

    Example: rbserve recommend --slo "p99<20ms" --slate 100 --dataset ml-100k
    """
    from rbserve.pipeline.home import Home

    answer = Home().recommend(
        slo,
        runs=runs,
        slate=only_slate(slate),
        dataset=only(words(dataset), "--dataset") if dataset else None,
        metric=only(words(metric), "--metric") if metric else None,
        task=task,
        scope=scope,
        threads=threads,
        confidence=confidence,
    )
    if as_json:
        print_json(answer)
    else:
        _show(answer)
    if answer.pick is None:
        raise RbserveError(f"nothing meets {', '.join(answer.objectives)} {_where(answer)}", _nearest(answer))


def _show(answer: Recommendation) -> None:
    from rbserve.cli.console import show

    pick = answer.pick
    if pick:
        first = pick.checks[0]
        print(
            f"serve {pick.label}{_doubts(pick)}: "
            f"{_accuracy(pick, answer.metric_title)}; {_meeting(pick)}, "
            f"of {first.n:,} calls in {first.processes} process{'es' * (first.processes > 1)}"
            f"\n  {pick.serve or f'cannot be served from here: {pick.absent}'}"
        )
    if answer.meets:
        print(f"\nmeets {', '.join(answer.objectives)} {_where(answer)}:")
        show(candidates_table(answer, answer.meets))
    if answer.refused:
        print("\nrefused:")
        show(candidates_table(answer, answer.refused))
    for line in _remarks(answer):
        say(f"- {line}")


def _doubts(pick: Candidate) -> str:
    """What is said behind the name of the pick: " (INCONCLUSIVE, below popularity)"."""
    doubts = ["INCONCLUSIVE"] * bool(pick.inconclusive) + ([pick.below.mark] if pick.below else [])
    return f" ({', '.join(doubts)})" if doubts else ""


def _remarks(answer: Recommendation) -> list[str]:
    """Remarks on the choice: its probability, faster variants, models without a run."""
    lines = []
    if answer.most_accurate_probability is not None and len(answer.meets) > 1:
        lines.append(
            f"the most accurate of the {len(answer.meets)} that meet it with probability "
            f"{_share(answer.most_accurate_probability)}, by resamples of the same test users"
        )
    if answer.pick and answer.faster:
        times = answer.pick.p50_ms / answer.faster.p50_ms
        lines.append(
            f"{answer.faster.label} is {times:.1f} times as fast, and these users do not tell its "
            f"{answer.metric_title} ({answer.faster.accuracy:.4f}) from the pick's"
        )
    if answer.pick and answer.pick.serve and answer.pick.absent:
        lines.append(answer.pick.absent)
    lines += [f"{name}: {reason}" for name, reason in answer.elsewhere.items()]
    return lines + answer.notes


def candidates_table(answer: Recommendation, rows: list[Candidate]) -> Table:
    """Variants with their accuracy, the statistics that are limited, and why they were refused."""
    from rich.markup import escape
    from rich.table import Table

    statistics = [objective.partition("<")[0] for objective in answer.objectives]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("model", "variant"):
        table.add_column(name, no_wrap=True)
    for name in (
        answer.metric_title,
        "p50 ms",
        *(f"{name} ms" for name in statistics if name != "p50"),
        "P(meets)",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    below = any(row.below for row in rows)
    if below:
        table.add_column("best baseline", no_wrap=True)
    why = any(row.refused for row in rows)
    if why:
        table.add_column("why")
    for row in rows:
        measured = [
            _figure(check.measured_ms)
            for check, name in zip(row.checks, statistics, strict=False)
            if name != "p50"
        ] or ["–"] * sum(name != "p50" for name in statistics)
        table.add_row(
            escape(row.model),
            row.variant + " ⚠" * bool(row.inconclusive or row.warnings),
            "–" if row.accuracy is None else f"{row.accuracy:.4f}",
            f"{row.p50_ms:.3g}",
            *measured,
            "–" if row.probability is None else _share(row.probability),
            *([row.below.mark if row.below else "above"] if below else []),
            *([escape(row.refused or "")] if why else []),
        )
    return table


def _accuracy(candidate: Candidate, title: str) -> str:
    if candidate.accuracy is None:
        return f"accuracy was not measured, {candidate.unjudged}"
    interval = (
        f" [{candidate.accuracy_ci95[0]:.4f}, {candidate.accuracy_ci95[1]:.4f}]"
        if candidate.accuracy_ci95
        else ""
    )
    return f"{title} {candidate.accuracy:.4f}{interval}"


def _meeting(candidate: Candidate) -> str:
    measured = ", ".join(
        f"{check.objective.partition('<')[0]} {_figure(check.measured_ms)}{_interval(check)} ms"
        for check in candidate.checks
    )
    limits = ", ".join(check.objective for check in candidate.checks)
    return f"{measured}; meets {limits} with probability {_share(candidate.probability or 0.0)}"


def _interval(check: ObjectiveCheck) -> str:
    return f" [{_figure(check.ci95_ms[0])}, {_figure(check.ci95_ms[1])}]" if check.ci95_ms else ""


def _figure(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:.3g}"


def _share(share: float) -> str:
    return "> 0.99" if share > 0.99 else "< 0.01" if share < 0.01 else f"{share:.2f}"


def _where(answer: Recommendation) -> str:
    size = f"{TASKS[answer.task].size_name} {answer.slate}"
    return f"on {answer.dataset} at {size} with probability {answer.confidence:g}"


def _nearest(answer: Recommendation) -> str | None:
    """The refused variant that is most likely to meet the limits."""
    near = [candidate for candidate in answer.refused if candidate.checks]
    if not near:
        return None
    best = max(near, key=lambda candidate: (candidate.probability or 0.0, -candidate.p50_ms))
    return f"the nearest is {best.label}: {best.refused}"
