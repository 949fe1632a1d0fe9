"""The models of a bench as its command names them, and how each of them is trained and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from rbserve.bench import matrix
from rbserve.bench.matrix import Node, Quiet
from rbserve.bench.options import Overrides
from rbserve.core.tasks import CTR, TASKS
from rbserve.core.types import ModelSpec
from rbserve.home.target import Target, adopted_names, adopted_targets
from rbserve.models.zoo import select_models
from rbserve.progress import say
from rbserve.runs.plan import Plan


class Selected(NamedTuple):
    """The rows of a matrix and its data sets, and the adopted models, which are each on data of their own."""

    rows: list[ModelSpec]
    datasets: list[str]
    adopted: list[Target]


def select(models: Sequence[str], datasets: Sequence[str]) -> Selected:
    """The models of --models on the data sets; UsageError for a name that is unknown."""
    adopted = adopted_targets(models, datasets)
    own = {target.model.text for target in adopted}
    zoo = ",".join(name for name in models if name not in own)
    if zoo:
        matrix.check_datasets(datasets)
    specs = select_models(zoo, adopted_names) if zoo or not adopted else []
    rows, costly = matrix.without_endpoints(specs, models)
    if costly:
        say(f"{', '.join(costly)}: asks an endpoint, which costs money; --models takes it by its name alone")
    return Selected(rows, list(datasets) if rows else [], adopted)


@dataclass(frozen=True)
class CellOptions:
    """How the models of a matrix are trained and measured.

    `plan` holds for all models, `sizes` by task, `of_rankers` for models that rank the catalogue; `overrides` are those
    of a file, for some models. `config` changes the config of every row, behind which those of the file count.
    """

    overrides: Overrides
    sizes: Mapping[str, Mapping[str, Any]]
    of_rankers: Mapping[str, Any]
    plan: Mapping[str, Any]
    training: Mapping[str, Any]
    config: Mapping[str, str]

    def nodes(self, selected: Selected, variants: Sequence[str], random: bool, quiet: Quiet) -> list[Node]:
        """The cells of the matrix; UsageError for a value that a model does not take."""
        rows = matrix.nodes(
            selected.rows, selected.datasets, self.plan_of, variants, self.training_of, random, quiet, self.config_of
        )  # fmt: skip
        adopted = matrix.adopted_nodes(
            selected.adopted, partial(self.plan_of_adopted, variants=variants), variants, quiet
        )
        return matrix.joined(rows, adopted)

    def plan_of(self, spec: ModelSpec, dataset: str) -> Plan:
        """The plan of a row on a data set."""
        own = {**self.sizes[spec.task], **(self.of_rankers if TASKS[spec.task].ranks else {})}
        return matrix.plan_of(spec, {**self.plan, **own, **self.overrides.plan(spec, dataset)})

    def plan_of_adopted(self, target: Target, variants: Sequence[str]) -> Plan:
        """The plan of an adopted model."""
        sizes = self.sizes.get(target.task, self.sizes[CTR.name])
        return matrix.plan_of_adopted(target, {**self.plan, **sizes}, variants)

    def training_of(self, spec: ModelSpec, dataset: str) -> dict[str, Any]:
        """The values of `Settings` that a row is trained with on a data set."""
        return {**self.training, **self.overrides.training(spec, dataset)}

    def config_of(self, spec: ModelSpec, dataset: str) -> dict[str, str]:
        """The options of a row's config on a data set; UsageError for one that it does not take."""
        changes = {**self.config, **self.overrides.config(spec, dataset)}
        matrix.check_options(spec, changes)
        return changes
