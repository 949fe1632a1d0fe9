"""Options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rbserve.core.errors import UsageError

Model = Annotated[
    str, typer.Option("--model", "-m", help="A zoo row (see rbserve models) or an artefact's directory.")
]
DatasetName = Annotated[str, typer.Option("--dataset", "-d", help="A data set (see rbserve datasets).")]

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
