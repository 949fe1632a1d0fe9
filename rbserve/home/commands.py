"""The commands that a report and a recommendation print: measure a run's model again, serve it, train it anew.

A command is printed only if it can be right. A run file records where its artefact was (`Measurement.artifact`) and
the settings of its training. Run files of earlier versions do not; then both are derived, and the text says so.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.settings import Settings
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.home.paths import artifact_path
from rbserve.home.target import artifact_name, making_command, model_path, names_directory
from rbserve.models.configs import EndpointConfig, config_to_dict
from rbserve.models.zoo import find_model
from rbserve.runs.changes import NO_CHANGE, all_changes, changed, options_text
from rbserve.runs.measurement import Measurement
from rbserve.runs.plan import WARM, Plan

SECONDS, ENDPOINT_SECONDS = 10.0, 60.0  # of timed calls a process and slate, unless --seconds says otherwise


# ---- Where the artefact is ----


def model_option(measurement: Measurement) -> str:
    """The value of `--model` for the model of a run: its row, or the path of its artefact.

    If the run file does not record where the artefact was, and options of the row were changed, it is a directory named
    after the changes, to which a training could write; nothing need be there now.
    """
    known = measurement.artifact or _path_of_command(measurement.command)
    if known:
        return known
    changes = all_changes(measurement)
    if not changes:
        return measurement.model
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", options_text(changes)).strip("-")
    return f"artifacts/{measurement.dataset}/{measurement.model}-{slug}"


def knows_place(measurement: Measurement) -> bool:
    """Whether the run file records where its artefact was."""
    place = measurement.artifact or _path_of_command(measurement.command)
    return bool(place) or not all_changes(measurement)


def measured_path(measurement: Measurement) -> Path:
    """The directory of the artefact that was measured, as seen from here; nothing need be there."""
    return model_path(model_option(measurement), measurement.dataset, measurement.random)


def option_of(artifact: Artifact) -> str:
    """The value of `--model` that finds an artefact again: its name where it is in the usual place, else its path."""
    name = artifact_name(artifact.name, artifact.is_random)
    usual = artifact_path(name, artifact.manifest.dataset.name)
    is_known = artifact.manifest.training.distilled or artifact.is_adopted or _find_row(artifact.name)
    if artifact.path.absolute() == usual.absolute() and is_known:
        return artifact.name
    path = artifact.path.as_posix()
    return path if names_directory(path) else f"./{path}"


def serving_options(artifact: Artifact) -> str:
    """The options of `rbserve serve` that find an artefact: --model and --dataset, or --model and its directory."""
    option = artifact.path.as_posix() if artifact.is_random else option_of(artifact)
    model = f"--model {shlex.quote(option)}"
    return (
        model
        if names_directory(option)
        else f"{model} --dataset {shlex.quote(artifact.manifest.dataset.name)}"
    )


def remaking_command(artifact: Artifact) -> str:
    """The command that makes an artefact anew, with the usual settings."""
    taught, dataset = artifact.manifest.training.distilled, artifact.manifest.dataset.name
    if artifact.manifest.adopted:
        return f"rbserve adopt {shlex.quote(artifact.manifest.adopted.source)} --requests TABLE"
    if taught:
        return making_command(taught.student, dataset, taught.teacher, taught.layers)
    return making_command(artifact.name, dataset)


def why_absent(measurement: Measurement) -> str | None:
    """The reason why the artefact that was measured cannot be opened from here, or None."""
    path = measured_path(measurement)
    if not knows_place(measurement):
        return "the run file does not say where its artefact is"
    try:
        digest = open_artifact(path).model_digest
    except ArtifactError:
        return f"there is no artefact at {path}"
    if measurement.model_digest and digest != measurement.model_digest:
        return f"the artefact at {path} was made anew, or its items changed, since this run"
    return None


def profile_command(measurement: Measurement) -> str:
    """The command that measures the artefact which is now where the measured one was."""
    model, dataset = shlex.quote(model_option(measurement)), shlex.quote(measurement.dataset)
    drawn = " --weights random" * measurement.random
    return f"rbserve profile --model {model} --dataset {dataset}{drawn}"


def _path_of_command(words: list[str]) -> str | None:
    """The path that a command line has behind --model, if it is one."""
    for word, after in pairwise([*words, ""]):
        value = word.removeprefix("--model=") if word.startswith("--model=") else after
        if word.partition("=")[0] in ("--model", "-m") and names_directory(value):
            return value
    return None


# ---- The commands ----


def command(measurement: Measurement) -> str:
    """The command that repeats a run; it trains the model first if `rbserve profile` alone would train another one."""
    plan, dataset = measurement.plan, shlex.quote(measurement.dataset)
    making = training_command(measurement)
    first = f"{making} && " if making and not _profile_makes_it(measurement) else ""
    return (
        f"{first}rbserve profile --model {shlex.quote(model_option(measurement))} --dataset {dataset} "
        f"--slates {','.join(str(slate) for slate in plan.slates)} "
        f"--threads {plan.threads} {_amount(measurement)} --scope {'forward' if plan.scope == WARM else plan.scope}"
        + (" --warm" if plan.warm or plan.scope == WARM else "")
        + (" --exclude-seen" if plan.exclude_seen else "")
        + (f" --test-users {plan.test_users}" if plan.test_users else "")
        + (" --weights random" if measurement.random else "")
        + ("" if making else f"  # {_unmakeable(measurement)}")
    )


def serve_command(measurement: Measurement, variant: str) -> str | None:
    """The command that serves a variant of the model; None for a path at which the measured artefact no longer is."""
    option = model_option(measurement)
    if names_directory(option) and why_absent(measurement):
        return None
    threads = f" --threads {measurement.plan.threads}" if measurement.plan.threads > 1 else ""
    dataset = shlex.quote(measurement.dataset)
    return f"rbserve serve --model {shlex.quote(option)} --dataset {dataset} --variant {variant}{threads}"


def training_command(measurement: Measurement) -> str | None:
    """The command that trains the model anew; None if the run file lacks the row, or the training continued another."""
    taught, spec = measurement.distilled, _row(measurement)
    if spec is None or measurement.continued:
        return None
    verb = f"train --model {shlex.quote(measurement.model)}"
    if taught:
        verb = f"distill --teacher {shlex.quote(taught.teacher)}"
        verb += "" if taught.layers else f" --student {taught.student}"
    options = [f"--set {shlex.quote(f'{key}={value}')}" for key, value in changed(measurement).items()]
    options += _endpoint_options(measurement, spec)
    options += [f"--{key.replace('_', '-')} {value}" for key, value in training_changes(measurement).items()]
    if taught:
        options += [] if taught.layers else [f"--teacher-variant {taught.variant}"]
        options += [f"--{key} {value}" for key, value in taught.changed.items()]
    options += ["--weights random"] * measurement.random
    place = model_option(measurement)
    out = [f"--out {shlex.quote(place)}"] if names_directory(place) else []
    return " ".join(["rbserve", verb, "--dataset", shlex.quote(measurement.dataset), *options, *out])


def training_changes(measurement: Measurement) -> dict[str, str]:
    """The settings of the training that differ from its row's, as the command line takes them: {"epochs": "1"}.

    Empty for run files that do not record settings, and for random weights.
    """
    spec = _row(measurement)
    if spec is None or measurement.random:
        return {}
    usual = dataclasses.asdict(Settings(**spec.training))
    return {
        key: _text(value)
        for key, value in measurement.settings.items()
        if key in usual and value != usual[key]
    }


def _profile_makes_it(measurement: Measurement) -> bool:
    """Whether `rbserve profile --model ROW` would train this very model, where there is none."""
    spec = _row(measurement)
    differs = changed(measurement) or training_changes(measurement) or measurement.distilled
    return not (
        spec is None
        or differs
        or names_directory(model_option(measurement))
        or _endpoint_options(measurement, spec)
    )


def _unmakeable(measurement: Measurement) -> str:
    place = model_option(measurement)
    where = f"the artefact at {place}" if names_directory(place) else "the artefact that was measured"
    if measurement.adopted:
        return f"needs {where}: it was adopted, as {measurement.adopted}"
    why = measurement.continued or f"{measurement.model} is no row of this version"
    return f"needs {where}: {why}, and no command trains it again"


def _row(measurement: Measurement) -> ModelSpec | None:
    """The zoo row that the model, or a student, was trained as; None where it is none."""
    taught = measurement.distilled
    return _find_row(taught.student if taught else measurement.model)


def _find_row(name: str) -> ModelSpec | None:
    try:
        return find_model(name)
    except UsageError:
        return None


def _endpoint_options(measurement: Measurement, spec: ModelSpec) -> list[str]:
    """The options with the endpoint's address, key and prices, which are needed to measure its model again."""
    if not isinstance(spec.config, EndpointConfig):
        return []
    usual = config_to_dict(spec.config)
    config = {key: value for key, value in measurement.config.items() if value != usual.get(key)}
    address = [f"--api-base {shlex.quote(config['api_base'])}"] if "api_base" in config else []
    others = sorted(NO_CHANGE & config.keys() - {"api_base"})
    return address + [f"--set {shlex.quote(f'{key}={config[key]}')}" for key in others]


def _amount(measurement: Measurement) -> str:
    """The options that say how much is measured."""
    plan: Plan = measurement.plan
    if plan.budget_s is not None:
        return f"--budget {plan.budget_s:g}"
    usual = ENDPOINT_SECONDS if measurement.config.get("api_base") else SECONDS
    seconds = "" if plan.seconds == usual else f" --seconds {plan.seconds:g}"
    return f"--processes {plan.processes} --runs {plan.runs}{seconds}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
