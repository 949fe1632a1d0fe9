"""The paper's Tables 3 to 5 with our figures beside its own: every row, each cell measured or with why it is not.

Below the paper's rows of Tables 4 and 5 stand those beyond the paper that a run measured.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import msgspec

from rbserve.core.tasks import TASKS, Task
from rbserve.core.types import ModelSpec
from rbserve.core.variants import FP32, REFERENCE
from rbserve.home.commands import command
from rbserve.models.zoo import BACKBONES, BEYOND, BEYOND_GROUP, find_model
from rbserve.profilers.compare.paper import (
    PAPER_COLUMNS,
    TABLES,
    TEST_ROWS,
    PrintedRow,
    paper_cautions,
    printed_rows,
)
from rbserve.profilers.compare.wording import DASH
from rbserve.runs.changes import changed, knows_config, options_text
from rbserve.runs.measurement import Measurement, Result
from rbserve.runs.summary import by_scope
from rbserve.stats.intervals import Interval

TRAINED_TABLES = {TABLES[number][1]: number for number in ("4", "5")}
"""The table in which models of a task stand that are fitted to the data set."""
LATENCY_ONLY = "latency only (random weights); "


class Ours(msgspec.Struct, frozen=True):
    """The accuracy of a variant in one of our runs on `rows` test rows, and the command that measures it again.

    `changed` has the options of the config that differ from the row's; it is empty where the run file is too old to
    have the config (`config_known`). `test_users` is the number of test users drawn at random, 0 where all were judged.
    """

    accuracy: float
    ci95: Interval | None
    variant: str
    rows: int
    run: str
    created: str
    dataset_fingerprint: str
    exclude_seen: bool
    users: int
    changed: dict[str, str]
    config_known: bool
    test_users: int
    comparability_key: str
    command: str

    @property
    def marks(self) -> list[str]:
        """How the measured model differs from the paper's row: "changed: vectors=tuned", "500 test users"."""
        return [
            *([f"changed: {options_text(self.changed)}"] if self.changed else []),
            *([f"{self.users:,} test users"] if self.test_users else []),
        ]


class Speed(msgspec.Struct, frozen=True):
    """p50 in ms of a call of the slate (or k) `CALL` has: the fastest variant's, and the reference's if timed."""

    dataset: str
    run: str
    scope: str
    slate: int
    threads: int
    cpu: str
    reference_ms: float | None
    fastest_ms: float
    fastest: str
    n: int
    ci95_ms: Interval
    changed: dict[str, str]
    comparability_key: str
    command: str


class PaperCell(msgspec.Struct, frozen=True):
    """A row on a data set. Without `ours`, `absent` says why, and `command` would measure it, if any command would.

    `ours` is of the row's own config where that was run, else marked with its changed options; `also` has the runs with
    other options. `difference` is ours less the paper's, at its four digits.
    """

    dataset: str
    ours: Ours | None
    also: list[Ours]
    paper: float | None
    difference: float | None
    speed: Speed | None
    absent: str | None
    command: str | None


class PaperTableRow(msgspec.Struct, frozen=True):
    """A row of the zoo; `speed` is that of the first of its data sets that was timed.

    `paper_name` is a dash beyond the paper.
    """

    group: str
    item_form: str
    model: str
    paper_name: str
    cells: list[PaperCell]
    speed: Speed | None
    paper_latency_ms: float | None


class PaperTable(msgspec.Struct, frozen=True):
    """One of the paper's tables: its data sets, then further ones that a row was measured on."""

    table: str
    title: str
    task: str
    metric: str
    datasets: list[str]
    rows: list[PaperTableRow]
    notes: list[str]

    @property
    def call(self) -> str:
        """The size of the requests whose latencies the table has: "slate 1" or "k 10"."""
        return _call(TASKS[self.task])


def _call(task: Task) -> str:
    return f"{task.size_name} {task.default_sizes[0]}"


class Absence(msgspec.Struct, frozen=True):
    """Why a cell has no accuracy, and the command that would measure it, if any would."""

    reason: str
    command: str | None = None


def paper_tables(measurements: Sequence[Measurement]) -> list[PaperTable]:
    """The tables whose task has a run of a model that was not made elsewhere."""
    runs = [part for measurement in measurements for part in by_scope(measurement)]
    tasks = {run.task for run in runs if not run.adopted}
    return [_table(number, runs) for number, (_, task) in TABLES.items() if task in tasks]


def why_absent(spec: ModelSpec, dataset: str, measured: Collection[str]) -> Absence:
    """Why `spec` has no accuracy on a data set; `measured` are the data sets the report has runs of it on."""
    if dataset in measured:
        return Absence("latency only")
    backbone = BACKBONES.get(spec.backbone or "")
    if backbone and not backbone.asset and not measured:
        return Absence(f"needs {backbone.needs}")
    return Absence("not measured", f"rbserve profile --model {spec.name} --dataset {shlex.quote(dataset)}")


def beyond_rows(number: str) -> list[PrintedRow]:
    """The rows beyond the paper that stand below one of its tables: without a figure of the paper."""
    return [
        PrintedRow(number, spec.group, spec.name, DASH, TASKS[spec.task].metric, {}, None)
        for spec in BEYOND
        if TRAINED_TABLES[spec.task] == number
    ]


# ---- Rows and cells ----


def _table(number: str, runs: Sequence[Measurement]) -> PaperTable:
    title, task = TABLES[number]
    printed = [row for row in printed_rows() if row.table == number]
    groups = list(dict.fromkeys(row.group for row in printed))
    printed.sort(key=lambda row: groups.index(row.group))
    measured = {run.model for run in runs}
    printed += [row for row in beyond_rows(number) if row.model in measured]
    names = {row.model for row in printed}
    runs = [run for run in runs if run.model in names]
    datasets = [*PAPER_COLUMNS, *sorted({run.dataset for run in runs} - {*PAPER_COLUMNS})]
    rows = [_row(row, task, datasets, [run for run in runs if run.model == row.model]) for row in printed]
    return PaperTable(
        table=number,
        title=title,
        task=task,
        metric=printed[0].metric,
        datasets=datasets,
        rows=rows,
        notes=[*_notes(task, rows), *paper_cautions(task)],
    )


def _row(
    printed: PrintedRow, task: str, datasets: Sequence[str], runs: Sequence[Measurement]
) -> PaperTableRow:
    cells = [_cell(printed, task, dataset, runs) for dataset in datasets]
    return PaperTableRow(
        group=printed.group,
        item_form=find_model(printed.model).item_form,
        model=printed.model,
        paper_name=printed.paper_name,
        cells=cells,
        speed=next((cell.speed for cell in cells if cell.speed), None),
        paper_latency_ms=printed.latency_ms,
    )


def _cell(printed: PrintedRow, task: str, dataset: str, runs: Sequence[Measurement]) -> PaperCell:
    newest = sorted((run for run in runs if run.dataset == dataset), key=_standing, reverse=True)
    judged = [ours for run in newest if (ours := _ours(run, TASKS[task].metric))]
    best = judged[0] if judged else None
    known = [best.changed] if best else []
    also = []
    for other in judged[1:]:
        if other.changed not in [*known, {}]:
            known.append(other.changed)
            also.append(other)
    model_alone = sorted(
        newest, key=lambda run: run.plan.scope != "forward"
    )  # as the paper times it; else any
    paper = printed.figures.get(dataset)
    random = any(run.random for run in newest)
    measured = {run.dataset for run in runs if not run.random}
    absence = None if best else why_absent(find_model(printed.model), dataset, measured)
    return PaperCell(
        dataset=dataset,
        ours=best,
        also=also,
        paper=paper,
        difference=round(round(best.accuracy, 4) - paper, 4) if best and paper is not None else None,
        speed=next(filter(None, (_speed(run, TASKS[task].default_sizes[0]) for run in model_alone)), None),
        absent=f"{LATENCY_ONLY * random}{absence.reason}" if absence else None,
        command=absence.command if absence else None,
    )


def _standing(run: Measurement) -> tuple[bool, bool, str, str]:
    """Sorts runs: the row's own config before changed options, all test users before a part, then by age."""
    return (not changed(run), not run.plan.test_users, run.created, run.id)


def _ours(run: Measurement, metric: str) -> Ours | None:
    """The accuracy of the first variant of FP32 that has one, else of another; None where the run was only timed."""
    judged = [
        (result, value) for result in run.results if isinstance(value := result.accuracy.get(metric), float)
    ]
    if not judged:
        return None
    best, value = min(judged, key=lambda pair: [*FP32, pair[0].variant].index(pair[0].variant))
    interval = best.accuracy.get(f"{metric}_ci95")
    return Ours(
        accuracy=value,
        ci95=interval if isinstance(interval, tuple) else None,
        variant=best.variant,
        rows=len(run.predictions.users),
        run=run.id,
        created=run.created,
        dataset_fingerprint=run.dataset_fingerprint,
        exclude_seen=run.plan.exclude_seen,
        users=len(set(run.predictions.users)),
        changed=changed(run),
        config_known=knows_config(run),
        test_users=run.plan.test_users,
        comparability_key=run.comparability_key,
        command=command(run),
    )


def _speed(run: Measurement, slate: int) -> Speed | None:
    timed: list[Result] = [result for result in run.results if result.slate == slate]
    if not timed:
        return None
    fastest = min(timed, key=lambda result: result.latency_ms.p50)
    return Speed(
        dataset=run.dataset,
        run=run.id,
        scope=run.plan.scope,
        slate=slate,
        threads=fastest.threads,
        cpu=run.environment.cpu,
        reference_ms=next((result.latency_ms.p50 for result in timed if result.variant == REFERENCE), None),
        fastest_ms=fastest.latency_ms.p50,
        fastest=fastest.variant,
        n=fastest.n,
        ci95_ms=fastest.latency_ms.ci95,
        changed=changed(run),
        comparability_key=run.comparability_key,
        command=command(run),
    )


# ---- Words ----


def _notes(task: str, rows: Sequence[PaperTableRow]) -> Iterator[str]:
    """Sentences below a table: how much of it is measured, of which variants, and in what the runs differ."""
    cells = [cell for row in rows for cell in row.cells]
    measured = [(row.model, cell.dataset, cell.ours) for row in rows for cell in row.cells if cell.ours]
    yield f"{len(measured)} of {len(cells)} cells are measured; the others say why they are not."
    yield (
        f"Ours: the newest run of a row on a data set, of {REFERENCE}, else {FP32[1]}, else the first variant that "
        "has an accuracy. Beside it the paper's figure, and ours less that."
    )
    if beyond := [row.model for row in rows if row.group == BEYOND_GROUP]:
        yield f"Beyond the paper, which has no figures of them: {', '.join(beyond)}."
    if measured:
        usual = Counter(ours.variant for _, _, ours in measured).most_common(1)[0][0]
        others = [
            f"{model} on {dataset} ({ours.variant})"
            for model, dataset, ours in measured
            if ours.variant != usual
        ]
        yield f"The accuracies are of {usual}{', but for ' + ', '.join(others) if others else ''}."
    left_out = [f"{model} on {dataset}" for model, dataset, ours in measured if ours.exclude_seen]
    if left_out:
        yield f"Lists without what the user has seen: {', '.join(left_out)}."
    marked = [
        f"{model} on {dataset} ({', '.join(ours.marks)})" for model, dataset, ours in measured if ours.marks
    ]
    if marked:
        yield f"Not the row as it is: {'; '.join(marked)}."
    unsaid = sum(not ours.config_known for _, _, ours in measured)
    if unsaid:
        yield f"{unsaid} of these runs do not say their config, which is taken to be the row's: profile them again."
    yield from _latency_notes(task, rows)
    if any(cell.command for cell in cells):
        yield (
            "Not measured: rbserve profile --model MODEL --dataset DATASET fills a cell; a data set of the paper has "
            "to be prepared first (rbserve prepare)."
        )
    for name in dict.fromkeys(dataset for _, dataset, _ in measured):
        here = [ours for _, dataset, ours in measured if dataset == name]
        fewest = min(ours.rows for ours in here)
        if any(ours.test_users for ours in here) and not all(ours.test_users for ours in here):
            fewest = min(ours.rows for ours in here if not ours.test_users)
        if name in PAPER_COLUMNS and fewest < TEST_ROWS[task]:
            yield f"{name}: {fewest:,} test rows, where the paper has {TEST_ROWS[task]:,}: not the same test."
        if len({ours.dataset_fingerprint for ours in here}) > 1:
            yield f"{name}: these runs saw different versions of the data; compare within a section above."


def _latency_notes(task: str, rows: Sequence[PaperTableRow]) -> Iterator[str]:
    speeds = [row.speed for row in rows if row.speed]
    where = dict.fromkeys(
        f"{speed.cpu}, {speed.threads} thread{'s' * (speed.threads > 1)}" for speed in speeds
    )
    call = f"{_call(TASKS[task])}, a {'list' if TASKS[task].ranks else 'candidate'} a call"
    if speeds:
        yield (
            f"Our ms: p50 at {call}, of {REFERENCE} where it was timed and of the fastest variant, on the data set in "
            f"brackets; scope forward unless that says otherwise. Measured on {'; '.join(where)}."
        )
    yield "The paper's ms: a sample, on another machine: not comparable with ours."
