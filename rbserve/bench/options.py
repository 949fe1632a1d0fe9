"""What some models of a matrix are given on some data sets: `rbserve bench --options FILE`.

    [[options]]
    models = "sasrec-3l,sasrec-6l"    # as --models takes them
    datasets = ["microlens"]          # all of them when left out
    lr = 0.002                        # what `rbserve train` takes: batch, epochs, precision, …
    schedule = "cosine"
    test_users = 500                  # and how many test users the accuracy is that of

Of several that name a model, the last word on a key counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.types import ModelSpec
from rbserve.models.zoo import select_models

_PLAN = ("test_users",)


class Given(msgspec.Struct, frozen=True):
    """Values of `train.loop.Settings` and of a measurement's Plan, for some models on some data sets; none: all."""

    models: frozenset[str]
    datasets: frozenset[str]
    training: dict[str, Any]
    plan: dict[str, Any]


class Options:
    """What a file of options says."""

    def __init__(self, given: Sequence[Given] = ()) -> None:
        self._given = given

    def training(self, spec: ModelSpec, dataset: str) -> dict[str, Any]:
        """The values of `train.loop.Settings` that a row is trained with on a data set."""
        return {key: value for table in self._of(spec, dataset) for key, value in table.training.items()}

    def plan(self, spec: ModelSpec, dataset: str) -> dict[str, Any]:
        """The values of the Plan that a row is measured by on a data set."""
        return {key: value for table in self._of(spec, dataset) for key, value in table.plan.items()}

    def _of(self, spec: ModelSpec, dataset: str) -> list[Given]:
        return [
            table
            for table in self._given
            if spec.name in table.models and (not table.datasets or dataset in table.datasets)
        ]


def read_options(path: Path) -> Options:
    """Reads a file of options; UsageError, with the place and what it takes, where it says what cannot be."""
    try:
        document = msgspec.toml.decode(path.read_bytes(), type=dict[str, list[dict[str, Any]]])
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "rbserve bench --help") from None
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} holds no options: {error}", "tables called [[options]]") from None
    for name in document:
        if name != "options":
            raise unknown_name(f"table of {path}", name, ["options"])
    return Options(
        [
            _given(table, f"{path}, options {place}")
            for place, table in enumerate(document.get("options", []), 1)
        ]
    )


def _given(table: dict[str, Any], where: str) -> Given:
    """One table's, every value checked as the command that it is for does."""
    from rbserve.train.loop import Settings

    fields = [field.name for field in dataclasses.fields(Settings)]
    for key in table:
        if key not in ("models", "datasets", *_PLAN, *fields):
            raise unknown_name(f"key of {where}", key, ["models", "datasets", *_PLAN, *fields])
    models, datasets = table.get("models"), table.get("datasets", [])
    if not isinstance(models, str) or not isinstance(datasets, list):
        raise UsageError(f"{where}: models is a text and datasets a list", 'models = "A,sasrec-3l"')
    training = {key: value for key, value in table.items() if key in fields}
    plan = {key: value for key, value in table.items() if key in _PLAN}
    defaults = dataclasses.asdict(Settings())
    for key, value in (training | plan).items():
        wanted = type(defaults.get(key, 0))
        if not isinstance(value, (int, float) if wanted is float else wanted) or isinstance(value, bool):
            raise UsageError(
                f"{where}: {key} is no {wanted.__name__}: {value!r}", "as `rbserve train` takes it"
            )
    try:
        Settings(**training)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None
    chosen = frozenset(spec.name for spec in select_models(models))
    return Given(chosen, frozenset(map(str, datasets)), training, plan)
