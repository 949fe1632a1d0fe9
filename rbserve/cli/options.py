"""Options that several verbs have, and what their values mean.

A notion has one spelling over all commands: `--model`, `--dataset`, `--variant`, `--slate`, each with its plural as an
alias. Each takes a name, a comma-separated list, or is given more than once; a command that works on one says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from rbserve.cli.records import FromRecord
from rbserve.core.errors import UsageError
from rbserve.core.names import DEFAULT_DATASET
from rbserve.core.options import option_fields
from rbserve.core.settings import Settings
from rbserve.core.variants import INDEXES
from rbserve.runs.plan import TABLE, Plan, Slate

if TYPE_CHECKING:
    from rbserve.home.target import ModelName

Value = TypeVar("Value")

MODEL = ("--model", "--models", "-m")
DATASET = ("--dataset", "--datasets", "-d")
VARIANT = ("--variant", "--variants")
SLATE = ("--slate", "--slates")
METRIC = ("--metric", "--metrics")

OwnMetrics = Annotated[
    list[str] | None,
    typer.Option(
        *METRIC,
        metavar="MODULE:FUNCTION",
        help="Metrics of your own: functions of (labels, scores, users) that return a number, of which more is better; "
        "of models that score candidates.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Model = Annotated[
    list[str],
    typer.Option(*MODEL, help="A zoo row (see rbserve models), an adopted model or an artefact's directory."),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", "-m",
        help="Zoo rows (see rbserve models), adopted models, artefacts' directories, groups or all: gdcn; A,C; A-H. "
        "--models is the same, and prints a list with --json.",
    ),
]  # fmt: skip
Many = Annotated[list[str] | None, typer.Option("--models", hidden=True)]
Trained = Annotated[
    list[str] | None,
    typer.Option(
        *DATASET,
        help=f"Data set that a zoo row was trained on (default the only one, or {DEFAULT_DATASET}).",
    ),
]
DatasetName = Annotated[
    list[str] | None,
    typer.Option(*DATASET, help=f"Data set (see rbserve datasets; default {DEFAULT_DATASET})."),
]
DatasetNames = Annotated[
    list[str] | None,
    typer.Option(
        *DATASET, help=f"Data sets, comma-separated (see rbserve datasets; default {DEFAULT_DATASET})."
    ),
]
Indexes = Annotated[
    list[str] | None,
    typer.Option(
        "--index", "--indexes",
        help=f"Indexes over the item vectors of a model that ranks, comma-separated: {', '.join(INDEXES)}; found items "
        "are nearest neighbours of the user (default none: every item is scored).",
    ),
]  # fmt: skip
Weights = Annotated[
    Literal["learnt", "random"],
    typer.Option(
        help="random: the model at its true size, nothing learnt or downloaded, to measure its latency alone."
    ),
]
Url = Annotated[str, typer.Option(help="Address of the server, such as http://127.0.0.1:8000.")]
Runs = Annotated[Path | None, typer.Option(help="Folder of run files (default runs/).")]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Store, such as s3://bucket/rbserve or file:///mnt/store (default that of RBSERVE_STORE).",
    ),
]
StoredNames = Annotated[
    list[str] | None,
    typer.Argument(
        help="Models, or names such as data/microlens, runs/ID and bench/NAME.", metavar="[NAME]..."
    ),
]

# Of commands that measure.
_plan = option_fields(Plan)
Slates = Annotated[
    list[str] | None,
    typer.Option(*SLATE, help=_plan["slates"].help(_plan["slates"].default), rich_help_panel="Measuring"),
]
Scope = Annotated[
    Literal["forward", "end_to_end", "both"] | None,
    typer.Option(help=_plan["scope"].help(_plan["scope"].default), rich_help_panel="Measuring"),
]

# Of commands that train.
Training = Annotated[
    dict[str, Any],
    FromRecord(Settings, panel="Training (rbserve models show MODEL: the defaults of a model)"),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change an option of the model's config (see rbserve models show MODEL); may be repeated.",
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="Directory of the artefact (default artifacts/DATASET/MODEL).")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a training that was stopped or killed.")]

CLUSTER = "More than one machine"
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Where the work is done: this machine, or a Ray cluster.", rich_help_panel=CLUSTER),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Ray cluster (default RAY_ADDRESS, else one is started on this machine).",
        rich_help_panel=CLUSTER,
    ),
]

Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes of a training on a Ray cluster, which share each batch (default one a node).",
        min=1,
        rich_help_panel=CLUSTER,
    ),
]


def without_options(line: Sequence[str], names: Collection[str]) -> list[str]:
    """The words of a command line without some options, each of which has a value."""
    words: list[str] = []
    skip = False
    for word in line:
        if skip or word in names:
            skip = not skip
        elif word.partition("=")[0] not in names:
            words.append(word)
    return words


def given(**values: object) -> dict[str, object]:
    """The options that the user gave: those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def config_changes(pairs: list[str] | None) -> dict[str, str]:
    """The changes of --set KEY=VALUE as a mapping."""
    changes: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes KEY=VALUE, not {pair}", "for example --set dim=32")
        changes[key.strip()] = value.strip()
    return changes


def words(values: str | Iterable[str] | None) -> list[str]:
    """The parts of comma-separated options, each once, in their order."""
    texts = [values] if isinstance(values, str) else values or []
    parts = [part.strip() for text in texts for part in text.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def counts(values: str | Iterable[str], name: str = "slates", example: str = "1,100") -> list[int]:
    """The comma-separated positive integers of the option --NAME, sorted, each once."""
    parts = words(values)
    numbers = sorted({int(part) for part in parts if part.isdecimal() and part.isascii()})
    if not numbers or numbers[0] < 1 or not all(part.isdecimal() and part.isascii() for part in parts):
        raise UsageError(
            f"{name} must be whole numbers, not {', '.join(parts) or 'nothing'}",
            f"for example --{name} {example}",
        )
    return numbers


def slates_of(values: str | Iterable[str]) -> list[Slate]:
    """The comma-separated slates of --slates, each once: positive integers, and `table` before them."""
    parts = words(values)
    sizes = [part for part in parts if part != TABLE]
    return [TABLE, *(counts(sizes) if sizes else [])] if TABLE in parts else [*counts(parts)]


def only(values: Sequence[Value], option: str) -> Value:
    """The value of an option that takes a single one; UsageError for a list."""
    if len(values) != 1:
        listed = ", ".join(map(str, values)) or "nothing"
        raise UsageError(f"{option} takes one here, not {listed}", "run the command once for each")
    return values[0]


def only_count(values: list[str] | None, option: str) -> int | None:
    """The positive integer of an option that takes a single one; None where it was not given."""
    name = option.removeprefix("--")
    return None if values is None else only(counts(values, name, "100"), option)


def only_slate(values: list[str] | None) -> Slate | None:
    """The slate of an option that takes a single one, a positive integer or `table`; None where it was not given."""
    return None if values is None else only(slates_of(values), "--slate")


def dataset_names(values: list[str] | None) -> list[str]:
    """The data sets of --dataset, or the default one."""
    if values is None:
        return [DEFAULT_DATASET]
    names = words(values)
    if not names:
        raise UsageError("no data set is selected", "for example --datasets ml-100k,microlens")
    return names


def dataset_name(values: list[str] | None) -> str:
    """The data set of a command that takes a single one."""
    return only(dataset_names(values), "--dataset")


def model_names(values: Iterable[str] | None) -> list[ModelName]:
    """The models of --model, each once: rows, groups of rows, students, directories. UsageError for no model."""
    from rbserve.home.target import parse_models

    names = parse_models(values or [])
    if not names:
        raise UsageError("no model is selected", "for example --model gdcn")
    return names


def model_name(values: Iterable[str]) -> ModelName:
    """The model of a command that takes a single one."""
    return only(model_names(values), "--model")
