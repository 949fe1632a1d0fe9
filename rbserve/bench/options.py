"""Options for some models of a matrix on some data sets: `rbserve bench --options FILE`.

    [[options]]
    models = "sasrec-3l,sasrec-6l"    # as --models takes them
    datasets = ["microlens"]          # all of them when left out
    lr = 0.002                        # what `rbserve train` takes: batch, epochs, precision, …
    schedule = "cosine"
    test_users = 500                  # test users for accuracy
    set = { neighbours = 100 }        # options of the models' configs, as `rbserve train --set` takes them

Where several tables set the same key for a model, the last table counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.options import option_fields
from rbserve.core.settings import Settings
from rbserve.core.types import ModelSpec
from rbserve.models.zoo import select_models
from rbserve.runs.plan import Plan

TRAINING = option_fields(Settings)
PLAN = {name: option_fields(Plan)[name] for name in ("test_users",)}


PLAIN = (bool, int, float, str)


class Override(msgspec.Struct, frozen=True):
    """Values of `Settings`, `Plan` and configs for some models on some data sets; no data sets: on all of them."""

    models: frozenset[str]
    datasets: frozenset[str]
    training: dict[str, Any]
    plan: dict[str, Any]
    config: dict[str, str]


class Overrides:
    """The tables of a file of options."""

    def __init__(self, tables: Sequence[Override] = ()) -> None:
        self._tables = tables

    def training(self, spec: ModelSpec, dataset: str) -> dict[str, Any]:
        """The values of `Settings` that a row is trained with on a data set."""
        return {key: value for table in self._of(spec, dataset) for key, value in table.training.items()}

    def plan(self, spec: ModelSpec, dataset: str) -> dict[str, Any]:
        """The values of the `Plan` that a row is measured by on a data set."""
        return {key: value for table in self._of(spec, dataset) for key, value in table.plan.items()}

    def config(self, spec: ModelSpec, dataset: str) -> dict[str, str]:
        """The options of its config that a row is built with on a data set."""
        return {key: value for table in self._of(spec, dataset) for key, value in table.config.items()}

    def _of(self, spec: ModelSpec, dataset: str) -> list[Override]:
        return [
            table
            for table in self._tables
            if spec.name in table.models and (not table.datasets or dataset in table.datasets)
        ]


def read_overrides(path: Path) -> Overrides:
    """Reads a file of options; UsageError with the table and what its key takes, for a wrong value."""
    try:
        document = msgspec.toml.decode(path.read_bytes(), type=dict[str, list[dict[str, Any]]])
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "rbserve bench --help") from None
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} holds no options: {error}", "tables called [[options]]") from None
    for name in document:
        if name != "options":
            raise unknown_name(f"table of {path}", name, ["options"])
    tables = enumerate(document.get("options", []), 1)
    return Overrides([_override(table, f"{path}, options {place}") for place, table in tables])


def _override(table: dict[str, Any], where: str) -> Override:
    """A table, with every value checked as the command that takes it does."""
    known = ["models", "datasets", "set", *PLAN, *TRAINING]
    for key in table:
        if key not in known:
            raise unknown_name(f"key of {where}", key, known)
    models, datasets, config = table.get("models"), table.get("datasets", []), table.get("set", {})
    if not isinstance(models, str) or not isinstance(datasets, list):
        raise UsageError(f"{where}: models is a text and datasets a list", 'models = "A,sasrec-3l"')
    if not isinstance(config, dict) or not all(isinstance(value, PLAIN) for value in config.values()):
        raise UsageError(f"{where}: set is a table of options", "set = { neighbours = 100 }")
    fields = TRAINING | PLAN
    try:
        values = {key: fields[key].value_of(value) for key, value in table.items() if key in fields}
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from None
    return Override(
        models=frozenset(spec.name for spec in select_models(models)),
        datasets=frozenset(map(str, datasets)),
        training={key: value for key, value in values.items() if key in TRAINING},
        plan={key: value for key, value in values.items() if key in PLAN},
        config={key: _as_typed(value) for key, value in config.items()},
    )


def _as_typed(value: bool | int | float | str) -> str:
    """A value of TOML as it is written behind --set KEY=."""
    return str(value).lower() if isinstance(value, bool) else str(value)
