"""Options that several verbs have, and what their values mean.

A notion has one spelling over all commands: `--model`, `--dataset`, `--variant`, `--slate`, each with its plural as an
alias. Each takes a name, a comma-separated list, or is given more than once; a command that works on one says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from rbserve.core.errors import UsageError
from rbserve.home.paths import DEFAULT_DATASET

if TYPE_CHECKING:
    from rbserve.home.target import ModelName

Value = TypeVar("Value")

MODEL = ("--model", "--models", "-m")
DATASET = ("--dataset", "--datasets", "-d")
VARIANT = ("--variant", "--variants")
SLATE = ("--slate", "--slates")
METRIC = ("--metric", "--metrics")

Model = Annotated[
    list[str], typer.Option(*MODEL, help="A zoo row (see rbserve models) or an artefact's directory.")
]
Trained = Annotated[
    list[str] | None,
    typer.Option(
        *DATASET,
        help=f"The data set that a row is trained on; the only one, or {DEFAULT_DATASET}, when left out.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", "-m",
        help="Zoo rows (see rbserve models), artefacts' directories, groups or all: gdcn; dnn,gdcn; A,C; A-H. "
        "--models is the same, and prints a list with --json.",
    ),
]  # fmt: skip
Many = Annotated[list[str] | None, typer.Option("--models", hidden=True)]
DatasetName = Annotated[
    list[str] | None,
    typer.Option(*DATASET, help=f"A data set (see rbserve datasets); {DEFAULT_DATASET}."),
]
DatasetNames = Annotated[
    list[str] | None,
    typer.Option(*DATASET, help=f"Data sets (see rbserve datasets), comma-separated; {DEFAULT_DATASET}."),
]  # fmt: skip

# Of those that train.
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the model's config.")
]
Out = Annotated[Path | None, typer.Option(help="Directory of the artefact.")]
Epochs = Annotated[int | None, typer.Option(help="At most this many epochs.")]
EpochRows = Annotated[int | None, typer.Option(help="Validate after so many rows, instead of all of them.")]
Batch = Annotated[int | None, typer.Option(help="Rows an update.")]
MicroBatch = Annotated[
    int | None, typer.Option(help="Rows of a batch that are computed at once; fewer take less memory.")
]
LearningRate = Annotated[float | None, typer.Option(help="Adam's learning rate.")]
Patience = Annotated[int | None, typer.Option(help="Epochs without a better validation metric.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, order and dropout.")]
Precision = Annotated[str | None, typer.Option(help="fp32, or bf16: products in 16 bits, weights in 32.")]
Schedule = Annotated[
    str | None, typer.Option(help="Learning rate: constant, or cosine: falling to 0 over all --epochs.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a stopped or killed training.")]


def given(**values: object) -> dict[str, object]:
    """The options that were given: those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def options(pairs: list[str] | None) -> dict[str, str]:
    """KEY=VALUE words as a mapping."""
    found: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes KEY=VALUE, not {pair}", "for example --set dim=32")
        found[key.strip()] = value.strip()
    return found


def words(values: str | Iterable[str] | None) -> list[str]:
    """The parts of comma-separated options, each once, in their order."""
    texts = [values] if isinstance(values, str) else values or []
    parts = [part.strip() for text in texts for part in text.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


def counts(values: str | Iterable[str], what: str = "slates", example: str = "1,100") -> list[int]:
    """Comma-separated positive integers, sorted, each once."""
    parts = words(values)
    numbers = sorted({int(part) for part in parts if part.isdecimal() and part.isascii()})
    if not numbers or numbers[0] < 1 or not all(part.isdecimal() and part.isascii() for part in parts):
        raise UsageError(
            f"{what} must be whole numbers, not {', '.join(parts) or 'nothing'}",
            f"for example --{what} {example}",
        )
    return numbers


def only(values: Sequence[Value], option: str) -> Value:
    """The one value of an option of a command that works on one; UsageError for a list."""
    if len(values) != 1:
        listed = ", ".join(map(str, values)) or "nothing"
        raise UsageError(f"{option} takes one here, not {listed}", "run the command once for each")
    return values[0]


def only_count(values: list[str] | None, option: str) -> int | None:
    """The one positive integer of an option, if it was given."""
    name = option.removeprefix("--")
    return None if values is None else only(counts(values, name, "100"), option)


def dataset_names(values: list[str] | None) -> list[str]:
    """The data sets that were named, or the one that commands take unasked."""
    if values is None:
        return [DEFAULT_DATASET]
    names = words(values)
    if not names:
        raise UsageError("no data set is selected", "for example --datasets ml-100k,microlens")
    return names


def dataset_name(values: list[str] | None) -> str:
    """The one data set of a command that works on one."""
    return only(dataset_names(values), "--dataset")


def model_names(values: Iterable[str] | None) -> list[ModelName]:
    """The models that were named, each once: rows, groups of rows, students, directories. UsageError for none."""
    from rbserve.home.target import parse_models

    names = parse_models(values or [])
    if not names:
        raise UsageError("no model is selected", "for example --model gdcn")
    return names


def model_name(values: Iterable[str]) -> ModelName:
    """The model of a command that works on one."""
    return only(model_names(values), "--model")
