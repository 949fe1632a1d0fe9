"""The outcomes of a bench's cells, a file for each cell, and whether an outcome still holds.

A folder instead of one file that all append to: a cell's outcome is then written by the process that ran it, in one
rename, and neither a killed bench nor two cells on two machines can lose or tear it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import msgspec

from rbserve.bench.matrix import Cell
from rbserve.core.errors import DataError, RbserveError
from rbserve.core.files import home, sha256, write_bytes
from rbserve.core.manifest import read_manifest
from rbserve.core.options import with_options
from rbserve.core.settings import without_place
from rbserve.core.variants import exports_of
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.home.paths import artifact_path, runs_path
from rbserve.models.configs import config_to_dict
from rbserve.models.zoo import find_model
from rbserve.pipeline.data import open_rows
from rbserve.runs.measurement import Result

SCHEMA = 1


class Outcome(msgspec.Struct, frozen=True):
    """How a cell ended. `run` is the name of the file of its measurement, below runs/.

    `absent` says of each variant that cannot be (the model has none such, memory does not hold it) why; `failed` what
    went wrong with a variant while the others were made or measured. `status` "there": nothing had to be done.
    `baseline_marks` has "below popularity" of each variant that is not above the best baseline.
    """

    schema: int
    cell: Cell
    status: Literal["done", "there", "failed", "not run"]
    seconds: float = 0.0
    fingerprint: str = ""
    artifact_digest: str = ""
    comparability_key: str = ""
    run: str = ""
    results: list[Result] = []
    absent: dict[str, str] = {}
    failed: dict[str, str] = {}
    error: str | None = None
    hint: str | None = None
    baseline_marks: dict[str, str] = {}

    @property
    def ok(self) -> bool:
        """Whether cells that need this one can begin."""
        return self.status in ("done", "there")


class Journal:
    """The outcomes of one bench, at bench/<name>/journal/."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = bench_path() / name

    def write(self, outcome: Outcome) -> None:
        """Keeps an outcome, atomically, in place of the cell's earlier one."""
        write_bytes(self._file(outcome.cell), msgspec.json.encode(outcome))

    def read(self, cell: Cell) -> Outcome | None:
        """The cell's last outcome; one that cannot be read is none, and the cell is done again."""
        try:
            return read_manifest(self._file(cell), Outcome, SCHEMA, "an outcome", "")
        except DataError:
            return None

    def log(self, cell: Cell) -> Path:
        """The file of a cell's messages."""
        return self.folder / "logs" / f"{cell.id}.log"

    def standing(self, cell: Cell) -> Outcome | None:
        """The outcome that makes the cell's work superfluous: its result is there and up to date."""
        try:
            return _STANDING[cell.step](cell, self.read(cell))
        except RbserveError:
            return None

    def _file(self, cell: Cell) -> Path:
        return self.folder / "journal" / f"{cell.id}.json"


def bench_path() -> Path:
    """Where every bench keeps its journal."""
    return home() / "bench"


def artifact_of(cell: Cell) -> Artifact:
    """The artefact that a cell builds or measures; ArtifactError where there is none."""
    return open_artifact(artifact_path(cell.name, cell.dataset))


def trained_otherwise(cell: Cell) -> bool:
    """Whether the cell's artefact is there, but of a training with other settings or values than the cell's."""
    if cell.step != "build" or not (cell.training or cell.options):
        return False
    try:
        manifest = artifact_of(cell).manifest
    except RbserveError:
        return False
    config = config_to_dict(with_options(find_model(cell.model).config, cell.options))
    changed = json.loads(json.dumps({key: config[key] for key in cell.options}))
    return any(
        of.get(name) != value
        for of, wanted in (
            (manifest.training.settings, without_place(cell.training)),
            (manifest.config, changed),
        )
        for name, value in wanted.items()
    )


def missing_variants(cell: Cell, artifact: Artifact) -> list[str]:
    """The exported variants that the cell wants, the model can have, and the artefact has not yet."""
    wanted = exports_of(cell.variants or artifact.usual_variants)
    return [name for name in wanted if name in artifact.can_export and name not in artifact.variants]


def _there(cell: Cell, earlier: Outcome | None, fingerprint: str) -> Outcome:
    earlier = earlier if earlier and earlier.cell == cell else Outcome(SCHEMA, cell, "there")
    return msgspec.structs.replace(earlier, status="there", seconds=0.0, fingerprint=fingerprint)


def _prepared(cell: Cell, earlier: Outcome | None) -> Outcome:
    return _there(cell, earlier, open_rows(cell.dataset).fingerprint)


def _built(cell: Cell, earlier: Outcome | None) -> Outcome | None:
    data, artifact = open_rows(cell.dataset), artifact_of(cell)
    if artifact.manifest.dataset.fingerprint != data.fingerprint or missing_variants(cell, artifact):
        return None
    return msgspec.structs.replace(
        _there(cell, earlier, data.fingerprint), failed={}, absent=impossible(cell, artifact)
    )


def _profiled(cell: Cell, earlier: Outcome | None) -> Outcome | None:
    if earlier is None or not earlier.ok or earlier.cell != cell:
        return None
    digest = sha256(artifact_of(cell).path / "manifest.json")
    data = open_rows(cell.dataset)
    same = (earlier.artifact_digest, earlier.fingerprint) == (digest, data.fingerprint) and not earlier.failed
    if not same or (earlier.run and not (runs_path() / earlier.run).is_file()):
        return None
    return _there(cell, earlier, data.fingerprint)


_STANDING = {"prepare": _prepared, "build": _built, "profile": _profiled}


def impossible(cell: Cell, artifact: Artifact) -> dict[str, str]:
    """Why those of the cell's variants cannot be that no artefact of such a model has."""
    why = f"{artifact.name} has no such variant, only {', '.join(artifact.can_have)}"
    return {variant: why for variant in cell.variants if variant not in artifact.can_have}
