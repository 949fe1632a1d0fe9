"""What a cell needs and makes, moved through a store between machines that share no folder.

The command that runs a bench sends what is at its home, a node takes what its cell needs and sends what the cell made,
and the command takes that: at the end its home is as if all had been done there.
"""

from __future__ import annotations

import threading
from pathlib import Path

from rbserve.bench.journal import Outcome
from rbserve.bench.matrix import Cell
from rbserve.core.errors import RbserveError
from rbserve.core.files import sha256
from rbserve.home.paths import artifact_path, dataset_path, is_there, runs_path
from rbserve.models.zoo import find_model
from rbserve.store.manifest import StoredManifest
from rbserve.store.store import Store

MANIFEST = "manifest.json"


class Transfers:
    """Moves data sets, artefacts and run files between the home of this process and a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sent: set[str] = set()
        self._lock = threading.Lock()

    def send_needed(self, cell: Cell) -> None:
        """Pushes what the cell needs of this home, each name once."""
        with self._lock:
            for name, path in _needed(cell).items():
                if name not in self._sent and is_there(path):
                    self._send(name, path)

    def take_needed(self, cell: Cell) -> None:
        """Pulls what the cell needs, where the store has it and it is not here."""
        for name, path in _needed(cell).items():
            self._take(name, path)

    def send_made(self, outcome: Outcome) -> None:
        """Pushes what a cell has made here."""
        for name, path in _made(outcome).items():
            self._send(name, path)

    def take_made(self, outcome: Outcome) -> None:
        """Pulls what a cell has made elsewhere."""
        with self._lock:
            for name, path in _made(outcome).items():
                self._take(name, path)
                self._sent.add(name)

    def _send(self, name: str, path: Path) -> None:
        """Pushes a name, and before it takes what others have added: models on two nodes add to one data set."""
        stored = self._store.manifest(name)
        if name.startswith("data/") and stored is not None and _same(stored, path) and _lacks(stored, path):
            self._store.pull(name, path)
        self._store.push(name, path)
        self._sent.add(name)

    def _take(self, name: str, path: Path) -> None:
        stored = self._store.manifest(name)
        if stored is not None and (not _same(stored, path) or _lacks(stored, path)):
            self._store.pull(name, path)


def _needed(cell: Cell) -> dict[str, Path]:
    """Names in the store, and where they are at home, that a cell can need: some are not made yet."""
    names = {f"data/{cell.dataset}": dataset_path(cell.dataset)}
    if cell.step == "prepare":
        return names
    return names | {
        f"artifacts/{cell.dataset}/{model}": artifact_path(model, cell.dataset)
        for model in dict.fromkeys((cell.name, _donor(cell)))
        if model
    }


def _made(outcome: Outcome) -> dict[str, Path]:
    cell = outcome.cell
    if not outcome.ok:
        return {}
    if cell.step == "profile":
        return {f"runs/{Path(outcome.run).stem}": runs_path() / outcome.run} if outcome.run else {}
    names = {f"data/{cell.dataset}": dataset_path(cell.dataset)}
    if cell.step == "build":
        names[f"artifacts/{cell.dataset}/{cell.name}"] = artifact_path(cell.name, cell.dataset)
    return names


def _donor(cell: Cell) -> str:
    """The row whose weights the cell's model takes; empty for none, and for adopted models."""
    try:
        return find_model(cell.model).weights_of or ""
    except RbserveError:
        return ""


def _same(stored: StoredManifest, path: Path) -> bool:
    """Whether a folder here has the manifest that the stored one has; a single file has none."""
    expected = next((file.sha256 for file in stored.files if file.path == MANIFEST), None)
    here = path / MANIFEST
    return expected is None or (here.is_file() and sha256(here) == expected)


def _lacks(stored: StoredManifest, path: Path) -> bool:
    """Whether a file of the stored name is missing here."""
    if stored.single:
        return not path.is_file()
    return any(not (path / file.path).is_file() for file in stored.files)
