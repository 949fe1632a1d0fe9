"""Run files -> reports/<name>/: table.md, table.csv, paper.csv, pareto.png, .svg, figures/, report.html, report.json.

judgings.csv is there where the runs are of several judgings of one source.

report.json is what every other file is drawn from, and stable within one `schema`:

- `schema` 1; `created`: when the newest run was made; `sections`: one for each set of comparable runs;
  `figures`: keys and titles of the figures that the page filters by, and sets a latency target for;
  `overall`: what several data sets have in common, with the fields of `overall.Overall`;
  `judgings`: models under each judging of a source's events, with the fields of `judgings.JudgingTable`;
  `machines`: latencies on each kind of machine, with the fields of `machines.MachineTable`;
  `paper_tables`: those of the paper's Tables 3 to 5 whose task has a run of a model that was not adopted,
  with every row of them.
- A section has the fields of `sections.Section` (data set, task, `metric`, scope, threads, environment,
  `comparability_key`, `slates`, `points`, `baselines`, `paper`, `sources`, `notes`) and, in words,
  `answers` (one a slate: which point to serve, and how sure that is), `absent` (what was not measured, and
  why) and `method`; `metric_titles` and `baseline_titles` say how people read a metric's or a baseline's key.
- A point has the keys of `figures.FIGURES`, and `facts`: the names and texts that the page shows of it. Times are
  milliseconds per call; null is "not measured", never 0.
  `slate` is the number of candidates of a call, or (task seqrec) of the items asked for.
- A table has the fields of `paper_tables.PaperTable`, a row those of `Row`, a cell those of `Cell`: `ours`, or
  `absent`, the reason why there is none.

The same runs give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rbserve.core.errors import DataError
from rbserve.core.files import replacing_directory
from rbserve.core.tasks import TASKS
from rbserve.data.dataset import open_dataset
from rbserve.data.similarity import data_sketch
from rbserve.profilers.compare.answers import answers
from rbserve.profilers.compare.figures import page_choices, point_record
from rbserve.profilers.compare.judgings import judging_tables
from rbserve.profilers.compare.machines import machine_tables
from rbserve.profilers.compare.overall import overalls
from rbserve.profilers.compare.paper import paper_title
from rbserve.profilers.compare.sections import Section, sections
from rbserve.profilers.compare.uncertainty import Evidence
from rbserve.profilers.compare.wording import listing
from rbserve.profilers.report.csv_tables import csv_text, judging_csv, paper_csv
from rbserve.profilers.report.markdown import markdown
from rbserve.profilers.report.page import page
from rbserve.profilers.report.paper_tables import paper_tables
from rbserve.profilers.report.plot import draw
from rbserve.profilers.report.tables import Book, Chapter
from rbserve.runs.changes import display_name
from rbserve.runs.measurement import Measurement
from rbserve.runs.run_file import read_measurement
from rbserve.runs.summary import by_scope
from rbserve.stats.intervals import runs_needed
from rbserve.stats.metrics import metric_title

SCHEMA = 1


def collect(runs: Path) -> list[Measurement]:
    """The newest measurement of every model, config, data set, scope, threads and named kind of machine, a scope each.

    A run of random weights is taken only for a model that has no run of trained weights; a run of a part of the test
    users only for a model that has no run of all. Raises DataError where there is no run, and for a file that is none.
    """
    newest: dict[tuple[str, str, str, int, str], Measurement] = {}
    scopes = (part for path in sorted(runs.glob("*.json")) for part in by_scope(read_measurement(path)))
    for run in scopes:
        key = (run.dataset, display_name(run), run.plan.scope, run.plan.threads, run.environment.kind)
        if key not in newest or _standing(newest[key]) < _standing(run):
            newest[key] = run
    if not newest:
        raise DataError(f"no runs in {runs}", "rbserve profile --model gdcn")
    return [newest[key] for key in sorted(newest)]


def _standing(run: Measurement) -> tuple[bool, bool, str, str]:
    """Sorts the runs of one key: trained before random weights, all test users before a part, then by age."""
    return (not run.random, not run.plan.test_users, run.created, run.id)


def with_sketch(run: Measurement, folder: Path) -> Measurement:
    """The run with sketch and judging of the data set in `folder`, where it lacks one and the data are the same."""
    if (run.data_sketch and run.judging) or not folder.is_dir():
        return run
    try:
        data = open_dataset(folder)
        if data.fingerprint != run.dataset_fingerprint:
            return run
        sketch = run.data_sketch or data_sketch(data)
        return msgspec.structs.replace(run, data_sketch=sketch, judging=data.judging)
    except DataError:  # damaged, or of another version: a report does not need it
        return run


def render(measurements: Sequence[Measurement], folder: Path) -> Path:
    """Writes the files of a report into `folder`, whole or not at all; what was there is replaced."""
    if not measurements:
        raise DataError("no runs in the report", "rbserve profile --model gdcn")
    evidence = Evidence()
    parts = sections(measurements, evidence)
    book = Book(
        chapters=[
            Chapter(part, answers(part, evidence), list(absent(part)), list(method(part))) for part in parts
        ],
        overalls=overalls(parts, evidence),
        judgings=judging_tables(parts),
        machines=machine_tables(parts),
        printed=paper_tables(measurements),
        created=max(run.created for run in measurements),
    )
    report = document(book)
    with replacing_directory(folder) as partial:
        draw(report, partial)
        (partial / "table.md").write_text(markdown(book), encoding="utf-8")
        (partial / "table.csv").write_text(csv_text(parts), encoding="utf-8")
        if book.judgings:
            (partial / "judgings.csv").write_text(judging_csv(book.judgings), encoding="utf-8")
        (partial / "paper.csv").write_text(paper_csv(book.printed), encoding="utf-8")
        (partial / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (partial / "report.html").write_text(page(book, report), encoding="utf-8")
    return folder


def document(book: Book) -> dict[str, Any]:
    """report.json, as the module's docstring describes it."""
    parts = [
        {
            **msgspec.to_builtins(msgspec.structs.replace(chapter.section, points=[])),
            "points": [point_record(point) for point in chapter.section.points],
            "answers": msgspec.to_builtins(chapter.answers),
            "absent": chapter.absent,
            "method": chapter.method,
            "paper_title": paper_title(chapter.section.paper_column),
            "slate_name": chapter.section.slate_name,
            "metric_titles": _metric_titles(chapter.section),
            "baseline_titles": {
                name: chapter.section.baseline_title(name) for name in chapter.section.baselines
            },
        }
        for chapter in book.chapters
    ]
    return {
        "schema": SCHEMA,
        "created": book.created,
        "figures": page_choices(),
        "sections": parts,
        "overall": msgspec.to_builtins(book.overalls),
        "judgings": msgspec.to_builtins(book.judgings),
        "machines": msgspec.to_builtins(book.machines),
        "paper_tables": msgspec.to_builtins(book.printed),
    }


def _metric_titles(section: Section) -> dict[str, str]:
    """How people read the section's metrics, by their keys."""
    keys = [key for point in section.points for key in point.result.accuracy if not key.endswith("_ci95")]
    return {key: metric_title(key, section.task) for key in dict.fromkeys([section.metric, *keys])}


# ---- Words ----


def absent(section: Section) -> Iterator[str]:
    """Sentences that say what was not measured, and why."""
    yield from _absent_variants(section)
    for name, q in (("p90", 0.90), ("p99", 0.99)):
        uncertified = [
            f"{point.label} {section.slate_name} {point.slate} ({point.result.n})"
            for point in section.points
            if getattr(point.result.latency_ms, name) is None
        ]
        if uncertified:
            yield f"{name} of {listing(uncertified)}: fewer than the {runs_needed(q)} timed calls that certify it."
    yield from _absent_accuracies(section)
    unprinted = {point.model for point in section.points if not point.paper or point.paper.latency_ms is None}
    if unprinted:
        yield f"Paper's figures of {listing(sorted(unprinted))}: the paper prints none, or no latency."
    if section.environment.governor is None:
        yield "CPU frequency governor: this machine does not tell it."
    if section.environment.energy_absent:
        yield f"Energy: {section.environment.energy_absent}."
    single = sorted({point.name for point in section.points if point.processes == 1})
    if single:
        yield (
            f"Spread between processes of {listing(single)}: one process was timed, so the intervals of its times and "
            "P(front) are too sure."
        )


def _absent_variants(section: Section) -> Iterator[str]:
    """The variants that were measured of other models of the section, and not of this one."""
    variants = dict.fromkeys(point.variant for point in section.points)
    for source in section.sources:
        measured = {point.variant for point in section.points if point.name == source.name}
        missing: dict[str, list[str]] = {}
        for variant in variants:
            if variant not in measured:
                reason = source.left_out.get(variant, f"not in run {source.run}")
                missing.setdefault(reason, []).append(variant)
        yield from (f"{source.name} {listing(names)}: {reason}." for reason, names in missing.items())


def _absent_accuracies(section: Section) -> Iterator[str]:
    """The models whose accuracy was not measured, and those whose place on the front has no resamples."""
    random = [source.name for source in section.sources if source.random]
    if random:
        yield f"Accuracy of {listing(random)}: random weights, of the true shape for its latency alone."
    unjudged = [
        point.label
        for point in section.points
        if point.value(section.metric) is None and point.name not in random
    ]
    if unjudged:
        yield f"{section.metric_label} of {listing(unjudged)}: not defined on these test rows, or not measured."
    undrawn = dict.fromkeys(
        point.name
        for point in section.points
        if point.on_front is not None and point.front_probability is None
    )
    if undrawn:
        yield (
            f"P(front) of {listing([*undrawn])}: not all runs of that {section.slate_name} kept their raw samples and "
            "scores."
        )


def method(section: Section) -> Iterator[str]:
    """Sentences that say on which machine, in how many calls and on which test rows the figures were measured."""
    points, machine = section.points, section.environment
    isa = ", ".join(machine.isa) or "no instruction set told"
    yield f"Machine: {machine.cpu} ({isa}), {machine.cores} cores, {machine.memory_mb:,} MB, kernel {machine.kernel}."
    processes, runs = _range(point.processes for point in points), _range(point.result.n for point in points)
    yield (
        f"Latency: {runs} timed calls of each variant and {section.slate_name} in {processes} fresh processes, "
        f"threads: {section.threads}, scope: {section.scope}; the first call and the warm-up are kept apart. "
        "The interval of p50 is Student's t over the logarithms of the processes' medians; of one process it resamples "
        "its calls."
    )
    overheads = [point.result.overhead_us for point in points if point.result.overhead_us is not None]
    if overheads:
        yield f"Harness overhead {max(overheads):.2g} us per call, by timing empty calls; nothing is subtracted."
    yield (
        f"Accuracy: the variant that was timed, on {section.rows:,} test rows of {section.users:,} users; its interval "
        "resamples users. Models share these users, so a difference between two is surer than their intervals look: "
        "P(front) and differences redraw the same users for all."
    )
    yield f"Libraries: {', '.join(f'{name} {version}' for name, version in sorted(machine.libraries.items()))}."
    key = f"comparability key {section.comparability_key}"
    yield f"Data: {section.dataset}, fingerprint {section.dataset_fingerprint[:12]}; {key}."
    column = "mean of its five data sets" if section.paper_column == "overall" else section.paper_column
    if TASKS[section.task].ranks:
        seen = "leaving out" if section.exclude_seen else "not leaving out"
        yield f"Ranking: the whole catalogue, never a sample of it, {seen} what the user's history holds."
    yield f"Paper's figures: RecBench, Tables 3 to 5, column {column}; its latencies come from another machine."


def _range(values: Iterator[int]) -> str:
    low, *_, high = [*sorted(values) * 2]
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
