"""The verb of the regression gate: `check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rbserve.cli.console import print_json
from rbserve.cli.data import Json
from rbserve.cli.options import METRIC, MODEL, SLATE, VARIANT, counts, words
from rbserve.core.errors import UsageError
from rbserve.core.files import require_writable
from rbserve.core.variants import check_variants
from rbserve.progress import say

if TYPE_CHECKING:
    from rbserve.profilers.gate.config import GateConfig
    from rbserve.profilers.gate.verdict import Suite

FilePath = Path | None


def check(
    base: Annotated[
        FilePath, typer.Option(help="The artefact before, or a folder (or home) of several.")
    ] = None,
    head: Annotated[
        FilePath, typer.Option(help="The artefact after, or such a folder; with --baseline a run file, too.")
    ] = None,
    baseline: Annotated[
        FilePath, typer.Option(help="A run file to hold head against, instead of --base.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            *MODEL, help="Of folders: these models or groups, such as A or dnn,gdcn; else all of base."
        ),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(*VARIANT, help="Comma-separated; all that base has exported."),
    ] = None,
    slates: Annotated[
        list[str] | None,
        typer.Option(
            *SLATE, help="Candidates per call (1,100), or items to ask for where a model ranks all."
        ),
    ] = None,
    scope: Annotated[str | None, typer.Option(help="forward, end_to_end or both; forward.")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(*METRIC, help="Only these of p50,peak_rss,file_size,accuracy.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Seconds; undecided is INCONCLUSIVE. 300.")] = None,
    config: Annotated[
        FilePath, typer.Option(help="Tolerances; rbserve-check.toml where there is one.")
    ] = None,
    init: Annotated[bool, typer.Option("--init", help="Write rbserve-check.toml with the defaults.")] = False,
    base_python: Annotated[
        FilePath,
        typer.Option(help="Measure base with this interpreter: another rbserve, another onnxruntime."),
    ] = None,
    pytest_benchmark: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="BASE HEAD",
            help="Judge two JSON files of pytest-benchmark instead; comma-separated: several.",
        ),
    ] = None,
    markdown: Annotated[FilePath, typer.Option(help="Write a comment for a pull request.")] = None,
    junit: Annotated[FilePath, typer.Option(help="Write JUnit XML.")] = None,
    pytest_benchmark_out: Annotated[
        FilePath, typer.Option(help="Write head's samples for pytest-benchmark, base's beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold a changed model against what it was: p50, peak memory, file size, accuracy. For CI.

    Exit codes: 0 PASS, 3 REGRESSED, 4 INCONCLUSIVE, 5 MISSING (nothing measured), 6 NOT-COMPARABLE.

    Examples: rbserve check --base main/artifacts/ml-100k --head artifacts/ml-100k --models dnn,gdcn --markdown gate.md;
    rbserve check --head artifacts/ml-100k/dnn --baseline runs/main.json
    """
    from rbserve.profilers.gate.config import CONFIG_FILE, checked, read_config, write_config
    from rbserve.runs.measurement import check_scope

    if init:
        path = config or Path(CONFIG_FILE)
        write_config(path)
        say(f"wrote {path}")
        return
    if scope is not None:
        check_scope(scope)
    check_variants(words(variants))
    settings = read_config(config)
    for file in filter(None, (markdown, junit, pytest_benchmark_out)):
        require_writable(file.parent)
    if budget is not None:
        import msgspec

        settings = checked(msgspec.structs.replace(settings, budget=budget))
    if pytest_benchmark:
        if base or head or baseline or pytest_benchmark_out:
            raise UsageError(
                "--pytest-benchmark takes none of --base, --head, --baseline, --pytest-benchmark-out"
            )
        suite = _judge_files(*pytest_benchmark, settings)
    else:
        chosen = {
            "variants": words(variants) if variants else None,
            "slates": counts(slates) if slates is not None else None,
            "scope": scope,
            "metrics": words(metrics) if metrics else None,
        }
        suite = _measure(
            base,
            head,
            baseline,
            words(models) if models else None,
            chosen,
            settings,
            base_python,
            pytest_benchmark_out,
        )
    _tell(suite, markdown, junit, as_json)
    raise typer.Exit(suite.exit_code)


def _measure(
    base: Path | None,
    head: Path | None,
    baseline: Path | None,
    models: list[str] | None,
    chosen: Mapping[str, object],
    settings: GateConfig,
    base_python: Path | None,
    samples_to: Path | None,
) -> Suite:
    from rbserve.pipeline.home import Home

    if head is None or (base is None) == (baseline is None):
        raise UsageError(
            "give --head, and either --base or --baseline",
            "--base main/artifacts/ml-100k/dnn --head artifacts/ml-100k/dnn, or --baseline runs/ID.json",
        )
    before = base or baseline
    assert before is not None
    if baseline and not baseline.is_file():
        raise UsageError(
            f"--baseline takes a run file, not {baseline}", "rbserve profile writes runs/ID.json"
        )
    scope = {key: value for key, value in chosen.items() if value is not None}
    outcome = Home().check(before, head, models, config=settings, scope=scope, base_python=base_python)
    if samples_to:
        from rbserve.profilers.gate.benchmark_file import write

        beside = write(samples_to, outcome.contenders)
        say(f"samples -> {samples_to}, {beside}")
    return outcome.suite


def _judge_files(base: str, head: str, settings: GateConfig) -> Suite:
    from rbserve.profilers.gate.pytest_benchmark import compare

    return compare([Path(one) for one in words(base)], [Path(one) for one in words(head)], settings)


def _tell(suite: Suite, markdown: Path | None, junit: Path | None, as_json: bool) -> None:
    from rbserve.core.files import write_bytes
    from rbserve.profilers.gate import findings

    if markdown:
        write_bytes(markdown, findings.markdown(suite).encode())
    if junit:
        write_bytes(junit, findings.junit(suite))
    if as_json:
        print_json(suite)
    else:
        _show(suite)
    say(findings.headline(suite))


def _show(suite: Suite) -> None:
    from rich.table import Table

    from rbserve.cli.console import show
    from rbserve.profilers.gate.findings import COLUMNS, cells

    colours = {"PASS": "green", "REGRESSED": "bold red", "MISSING": "bold red"}
    table = Table(box=None, pad_edge=False, caption_justify="left", caption=(
        "positive changes are for the worse; REGRESSED: the lower bound lies above what is tolerated"))  # fmt: skip
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in COLUMNS[:4] else "right", no_wrap=True)
    for line in suite.lines:
        verdict, *rest = cells(line)
        table.add_row(
            f"[{colours.get(verdict, 'yellow')}]{verdict}[/]", *(one.replace("[", "\\[") for one in rest)
        )
        if line.reason:
            say(f"{line.verdict} {line.model} {line.name} {line.metric}: {line.reason}")
    show(table)
