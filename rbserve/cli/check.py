"""The verb of the regression gate: `check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import METRIC, MODEL, VARIANT, Json, Slates, counts, given, words
from rbserve.cli.records import FromRecord
from rbserve.core.errors import UsageError
from rbserve.core.options import with_options
from rbserve.core.variants import check_variants
from rbserve.profilers.gate.config import CONFIG_FILE, GateConfig, read_config, write_config
from rbserve.progress import say

if TYPE_CHECKING:
    from rbserve.profilers.gate.verdict import Suite

FilePath = Path | None
OUTPUT = "Output"


def check(
    *,
    base: Annotated[
        FilePath, typer.Option(help="Artefact before the change, or a folder (or home) of several.")
    ] = None,
    head: Annotated[
        FilePath,
        typer.Option(
            help="Artefact after the change, or a folder of several; with --baseline also a run file."
        ),
    ] = None,
    baseline: Annotated[
        FilePath, typer.Option(help="Run file to compare head with, instead of --base.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            *MODEL, help="Models or groups of the folders, such as A or dnn,gdcn (default all of base)."
        ),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option(*VARIANT, help="Variants, comma-separated (default all that base has exported)."),
    ] = None,
    slates: Slates = None,
    scope: Annotated[
        Literal["forward", "end_to_end", "both"] | None,
        typer.Option(rich_help_panel="Measuring", help="Scopes that are timed (default forward)."),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(*METRIC, help="Metrics, of p50,peak_rss,file_size,accuracy (default all)."),
    ] = None,
    settings: Annotated[dict[str, Any], FromRecord(GateConfig, ("budget",), "Measuring")],
    base_python: Annotated[
        FilePath,
        typer.Option(
            rich_help_panel="Measuring",
            help="Interpreter that measures base: with another rbserve, or another onnxruntime.",
        ),
    ] = None,
    config: Annotated[
        FilePath, typer.Option(help="File of tolerances (default rbserve-check.toml, where it is there).")
    ] = None,
    init: Annotated[bool, typer.Option("--init", help="Write rbserve-check.toml with the defaults.")] = False,
    pytest_benchmark: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="BASE HEAD",
            help="Judge two JSON files of pytest-benchmark instead; comma-separated: several.",
        ),
    ] = None,
    markdown: Annotated[
        FilePath, typer.Option(rich_help_panel=OUTPUT, help="File for a comment on a pull request.")
    ] = None,
    junit: Annotated[FilePath, typer.Option(rich_help_panel=OUTPUT, help="File for JUnit XML.")] = None,
    pytest_benchmark_out: Annotated[
        FilePath,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="File for head's samples as pytest-benchmark writes them; base's beside it.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fail where a changed model is slower, larger or less accurate than before; for CI.

    Compares p50, peak memory, file size and accuracy.

    Exit codes: 0 PASS, 3 REGRESSED, 4 INCONCLUSIVE, 5 MISSING (nothing measured), 6 NOT-COMPARABLE.

    Examples: rbserve check --base main/artifacts/ml-100k --head artifacts/ml-100k --models dnn,gdcn --markdown gate.md;
    rbserve check --head artifacts/ml-100k/dnn --baseline runs/main.json
    """
    from rbserve.core.files import require_writable

    if init:
        _write_config(config)
        return
    check_variants(words(variants))
    gate = with_options(read_config(config), settings)
    for file in filter(None, (markdown, junit, pytest_benchmark_out)):
        require_writable(file.parent)
    if pytest_benchmark:
        if base or head or baseline or pytest_benchmark_out:
            raise UsageError(
                "--pytest-benchmark takes none of --base, --head, --baseline, --pytest-benchmark-out"
            )
        suite = _judge_files(*pytest_benchmark, gate)
    else:
        narrowed = given(
            variants=words(variants) if variants else None,
            slates=counts(slates) if slates is not None else None,
            scope=scope,
            metrics=words(metrics) if metrics else None,
        )
        names = words(models) if models else None
        suite = _measure(base, head, baseline, names, narrowed, gate, base_python, pytest_benchmark_out)
    _tell(suite, markdown, junit, as_json)
    raise typer.Exit(suite.exit_code)


def _write_config(config: Path | None) -> None:
    path = config or Path(CONFIG_FILE)
    write_config(path)
    say(f"wrote {path}")


def _measure(
    base: Path | None,
    head: Path | None,
    baseline: Path | None,
    models: list[str] | None,
    scope: Mapping[str, object],
    config: GateConfig,
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
    outcome = Home().check(before, head, models, config=config, scope=scope, base_python=base_python)
    if samples_to:
        from rbserve.profilers.gate.benchmark_file import write

        beside = write(samples_to, outcome.contenders)
        say(f"samples -> {samples_to}, {beside}")
    return outcome.suite


def _judge_files(base: str, head: str, config: GateConfig) -> Suite:
    from rbserve.profilers.gate.pytest_benchmark import compare

    return compare([Path(file) for file in words(base)], [Path(file) for file in words(head)], config)


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
            f"[{colours.get(verdict, 'yellow')}]{verdict}[/]", *(cell.replace("[", "\\[") for cell in rest)
        )
        if line.reason:
            say(f"{line.verdict} {line.model} {line.name} {line.metric}: {line.reason}")
    show(table)
