"""The verb of the regression gate: `check`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from msgspec import Meta

from rbserve.cli.console import print_json
from rbserve.cli.options import METRIC, MODEL, VARIANT, Json, Slates, given, slates_of, words
from rbserve.cli.records import FromRecord
from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError
from rbserve.core.options import Options, with_options
from rbserve.core.variants import check_variants
from rbserve.profilers.gate.config import CONFIG_FILE, GateConfig, Tolerance, read_config, write_config
from rbserve.progress import say

if TYPE_CHECKING:
    from rbserve.profilers.gate.rounds import GateOutcome
    from rbserve.profilers.gate.verdict import Suite

ADOPT_FIELDS = ("label", "group", "user", "slate_dim", "score")
FILES, MEASURING, OUTPUT = "Two model files and a table", "Measuring", "Output"


@dataclass(frozen=True)
class CheckedPaths(Options):
    """What is compared, and who measures base."""

    base: Annotated[
        Path | None,
        Meta(
            description="Artefact before the change, or a folder (or home) of several; with --requests a model's file."
        ),
    ] = None
    head: Annotated[
        Path | None,
        Meta(
            description="Artefact after the change, or a folder of several; with --baseline also a run file, with "
            "--requests a model's file."
        ),
    ] = None
    baseline: Annotated[
        Path | None, Meta(description="Run file to compare head with, instead of --base.")
    ] = None
    base_python: Annotated[
        Path | None,
        Meta(
            description="Interpreter that measures base: with another rbserve, or another onnxruntime.",
            extra={"note": "this one"},
        ),
    ] = None
    requests: Annotated[
        Path | None,
        Meta(
            description="Table of requests (Parquet, CSV, JSON lines) on which --base and --head, two models' files as "
            "rbserve adopt takes them, are compared."
        ),
    ] = None


@dataclass(frozen=True)
class Outputs(Options):
    """Files for CI."""

    markdown: Annotated[Path | None, Meta(description="File for a comment on a pull request.")] = None
    junit: Annotated[Path | None, Meta(description="File for JUnit XML.")] = None
    pytest_benchmark_out: Annotated[
        Path | None,
        Meta(description="File for head's samples as pytest-benchmark writes them; base's beside it."),
    ] = None

    def require_writable(self) -> None:
        """Raises RbserveError where one of the files could not be written."""
        from rbserve.core.files import require_writable

        for file in filter(None, (self.markdown, self.junit, self.pytest_benchmark_out)):
            require_writable(file.parent)


@dataclass(frozen=True)
class CheckCommand:
    """Two sides as the command names them, what is compared of them, and how it is judged."""

    sides: CheckedPaths
    models: list[str] | None
    scope: Mapping[str, object]
    adoption: Mapping[str, object]
    config: GateConfig

    def measure(self) -> GateOutcome:
        """Measures and judges. Raises UsageError for sides that do not go together."""
        if self.sides.requests is not None:
            return self._measure_files(self.sides.requests)
        if self.adoption:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in self.adoption)
            raise UsageError(
                f"{flags} without --requests says nothing", "--requests TABLE, with two models' files"
            )
        return self._measure_artifacts()

    def _measure_artifacts(self) -> GateOutcome:
        from rbserve.pipeline.home import Home

        base, head, baseline = self.sides.base, self.sides.head, self.sides.baseline
        before = base or baseline
        if head is None or before is None or (base and baseline):
            raise UsageError(
                "give --head, and either --base or --baseline",
                "--base main/artifacts/ml-100k/dnn --head artifacts/ml-100k/dnn, or --baseline runs/ID.json",
            )
        if baseline and not baseline.is_file():
            raise UsageError(
                f"--baseline takes a run file, not {baseline}", "rbserve profile writes runs/ID.json"
            )
        return Home().check(
            before,
            head,
            self.models,
            config=self.config,
            scope=self.scope,
            base_python=self.sides.base_python,
        )

    def _measure_files(self, table: Path) -> GateOutcome:
        from rbserve.pipeline.home import Home

        base, head = self.sides.base, self.sides.head
        if base is None or head is None or self.sides.baseline or self.models:
            raise UsageError(
                "--requests takes --base and --head, two models' files, and neither --baseline nor --models",
                "--base a.onnx --head b.onnx --requests r.parquet --label click",
            )
        return Home().check_files(
            str(base), str(head), table, options=self.adoption, config=self.config, scope=self.scope,
            base_python=self.sides.base_python,
        )  # fmt: skip


def check(
    *,
    sides: Annotated[dict[str, Any], FromRecord(CheckedPaths, ("base", "head", "baseline"))],
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
        typer.Option(rich_help_panel=MEASURING, help="Scopes that are timed (default forward)."),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            *METRIC,
            help="Metrics, of p50,peak_rss,file_size,accuracy (default these four), or your own MODULE:FUNCTION.",
        ),
    ] = None,
    tolerance: Annotated[
        dict[str, Any], FromRecord(Tolerance, ("own",), MEASURING, {"own": "--metric-tolerance"})
    ],
    settings: Annotated[dict[str, Any], FromRecord(GateConfig, ("budget",), MEASURING)],
    table: Annotated[dict[str, Any], FromRecord(CheckedPaths, ("requests",), FILES)],
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
    python: Annotated[dict[str, Any], FromRecord(CheckedPaths, ("base_python",), MEASURING)],
    config: Annotated[
        Path | None, typer.Option(help="File of tolerances (default rbserve-check.toml, where it is there).")
    ] = None,
    init: Annotated[bool, typer.Option("--init", help="Write rbserve-check.toml with the defaults.")] = False,
    pytest_benchmark: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="BASE HEAD",
            help="Judge two JSON files of pytest-benchmark instead; comma-separated: several.",
        ),
    ] = None,
    outputs: Annotated[Outputs, FromRecord(Outputs, panel=OUTPUT)],
    as_json: Json = False,
) -> None:
    """Fail where a changed model is slower, larger or less accurate than before; for CI.

    Compares p50, peak memory, file size and accuracy.

    Exit codes: 0 PASS, 3 REGRESSED, 4 INCONCLUSIVE, 5 MISSING (nothing measured), 6 NOT-COMPARABLE.

    Examples: rbserve check --base main/artifacts/ml-100k --head artifacts/ml-100k --models dnn,gdcn --markdown gate.md;
    rbserve check --head artifacts/ml-100k/dnn --baseline runs/main.json; rbserve check --base a.onnx --head b.onnx
    --requests r.parquet --label click --group query
    """
    if init:
        _write_config(config)
        return
    check_variants(words(variants))
    gate = with_options(read_config(config), settings)
    gate = with_options(gate, {"tolerance": with_options(gate.tolerance, tolerance)})
    outputs.require_writable()
    named = sides | table | python
    if pytest_benchmark:
        if named.keys() - {"base_python"} or adoption or mapping or outputs.pytest_benchmark_out:
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
        adoption |= given(map=tuple(mapping) if mapping else None)
        outcome = CheckCommand(
            CheckedPaths(**named), words(models) if models else None, narrowed, adoption, gate
        ).measure()
        _write_samples(outcome, outputs.pytest_benchmark_out)
        suite = outcome.suite
    _tell(suite, outputs, as_json)
    raise typer.Exit(suite.exit_code)


def _write_config(config: Path | None) -> None:
    path = config or Path(CONFIG_FILE)
    write_config(path)
    say(f"wrote {path}")


def _write_samples(outcome: GateOutcome, path: Path | None) -> None:
    if path:
        from rbserve.profilers.gate.benchmark_file import write

        beside = write(path, outcome.contenders)
        say(f"samples -> {path}, {beside}")


def _judge_files(base: str, head: str, config: GateConfig) -> Suite:
    from rbserve.profilers.gate.pytest_benchmark import compare

    return compare([Path(file) for file in words(base)], [Path(file) for file in words(head)], config)


def _tell(suite: Suite, outputs: Outputs, as_json: bool) -> None:
    from rbserve.core.files import write_bytes
    from rbserve.profilers.gate import findings

    if outputs.markdown:
        write_bytes(outputs.markdown, findings.markdown(suite).encode())
    if outputs.junit:
        write_bytes(outputs.junit, findings.junit(suite))
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
