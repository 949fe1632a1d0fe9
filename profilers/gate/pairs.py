"""The models that a gate compares: those of two paths, paired by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rbserve.core.errors import UsageError
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.profilers.gate.benchmark_file import is_benchmark_file
from rbserve.profilers.gate.sides import Pair
from rbserve.profilers.measure.harness import WORKER
from rbserve.runs.measurement import Measurement
from rbserve.runs.run_file import read_measurement

SINGLE = ""  # the name of the only model of a path

Models = Mapping[str, Artifact | Measurement]


def pairs_of(
    base: Path, head: Path, models: Sequence[str] | None = None, base_python: Path | None = None
) -> list[Pair]:
    """The pairs of `base` and `head`: an artefact or a run file each, or folders (or homes) of artefacts.

    Of folders, every model of base, or those of `models` (names, groups, "all"). A model that one side lacks is a pair
    with None. `base_python` is the interpreter that measures base. Raises UsageError for paths that hold no models.
    """
    worker = worker_of(base_python)
    before, after = _models(base), _models(head)
    if SINGLE in before and SINGLE in after:
        if models:
            raise UsageError("--models is for folders of artefacts", "leave it out for a single one")
        base_model = before[SINGLE]
        return [
            Pair(
                base_model.model if isinstance(base_model, Measurement) else base_model.name,
                base_model,
                after[SINGLE],
                base_worker=worker,
            )
        ]
    if SINGLE in before or SINGLE in after:
        raise UsageError(f"{base} and {head} must both be one model, or both folders of models")
    names = list(before) if models is None else _named(models, {**after, **before})
    return [
        Pair(name, before.get(name), after.get(name), _absence(name, {base: before, head: after}), worker)
        for name in names
    ]


def worker_of(python: Path | None) -> Sequence[str]:
    """The command that starts a worker with another interpreter, or with this one; UsageError where there is none."""
    if python and not python.is_file():
        raise UsageError(f"there is no interpreter {python}", "--base-python main/.venv/bin/python")
    return (str(python), *WORKER[1:]) if python else WORKER


def _models(path: Path) -> Models:
    """A run file or an artefact alone, or the artefacts below a folder by their path there."""
    if path.is_file():
        if is_benchmark_file(path):
            raise UsageError(
                f"{path} is a file of pytest-benchmark, not a model or a run",
                "rbserve check --pytest-benchmark BASE HEAD judges two such files",
            )
        if path.suffix != ".json":
            raise UsageError(
                f"{path} is neither an artefact nor a run file",
                "--requests TABLE compares the files of two models on its requests",
            )
        return {SINGLE: read_measurement(path)}
    if not path.is_dir():
        raise UsageError(
            f"there is nothing at {path}", "an artefact's directory, a folder of such, or a run file"
        )
    if (path / "manifest.json").is_file():
        return {SINGLE: open_artifact(path)}
    path = path / "artifacts" if (path / "artifacts").is_dir() else path
    for pattern in ("*/manifest.json", "*/*/manifest.json"):
        folders = [file.parent for file in sorted(path.glob(pattern)) if not file.parent.name.startswith(".")]
        if folders:
            return {str(folder.relative_to(path)): open_artifact(folder) for folder in folders}
    return {}


def _named(words: Sequence[str], models: Models) -> list[str]:
    """The models that the words name; a word that names no model stays, and is reported as missing."""
    names: dict[str, None] = {}
    for word in words:
        matching = [
            name
            for name, model in models.items()
            if isinstance(model, Artifact) and word in ("all", model.manifest.group, name, Path(name).name)
        ]
        names |= dict.fromkeys(matching or [word])
    return list(names)


def _absence(name: str, sides: Mapping[Path, Models]) -> str:
    lacking = [str(folder) for folder, there in sides.items() if name not in there]
    return f"there is no {name} in {' and '.join(lacking)}" if lacking else ""
