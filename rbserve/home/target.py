"""What `--model` means: the one place that reads a model's name.

A name is a row of the zoo (gdcn), a student (gdcn-emb-from-text-minilm-l6), a model that was adopted under that name,
the directory of an artefact or an artefact of the store (store://microlens/gdcn). `resolve` makes it a `Target`, which
everything else takes: the row, the directory of the artefact, what the model can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rbserve.core.distillation import FROM, split_layers
from rbserve.core.errors import UsageError, unknown_name
from rbserve.core.names import DEFAULT_DATASET, plain_name
from rbserve.core.types import ModelSpec
from rbserve.core.variants import (
    UNCHANGED,
    ModelKind,
    check_precisions,
    kind_of_model,
    possible_variants,
    precisions_of,
    why_no_index,
)
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.home.paths import Place, artifact_path, is_there, places, readable_artifacts
from rbserve.home.stored import is_stored_kind, pull_artifact
from rbserve.models.configs import EndpointConfig, LanguageConfig, kind_of
from rbserve.models.zoo import find_model, is_group, select_models
from rbserve.progress import say
from rbserve.store.manifest import stored_name

RANDOM = "-random"
STORED = "store://"
"""How the name of a model in the store begins; DATASET/MODEL follows."""
MOST_NAMED = 8  # artefacts that an error lists


@dataclass(frozen=True)
class ModelName:
    """A value of --model. `spec` is the row that the model is trained as, None where it is found as an artefact alone.

    `teacher` is the model that taught a student, and None for all others; `layers` the number of its layers that the
    student has, 0 for another row. `adopted`: the name is that of adopted artefacts below the home directory; without
    it, a model without a row is the directory of an artefact. `stored` is the name of an artefact in the store, which
    `resolve` pulls.
    """

    text: str
    spec: ModelSpec | None = field(hash=False)
    teacher: str | None = None
    adopted: bool = False
    layers: int = 0
    stored: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def datasets(self) -> list[str]:
        """The data sets that the model is trained on, or request sets that it is adopted with, sorted."""
        return [place.dataset for place in places(self.text)]


@dataclass(frozen=True)
class Target:
    """A model on a data set. `path` is the directory of its artefact, whether or not there is one.

    `artifact` is None where there is none. `random`: the model's weights are, or will be, drawn at random.
    `dataset_given` is False where the user named no data set.
    """

    model: ModelName
    dataset: str
    path: Path
    random: bool
    artifact: Artifact | None
    dataset_given: bool = True

    @property
    def spec(self) -> ModelSpec:
        """The row that the model is trained as; only for a target that is no directory."""
        assert self.model.spec is not None
        return self.model.spec

    @property
    def name(self) -> str:
        """The name of the artefact."""
        return self.artifact.name if self.artifact else self.path.name

    @property
    def task(self) -> str:
        """The model's task, a name of `core.tasks`."""
        return self.artifact.manifest.task if self.artifact else self.spec.task

    @property
    def is_language_model(self) -> bool:
        """Whether the model reads prompts."""
        return (
            self.artifact.is_language_model if self.artifact else isinstance(self.spec.config, LanguageConfig)
        )

    @property
    def is_endpoint(self) -> bool:
        """Whether an API endpoint answers for the model."""
        return self.artifact.is_endpoint if self.artifact else isinstance(self.spec.config, EndpointConfig)

    @property
    def variants(self) -> list[str]:
        """Every variant that the model can have, exported or not."""
        if self.artifact:
            return self.artifact.can_have
        return possible_variants(self.task, self.kind)

    @property
    def kind(self) -> ModelKind:
        """What the model runs as."""
        if self.artifact:
            return self.artifact.kind
        return kind_of_model(kind_of(self.spec.config), self.is_language_model)

    @property
    def how_to_make(self) -> str:
        """The command that makes the artefact."""
        return making_command(
            self.model.spec.name if self.model.spec else self.name,
            self.dataset,
            self.model.teacher,
            self.model.layers,
        )

    def check_variants(self, variants: Iterable[str]) -> None:
        """Raises UsageError for a variant that the model cannot have."""
        for variant in variants:
            if variant not in self.variants:
                raise unknown_name(f"variant of {self.name}", variant, self.variants)

    def check_precisions(self, precisions: Sequence[str]) -> None:
        """Raises UsageError for a precision that the model cannot be exported in."""
        check_precisions(precisions)
        for precision in precisions:
            if self.is_endpoint:
                raise UsageError(f"{self.name} answers from an endpoint; there is nothing to export")
            possible = precisions_of(self.variants)
            if precision not in possible:
                unchanged = self.artifact.unchanged if self.artifact else UNCHANGED.get(self.kind, {})
                why = unchanged.get(precision) or why_no_index(precision, self.task, self.kind)
                reason = f": {why}" if why else ""
                raise UsageError(
                    f"{self.name} cannot be exported in {precision}{reason}",
                    f"precisions of a model like it: {', '.join(possible) or 'none'}",
                )

    def absence(self) -> UsageError:
        """The error for a target without an artefact: which artefacts there are, and how to make this one."""
        if elsewhere := self.model.datasets:
            known = f"it is trained on {', '.join(elsewhere)}: --dataset {elsewhere[0]}"
        else:
            names = [f"{place.model} on {place.dataset}" for place in places()]
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            known = f"there are {', '.join(names[:MOST_NAMED])}{more}" if names else "nothing is trained here"
        where = self.dataset if self.dataset_given else "any data set"
        return UsageError(f"{self.model} is not trained on {where}; {known}", self.how_to_make)


# ---- Names ----


def parse_model(model: str | Path | ModelName) -> ModelName:
    """The model that a name means; a `Path` is always a directory. UsageError for a name that no row has."""
    if isinstance(model, ModelName):
        return model
    if isinstance(model, str) and model.startswith(STORED):
        return ModelName(model, None, stored=stored_artifact(model))
    if isinstance(model, Path) or names_directory(model):
        return ModelName(str(model), None)
    if is_adopted(model):
        return ModelName(model, None, adopted=True)
    student, separator, teacher = model.partition(FROM)
    row, layers = split_layers(student) if separator and not _is_row(student) else (student, 0)
    _check_readable(row)
    spec = find_model(row, adopted_names)
    return ModelName(model, spec, teacher if separator else None, layers=layers)


def parse_models(values: Iterable[str]) -> list[ModelName]:
    """The models that comma-separated texts name, each once: "dnn,gdcn", "A-H", "all", a student, a directory.

    The rows of a text come in the order of their tables. UsageError for a name that no row has.
    """
    names = {model.text: model for value in values for model in _parse_list(value)}
    return list(names.values())


def _parse_list(value: str) -> list[ModelName]:
    if names_directory(value) and Path(value).is_dir():  # a comma may be part of its name
        return [parse_model(value)]
    parts = [part.strip() for part in value.split(",") if part.strip()]
    others = [part for part in parts if names_directory(part) or is_adopted(part) or is_student(part)]
    rows = [part for part in parts if part not in others]
    for row in rows:
        _check_readable(row)
    if len(rows) == 1 and not is_group(rows[0]):
        specs = [find_model(rows[0], adopted_names)]
    else:
        specs = select_models(",".join(rows), adopted_names) if rows else []
    return [*(ModelName(spec.name, spec) for spec in specs), *map(parse_model, others)]


def names_directory(name: str) -> bool:
    """Whether the name of a model or a data set is a directory's path."""
    return "/" in name or name.startswith(".") or is_there(Path(name))


def stored_artifact(name: str) -> str:
    """The name in the store of a model store://DATASET/MODEL; UsageError for one that has other parts."""
    parts = name.removeprefix(STORED).removeprefix("artifacts/").split("/")
    if len(parts) != 2 or not all(parts):
        raise UsageError(f"{name} is no model in a store", f"for example {STORED}microlens/gdcn")
    return stored_name("/".join(("artifacts", *parts)))


def stored_names(
    texts: Sequence[str], datasets: Sequence[str], runs: bool, known: Callable[[str], list[str]]
) -> list[str]:
    """The names in a store that texts mean: models of `datasets`, data/NAME and the like; without texts the data sets.

    `known` lists the names that there are below a prefix, on the side from which they are taken. `runs` adds all runs.
    UsageError for a model that is on no data set or on several, and where nothing is named.
    """
    names = [name for text in texts for name in _stored(text, datasets, known)]
    if not texts:
        names += [stored_name(f"data/{dataset}") for dataset in datasets]
    if runs:
        names += known("runs")
    if not names and not runs:
        there = ", ".join(known("")[:MOST_NAMED]) or "nothing"
        raise UsageError(
            f"nothing is named; there is {there}", "gdcn --dataset microlens, or data/microlens, or --runs"
        )
    return list(dict.fromkeys(names))


def _stored(text: str, datasets: Sequence[str], known: Callable[[str], list[str]]) -> list[str]:
    if text.startswith(STORED):
        return [stored_artifact(text)]
    if is_stored_kind(text):
        return [stored_name(text.rstrip("/"))]
    names = [name for name in known("artifacts") if name.rpartition("/")[2] == plain_name(text, "a model")]
    if datasets:
        return [f"artifacts/{plain_name(dataset, 'a data set')}/{text}" for dataset in datasets]
    usual = f"artifacts/{DEFAULT_DATASET}/{text}"
    if len(names) > 1 and usual not in names:
        raise UsageError(f"{text} is on several data sets: {', '.join(names)}", f"for example {names[0]}")
    if not names:
        raise unknown_name(
            "name", text, [name.rpartition("/")[2] for name in known("artifacts")] or ["nothing"]
        )
    return [usual if usual in names else names[0]]


def _check_readable(name: str) -> None:
    """Raises ArtifactError for the name of an adopted model whose manifest cannot be read."""
    if name and not _is_row(name):
        for place in places(name):
            open_artifact(place.path)


def is_student(name: str) -> bool:
    """Whether an artefact's name is a student's."""
    return FROM in name


def is_adopted(name: str) -> bool:
    """Whether models were adopted under this name."""
    return name != "*" and any(artifact.is_adopted for artifact in readable_artifacts(model=name))


def adopted_names() -> list[str]:
    """The names of all adopted models below the home directory, sorted."""
    return sorted({artifact.name for artifact in readable_artifacts() if artifact.is_adopted})


def check_free_name(name: str) -> None:
    """Raises UsageError for a name that no adopted model may have: that of a row, a group or a student."""
    if is_group(name) or is_student(name) or _is_row(name):
        raise UsageError(
            f"{name} is a model of rbserve's own, or a group of them",
            "--name takes another name, such as my-ranker",
        )


def artifact_name(model: str, random: bool = False) -> str:
    """The name of the directory of a model's artefact: gdcn-random for random weights."""
    return f"{model}{RANDOM}" if random else model


def model_path(model: str, dataset: str, random: bool = False) -> Path:
    """The directory that --model and --dataset mean, whether or not there is a model of that name."""
    return Path(model) if names_directory(model) else artifact_path(artifact_name(model, random), dataset)


def making_command(row: str, dataset: str, teacher: str | None = None, layers: int = 0) -> str:
    """The command that trains a row on a data set, or distills it, or a number of layers, from a teacher."""
    if teacher is not None:
        student = f"--layers {layers}" if layers else f"--student {row}"
        return f"rbserve distill --teacher {teacher} {student} --dataset {dataset}"
    return f"rbserve train --model {row} --dataset {dataset}"


# ---- Targets ----


def resolve(
    model: str | Path | ModelName, dataset: str | None = DEFAULT_DATASET, random: bool = False
) -> Target:
    """The model that a name means on a data set. Opens its artefact if there is one; makes nothing, but pulls a name
    of the store into the home directory.

    Without a data set, it is ml-100k where the model is trained on it, else the only one that it is trained on. An
    adopted model that is not on ml-100k is on the only one also where ml-100k is named: commands name it by default.
    `random` selects the artefact with random weights. Raises UsageError for an unknown name and where several data
    sets could be meant, ArtifactError for a directory without an artefact.
    """
    name = parse_model(model)
    if name.stored:
        opened = pull_artifact(name.stored)
        return Target(name, opened.manifest.dataset.name, opened.path, opened.is_random, opened)
    if name.adopted:
        place = _adopted_place(name, dataset)
        return Target(name, place.dataset, place.path, False, open_artifact(place.path), dataset is not None)
    if name.spec is None:
        opened = open_artifact(Path(name.text))
        return Target(name, opened.manifest.dataset.name, opened.path, opened.is_random, opened)
    data = _trained_dataset(name) if dataset is None else dataset
    path = artifact_path(artifact_name(name.text, random), data)
    artifact = open_artifact(path) if is_there(path) else None
    return Target(name, data, path, random, artifact, dataset_given=dataset is not None)


def adopted_targets(names: Iterable[str], datasets: Sequence[str]) -> list[Target]:
    """The adopted models among names, on those of the data sets that they are on, or the only one that each is on."""
    models = [parse_model(name) for name in names if is_adopted(name)]
    return [
        resolve(model, dataset)
        for model in models
        for dataset in [name for name in datasets if name in model.datasets] or [DEFAULT_DATASET]
    ]


def _trained_dataset(model: ModelName) -> str:
    """The data set of a model for which none was named; says which it is where there is a choice."""
    datasets = model.datasets or [DEFAULT_DATASET]
    chosen = DEFAULT_DATASET if DEFAULT_DATASET in datasets else datasets[0]
    others = [name for name in datasets if name != chosen]
    if others and chosen != DEFAULT_DATASET:
        raise UsageError(
            f"{model} is trained on several data sets: {', '.join(datasets)}",
            f"for example --dataset {chosen}",
        )
    if others or chosen != DEFAULT_DATASET:
        also = f"; it is also trained on {', '.join(others)} (--dataset)" if others else ""
        say(f"{model} on {chosen}{also}")
    return chosen


def _adopted_place(model: ModelName, dataset: str | None) -> Place:
    """Where the artefact of an adopted model is, on a data set or the only one that it is on."""
    known = places(model.text)
    chosen = [place for place in known if dataset in (None, place.dataset)]
    if not chosen and dataset == DEFAULT_DATASET:
        chosen = known
    names = [place.dataset for place in known]
    if not chosen:
        raise UsageError(
            f"{model} is not adopted on {dataset}; it is on {', '.join(names)}", f"--dataset {names[0]}"
        )
    if len(chosen) > 1:
        raise UsageError(
            f"{model} is adopted on several data sets: {', '.join(names)}",
            f"for example --dataset {names[0]}",
        )
    return chosen[0]


def _is_row(name: str) -> bool:
    try:
        find_model(name)
    except UsageError:
        return False
    return True
