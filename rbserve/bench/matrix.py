"""The matrix models x data sets x variants as cells: what is made and measured, and what must come first.

Three steps: a data set is prepared once, a model is built (trained and exported) once a data set, and its latency is
measured. All variants of a model share one latency cell. The harness interleaves them, round by round, so that a
machine that drifts slows all of them alike; measured as cells of their own, minutes or machines apart, a speed-up of
one over the other would be a difference between two moments. Outcomes are told apart by variant all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from rbserve.core.errors import UsageError
from rbserve.core.options import with_options
from rbserve.core.types import ModelSpec
from rbserve.home.target import Target, artifact_name
from rbserve.models.configs import EndpointConfig
from rbserve.pipeline import data, profiling
from rbserve.profilers.measure.harness import default_plan, refuse_table
from rbserve.runs.plan import TABLE, Plan

Step = Literal["prepare", "build", "profile"]
Quiet = Literal["none", "core", "machine"]
MADE_ONCE = ("embedding", "semantic_id")  # items whose first model on a data set makes what the others find


class Cell(msgspec.Struct, frozen=True):
    """One piece of work, in plain data: it can be sent anywhere that sees RBSERVE_HOME.

    No `variants` are those that `rbserve profile` measures unasked. `training` are the values of `Settings`
    that differ from the model's own, `options` those of its config as `--set` takes them, `plan` is that of a latency
    cell, and `quiet` what it must have to itself. `metrics` are of the user's own, for models that score candidates.
    `machine` is the kind of machine that a latency cell is measured on; empty: on any.
    """

    step: Step
    dataset: str
    model: str = ""
    variants: list[str] = []
    training: dict[str, Any] = {}
    plan: Plan | None = None
    random: bool = False
    quiet: Quiet = "none"
    options: dict[str, str] = {}
    metrics: list[str] = []
    machine: str = ""

    @property
    def name(self) -> str:
        """The artefact's name; of a data set's cell nothing."""
        return artifact_name(self.model, self.random)

    @property
    def id(self) -> str:
        """Names the cell in a matrix, and its files: build.ml-100k.gdcn"""
        return ".".join(part for part in (self.step, self.dataset, self.name, self.machine) if part)

    @property
    def title(self) -> str:
        """What people read: build gdcn on ml-100k"""
        where = f", {self.machine}" if self.machine else ""
        return (
            f"{self.step} {self.name} on {self.dataset}{where}"
            if self.model
            else f"{self.step} {self.dataset}"
        )


class Node(msgspec.Struct, frozen=True):
    """A cell in its matrix: the ids of the cells that it `needs`, and of those that it only comes `after`."""

    cell: Cell
    needs: list[str] = []
    after: list[str] = []


def nodes(
    models: Sequence[ModelSpec],
    datasets: Sequence[str],
    plan_of: Callable[[ModelSpec, str], Plan],
    variants: Sequence[str] = (),
    training_of: Callable[[ModelSpec, str], Mapping[str, Any]] = lambda *_: {},
    random: bool = False,
    quiet: Quiet = "machine",
    options_of: Callable[[ModelSpec, str], Mapping[str, str]] = lambda *_: {},
) -> list[Node]:
    """The cells of a matrix, each behind what it needs: one model's latency before the next one's training.

    `plan_of` and `training_of` say how a row is measured and trained on a data set, `options_of` what is changed of its
    config.
    """
    made: list[Node] = []
    for dataset in datasets:
        prepare = Cell("prepare", dataset)
        made.append(Node(prepare))
        first: dict[str, str] = {}
        for spec in models:
            training = dict(training_of(spec, dataset))
            options = dict(options_of(spec, dataset))
            build = Cell("build", dataset, spec.name, [*variants], training, random=random, options=options)
            profile = msgspec.structs.replace(build, step="profile", plan=plan_of(spec, dataset), quiet=quiet)
            maker = first.setdefault(spec.item_form, build.id) if spec.item_form in MADE_ONCE else build.id
            donor = msgspec.structs.replace(build, model=spec.weights_of).id if spec.weights_of else build.id
            earlier = {maker, donor} - {build.id}
            made += [Node(build, [prepare.id], sorted(earlier)), Node(profile, [build.id])]
    known = {node.cell.id for node in made}
    return [
        msgspec.structs.replace(node, after=[name for name in node.after if name in known]) for node in made
    ]


def adopted_nodes(
    targets: Iterable[Target],
    plan_of: Callable[[Target], Plan],
    variants: Sequence[str] = (),
    quiet: Quiet = "machine",
) -> list[Node]:
    """The cells of adopted models, each on the data that it was adopted on: it is exported, then measured."""
    made: list[Node] = []
    for target in targets:
        prepare = Cell("prepare", target.dataset)
        build = Cell("build", target.dataset, target.model.text, [*variants])
        profile = msgspec.structs.replace(build, step="profile", plan=plan_of(target), quiet=quiet)
        made += [Node(prepare), Node(build, [prepare.id]), Node(profile, [build.id])]
    return made


def joined(*parts: Sequence[Node]) -> list[Node]:
    """The cells of several matrices as one, each cell once."""
    return list({node.cell.id: node for part in parts for node in part}.values())


def on_machines(parts: Sequence[Node], kinds: Sequence[str]) -> list[Node]:
    """The cells, of which those that measure are done once on every kind of machine."""
    return [
        msgspec.structs.replace(part, cell=msgspec.structs.replace(part.cell, machine=kind))
        for part in parts
        for kind in (kinds if part.cell.step == "profile" else [""])
    ]


def with_metrics(parts: Sequence[Node], metrics: Sequence[str]) -> list[Node]:
    """The cells, of which those that measure compute these metrics of the user's own as well."""
    return [
        msgspec.structs.replace(part, cell=msgspec.structs.replace(part.cell, metrics=[*metrics]))
        if part.cell.step == "profile"
        else part
        for part in parts
    ]


def plan_of_adopted(target: Target, given: Mapping[str, Any], variants: Sequence[str]) -> Plan:
    """The plan of an adopted model's latency cell; UsageError for what it cannot be measured with."""
    return profiling.plan_of(target, given, variants)


def plan_of(spec: ModelSpec, given: Mapping[str, Any]) -> Plan:
    """The whole plan of a model's latency cell: its task's default, an endpoint's, and what the user gave."""
    own = profiling.ENDPOINT_PLAN if isinstance(spec.config, EndpointConfig) else {}
    plan = msgspec.structs.replace(default_plan(spec.task), **(own | dict(given)))
    if TABLE in plan.slates:
        refuse_table(spec.name)
    return plan


def without_endpoints(models: Iterable[ModelSpec], named: Sequence[str]) -> tuple[list[ModelSpec], list[str]]:
    """The models, and the names of those left out: an endpoint costs money, and is asked where it is named alone."""
    costly = [spec for spec in models if isinstance(spec.config, EndpointConfig) and spec.name not in named]
    return [spec for spec in models if spec not in costly], [spec.name for spec in costly]


def check_options(spec: ModelSpec, options: Mapping[str, str]) -> None:
    """Raises UsageError for a change of the config that the model does not take."""
    try:
        with_options(spec.config, options)
    except UsageError as error:
        raise UsageError(f"{spec.name}: {error.message}", error.hint) from None


def check_datasets(names: Sequence[str]) -> None:
    """Raises UsageError for a data set that is neither prepared nor known, and where there is none."""
    if not names:
        raise UsageError("no data set is selected", "for example --datasets ml-100k,microlens")
    for name in names:
        data.check_dataset(name)
