"""The verb of the regression gate: `check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rbserve.cli.console import print_json
from rbserve.cli.options import METRIC, MODEL, VARIANT, Json, Slates, given, slates_of, words
from rbserve.cli.records import FromRecord
from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError
from rbserve.core.options import with_options
from rbserve.core.variants import check_variants
from rbserve.profilers.gate.config import CONFIG_FILE, GateConfig, Tolerance, read_config, write_config
from rbserve.progress import say

if TYPE_CHECKING:
    from rbserve.profilers.gate.rounds import GateOutcome
    from rbserve.profilers.gate.verdict import Suite

FilePath = Path | None
FILES = "Two model files and a table"
ADOPT_FIELDS = ("label", "group", "user", "slate_dim", "score")
OUTPUT = "Output"


def check(
    *,
    base: Annotated[
        FilePath,
        typer.Option(
            help="Artefact before the change, or a folder (or home) of several; with --requests a model's file."
        ),
    ] = None,
    head: Annotated[
        FilePath,
        typer.Option(
            help="Artefact after the change, or a folder of several; with --baseline also a run file, with --requests "
            "a model's file."
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
        typer.Option(
            *METRIC,
            help="Metrics, of p50,peak_rss,file_size,accuracy (default these four), or your own MODULE:FUNCTION.",
        ),
    ] = None,
    tolerance: Annotated[
        dict[str, Any], FromRecord(Tolerance, ("own",), "Measuring", {"own": "--metric-tolerance"})
    ],
    settings: Annotated[dict[str, Any], FromRecord(GateConfig, ("budget",), "Measuring")],
    requests: Annotated[
        FilePath,
        typer.Option(
            rich_help_panel=FILES,
            help="Table of requests (Parquet, CSV, JSON lines) on which --base and --head, two models' files as "
            "rbserve adopt takes them, are compared.",
        ),
    ] = None,
    adoption: Annotated[dict[str, Any], FromRecord(AdoptOptions, ADOPT_FIELDS, FILES)],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="INPUT=COLUMN,…",
            rich_help_panel=FILES,
            help="Columns that fill an input, in the order of its last dimension; may be repeated.",
        ),
    ] = None,
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
    rbserve check --head artifacts/ml-100k/dnn --baseline runs/main.json; rbserve check --base a.onnx --head b.onnx
    --requests r.parquet --label click --group query
    """
    from rbserve.core.files import require_writable

    if init:
        _write_config(config)
        return
    check_variants(words(variants))
    gate = with_options(read_config(config), settings)
    gate = with_options(gate, {"tolerance": with_options(gate.tolerance, tolerance)})
    for file in filter(None, (markdown, junit, pytest_benchmark_out)):
        require_writable(file.parent)
    adoption = adoption | given(map=tuple(mapping) if mapping else None)
    if adoption and requests is None:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in adoption)
        raise UsageError(
            f"{flags} without --requests says nothing", "--requests TABLE, with two models' files"
        )
    if pytest_benchmark:
        if base or head or baseline or requests or pytest_benchmark_out:
            raise UsageError(
                "--pytest-benchmark takes none of --base, --head, --baseline, --requests, --pytest-benchmark-out"
            )
        suite = _judge_files(*pytest_benchmark, gate)
    else:
        narrowed = given(
            variants=words(variants) if variants else None,
            slates=slates_of(slates) if slates is not None else None,
            scope=scope,
            metrics=words(metrics) if metrics else None,
        )
        names = words(models) if models else None
        if requests is not None:
            outcome = _measure_files(
                base, head, requests, adoption, baseline, names, narrowed, gate, base_python
            )
        else:
            outcome = _measure(base, head, baseline, names, narrowed, gate, base_python)
        _write_samples(outcome, pytest_benchmark_out)
        suite = outcome.suite
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
) -> GateOutcome:
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
    return Home().check(before, head, models, config=config, scope=scope, base_python=base_python)


def _measure_files(
    base: Path | None,
    head: Path | None,
    requests: Path,
    adoption: Mapping[str, object],
    baseline: Path | None,
    models: list[str] | None,
    scope: Mapping[str, object],
    config: GateConfig,
    base_python: Path | None,
) -> GateOutcome:
    from rbserve.pipeline.home import Home

    if base is None or head is None or baseline or models:
        raise UsageError(
            "--requests takes --base and --head, two models' files, and neither --baseline nor --models",
            "--base a.onnx --head b.onnx --requests r.parquet --label click",
        )
    return Home().check_files(
        str(base), str(head), requests, options=adoption, config=config, scope=scope, base_python=base_python
    )


def _write_samples(outcome: GateOutcome, path: Path | None) -> None:
    if path:
        from rbserve.profilers.gate.benchmark_file import write

        beside = write(path, outcome.contenders)
        say(f"samples -> {path}, {beside}")


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
    for note in suite.notes:
        say(f"note: {note}")
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
