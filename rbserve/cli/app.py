"""The command line: thin verbs that parse, call one function of the pipeline, and print.

Data goes to standard output (`--json` where it makes sense), messages and progress to standard error.
Exit codes: 0 done, 1 failure, 2 usage, 130 interrupted; `check` adds one for each verdict.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, NoReturn

import typer
from typer.exceptions import TyperException

from rbserve.cli.bench import bench
from rbserve.cli.check import check
from rbserve.cli.console import print_json
from rbserve.cli.data import Json, datasets, prepare
from rbserve.cli.distill import distill
from rbserve.cli.doctor import doctor
from rbserve.cli.items import items
from rbserve.cli.load import load, verify
from rbserve.cli.options import (
    DATASET,
    MODEL,
    SLATE,
    VARIANT,
    Batch,
    DatasetNames,
    EpochRows,
    Epochs,
    LearningRate,
    Many,
    MicroBatch,
    Model,
    Models,
    Out,
    Patience,
    Precision,
    Resume,
    Schedule,
    Seed,
    Set,
    counts,
    dataset_names,
    given,
    model_names,
    only,
    options,
    words,
)
from rbserve.cli.recommend import recommend
from rbserve.cli.serve import serve
from rbserve.cli.sids import sids
from rbserve.core.errors import UNENDING, Interrupted, RbserveError, UsageError, memory_told
from rbserve.core.files import file_error
from rbserve.core.variants import check_precisions, check_variants
from rbserve.progress import say

if TYPE_CHECKING:
    from rbserve.home.target import ModelName
    from rbserve.runs.measurement import Measurement

app = typer.Typer(
    name="rbserve",
    help="Which recommender should I serve on my CPUs, at what precision, and what accuracy do I give up?",
    epilog="Start with: rbserve profile --model gdcn",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(datasets, name="datasets")
app.add_typer(items, name="items")
app.command()(prepare)
app.command()(sids)
app.command()(distill)
app.command()(bench)
app.command()(doctor)
app.command()(check)
app.command()(recommend)
app.command()(serve)
app.command()(load)
app.command()(verify)

Weights = Annotated[
    Literal["learnt", "random"],
    typer.Option(
        help="random: the model at its true size, nothing learnt or downloaded, for its latency alone."
    ),
]


def main() -> NoReturn:
    """Entry point: every user mistake becomes one line and a hint, never a traceback."""
    try:
        with memory_told("working", "a smaller row, or a machine with more memory"):
            code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except RbserveError as error:
        _fail(error.message, error.hint, error.exit_code)
    except TyperException as error:
        _fail(error.format_message(), "--help shows how", getattr(error, "exit_code", 2))
    except OSError as error:
        told = file_error(error)
        _fail(told.message, told.hint, told.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", None, 130)


@app.command()
def models(
    group: Annotated[
        list[str] | None,
        typer.Option("--group", *MODEL, help="Only these groups or rows, such as A or A,C."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List every model of the paper's Tables 3 to 5, and what each needs; below them the students that were distilled.

    Example: rbserve models --group A
    """
    from rbserve.home.students import student_rows
    from rbserve.models.zoo import MODELS, select_models

    chosen = select_models(",".join(group)) if group else MODELS
    rows: list[dict[str, object]] = [
        {
            "name": spec.name,
            "group": spec.group,
            "task": spec.task,
            "item_form": spec.item_form,
            "paper_name": spec.paper_name,
            "recipe": spec.recipe,
            "backbone": spec.backbone,
            "runnable": True,  # every row is, and readers of this document may ask
            "needs": spec.needs,
        }
        for spec in chosen
    ]
    rows += student_rows({spec.name: spec for spec in chosen})
    if as_json:
        print_json(rows)
        return
    from rbserve.cli.console import models_table, show

    show(models_table(rows))


@app.command()
def backbones(as_json: Json = False) -> None:
    """List the language models that a recipe takes by name: shape, licence, where its weights come from.

    Example: rbserve backbones; any other one is given as rbserve train --model text --backbone HUB_ID|DIRECTORY
    """
    from rbserve.models.shapes import SHAPES
    from rbserve.models.zoo import BACKBONES

    rows: list[dict[str, object]] = [
        {
            "name": one.name,
            "hub_id": one.hub_id,
            "architecture": one.architecture,
            "billion_parameters": one.parameters,
            "licence": one.licence,
            "paper": one.paper,
            "needs": one.needs,
            "shape": SHAPES.get(one.name),
        }
        for one in BACKBONES.values()
    ]
    if as_json:
        print_json(rows)
        return
    from rbserve.cli.console import backbones_table, show

    show(backbones_table(rows))


@app.command()
def train(
    model: Models = None,
    many: Many = None,
    dataset: DatasetNames = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="A language model (name, hub id or directory); --model is then a recipe, such as text."
        ),
    ] = None,
    option: Set = None,
    api_base: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Of zeroshot-gpt-3.5: the OpenAI-compatible endpoint to ask."),
    ] = None,
    out: Out = None,
    epochs: Epochs = None,
    epoch_rows: EpochRows = None,
    batch: Batch = None,
    micro_batch: MicroBatch = None,
    lr: LearningRate = None,
    patience: Patience = None,
    seed: Seed = None,
    precision: Precision = None,
    schedule: Schedule = None,
    weights: Weights = "learnt",
    init: Annotated[
        str | None,
        typer.Option(
            metavar="ARTEFACT",
            help="Begin with the weights and config of this artefact (a directory, or a row of the data set); items "
            "are matched by id.",
        ),
    ] = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Fit a model; stop it with Ctrl-C and continue with --resume. --init continues an artefact on new data.

    Examples: rbserve train --model gdcn --dataset ml-100k --set dim=32 --out artifacts/ml-100k/gdcn-32

    rbserve train --model gdcn --dataset shop-today --init artifacts/shop/gdcn --epochs 3
    """
    from rbserve.pipeline.home import Home

    settings = given(
        epochs=epochs, batch=batch, lr=lr, patience=patience, seed=seed, epoch_rows=epoch_rows,
        precision=precision, schedule=schedule, micro_batch=micro_batch,
    )  # fmt: skip
    changes = options(option)

    chosen = _chosen(model, many, dataset, recipe=backbone is not None)
    if (len(chosen.pairs) > 1 or many) and (out or resume or option or backbone or api_base or init):
        raise UsageError(
            "--models takes none of --out, --set, --backbone, --api-base, --init, --resume",
            "train the models one by one",
        )

    def train_one(name: str | ModelName, data: str) -> object:
        return Home().train(
            name, data, settings=settings, config=changes, out=out, resume=resume, backbone=backbone,
            api_base=api_base, random=weights == "random", init=init,
        ).manifest  # fmt: skip

    _for_each(chosen, train_one, as_json)


@app.command()
def export(
    model: Model,
    dataset: DatasetNames = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision", "--precisions", help="Comma-separated: fp32,int8 unasked; int4 of language models."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write ONNX files and check that they score like the trained model.

    Example: rbserve export --model gdcn --precision fp32,int8
    """
    from rbserve.pipeline.home import Home

    precisions = words(precision) or ["fp32", "int8"]
    check_precisions(precisions)

    def export_one(name: str | ModelName, data: str) -> object:
        return Home().export(name, data, precisions).manifest.variants

    _for_each(_chosen(model, None, dataset), export_one, as_json)


@app.command()
def profile(
    model: Models = None,
    many: Many = None,
    dataset: DatasetNames = None,
    variants: Annotated[
        list[str] | None, typer.Option(*VARIANT, help="Comma-separated, such as torch-fp32,onnx-int8.")
    ] = None,
    slates: Annotated[
        list[str] | None,
        typer.Option(
            *SLATE, help="Candidates per call (1,100), or items to ask for where a model ranks all (10)."
        ),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            help="forward (rows of the item table), end_to_end (raw ids) or both; both where a model ranks all."
        ),
    ] = None,
    warm: Annotated[
        bool,
        typer.Option("--warm", help="Also of users whom a language model remembers from a request before."),
    ] = False,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Leave a history's own items out of its ranking.")
    ] = False,
    threads: Annotated[
        list[str] | None,
        typer.Option(help="Threads, each on a core of its own, 1; 1,2 measures with one and with two."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Plan processes and runs so that the profile of a model takes about so long.",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Fresh processes a variant: 5; of an endpoint 1.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(help="Timed calls a process and slate: 200; of an endpoint 50.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="At most so many seconds of them: 10; of an endpoint 60.")
    ] = None,
    test_users: Annotated[
        int, typer.Option(help="Accuracy of so many test users, drawn at random, instead of all (0).")
    ] = 0,
    cost: Annotated[
        bool,
        typer.Option("--cost/--no-cost", help="Operations and bytes of a call beside this machine's limits."),
    ] = True,
    weights: Weights = "learnt",
    as_json: Json = False,
) -> None:
    """Measure latency and accuracy of each variant of a model, making what is missing.

    Examples: rbserve profile --model gdcn --slates 1,100; rbserve profile --model sasrec-3l --slates 10 --exclude-seen
    """
    from rbserve.pipeline.home import Home
    from rbserve.runs.measurement import check_scope
    from rbserve.runs.run_file import public

    if scope is not None:
        check_scope(scope)
    if budget is not None and (runs is not None or seconds is not None):
        raise UsageError(
            "--budget plans the runs; it takes neither --runs nor --seconds", "give one or the other"
        )
    chosen_plan = given(
        slates=counts(slates) if slates is not None else None, scope=scope,
        processes=processes, runs=runs, seconds=seconds, budget_s=budget,
    )  # fmt: skip
    settings = chosen_plan | {
        "exclude_seen": exclude_seen,
        "test_users": test_users,
        "cost": cost,
        "warm": warm,
    }
    thread_counts = counts(threads if threads is not None else "1", "threads", "1,2")
    named = words(variants) or None
    check_variants(named or [])
    lost: dict[str, str] = {}

    def profile_one(name: str | ModelName, data: str) -> object:
        documents = []
        for count in thread_counts:
            plan = settings | {"threads": count}
            measurement = Home().profile(name, data, plan=plan, variants=named, random=weights == "random")
            if not as_json:
                _show_results(measurement)
            documents.append(public(measurement))
            lost.update({f"{name} {variant}": why for variant, why in measurement.failed.items()})
        return documents if len(thread_counts) > 1 else documents[0]

    _for_each(_chosen(model, many, dataset), profile_one, as_json)
    if lost:
        raise RbserveError(
            "; ".join(f"{variant}: {why}" for variant, why in lost.items()),
            "the other variants were measured, and their run is kept",
        )


@app.command()
def report(
    name: Annotated[str, typer.Option(help="Folder below reports/.")] = "latest",
    dataset: Annotated[
        list[str] | None, typer.Option(*DATASET, help="Only the runs on these data sets; all of them.")
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of run files; runs/ when left out.")] = None,
    as_json: Json = False,
) -> None:
    """Draw the accuracy-vs-latency front of the newest profile of every model.

    Example: rbserve report --name ml-100k
    """
    from rbserve.pipeline.home import Home

    folder = Home().report(name, datasets=words(dataset), runs=runs)
    files = sorted(str(file) for file in folder.rglob("*") if file.is_file())
    if as_json:
        print_json({"folder": str(folder), "files": files})
        return
    say(f"report -> {folder / 'report.html'}")


class _Chosen(NamedTuple):
    """Models, each with a data set, and whether a command prints a list of documents for them."""

    pairs: list[tuple[str | ModelName, str]]
    as_list: bool


def _chosen(
    model: list[str] | None, many: list[str] | None, dataset: list[str] | None, recipe: bool = False
) -> _Chosen:
    """What --model and --models name, on each of the data sets; `recipe`: --model is the name of one."""
    given = [*(model or []), *(many or [])]
    if not given:
        raise UsageError("give --model", "--model gdcn")
    names: Sequence[str | ModelName] = [only(words(given), "--model")] if recipe else model_names(given)
    pairs = [(name, data) for data in dataset_names(dataset) for name in names]
    return _Chosen(pairs, many is not None or len(pairs) > 1)


def _for_each(chosen: _Chosen, work: Callable[[str | ModelName, str], object], as_json: bool) -> None:
    """Works on each model, and prints what comes back as JSON if asked to.

    One of many that fails is reported and does not stop the rest; the command then fails at its end.
    """
    if not chosen.as_list:
        document = work(*chosen.pairs[0])
        if as_json:
            print_json(document)
        return
    documents: list[object] = []
    failed: list[str] = []
    several = len({data for _, data in chosen.pairs}) > 1
    for name, data in chosen.pairs:
        title = f"{name} on {data}" if several else str(name)
        try:
            documents.append(work(name, data))
        except Interrupted:
            raise
        except RbserveError as error:
            failed.append(title)
            say(f"error: {title}: {error.message}")
    if as_json:
        print_json(documents)
    if failed:
        raise RbserveError(f"{len(failed)} of {len(chosen.pairs)} models failed: {', '.join(failed)}")


def _show_results(measurement: Measurement) -> None:
    from rbserve.cli.console import results_table, show

    show(results_table(measurement))


def _fail(message: str, hint: str | None, code: int) -> NoReturn:
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")
    if code == Interrupted.exit_code and any(
        thread.name.startswith(UNENDING) for thread in threading.enumerate()
    ):
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
