"""Names of a store and their places below the home directory: pushed from there, pulled to there.

A name in a store is a place below the home directory: data/<dataset>, artifacts/<dataset>/<model>, runs/<id>,
bench/<name>, reports/<name>. What was last pushed or pulled is remembered in stored/<name>.json, so that a pull
replaces only what the store has as well.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from rbserve.core.errors import ArtifactError, RbserveError, UsageError
from rbserve.core.files import home, mismatch, require_replaceable, write_bytes
from rbserve.core.types import Progress, no_progress
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.home.paths import is_there
from rbserve.progress import progress_bar, say
from rbserve.store.manifest import StoredManifest, parse_manifest, stored_name
from rbserve.store.store import Store, Transfer, open_store

PARTS = {"data": 2, "artifacts": 3, "runs": 2, "bench": 2, "reports": 2}
"""Kinds of names, and how many parts a name of each has."""
EXAMPLE = "for example data/microlens, artifacts/microlens/gdcn, runs/ID or bench/NAME"


def is_stored_kind(name: str) -> bool:
    """Whether a name begins with a kind of names in a store: data/…, artifacts/…, runs/…, bench/…, reports/…"""
    return name.partition("/")[0] in PARTS and "/" in name


def place_of(name: str) -> Path:
    """Where the content of a name is below the home directory; UsageError for what is no name in a store."""
    parts = stored_name(name).split("/")
    if PARTS.get(parts[0]) != len(parts):
        raise UsageError(f"{name} is no name in a store", EXAMPLE)
    return home() / (f"{name}.json" if parts[0] == "runs" else name)


def home_names(prefix: str = "") -> list[str]:
    """The names of what is below the home directory, sorted; those that begin with the parts of `prefix`."""
    folders = [
        path.parent for kind in ("data/*", "artifacts/*/*") for path in home().glob(f"{kind}/manifest.json")
    ]
    folders += [path for kind in ("bench/*", "reports/*") for path in home().glob(kind) if path.is_dir()]
    paths = [*folders, *(path.with_suffix("") for path in home().glob("runs/*.json"))]
    names = (path.relative_to(home()).as_posix() for path in paths)
    shown = (name for name in names if not any(part.startswith(".") for part in name.split("/")))
    return sorted(name for name in shown if not prefix or name.startswith(f"{prefix}/"))


def push(name: str, store: Store, progress: Progress = no_progress, again: bool = False) -> Transfer:
    """Uploads what is at the place of a name. UsageError where nothing is there."""
    place = place_of(name)
    if not (
        is_there(place) or place.is_file() or (place.is_dir() and name.startswith(("bench/", "reports/")))
    ):
        raise UsageError(
            f"there is nothing at {place} to push", "`rbserve datasets` and `rbserve models` list what is"
        )
    transfer = store.push(name, place, progress, again=again)
    _remember(store.manifest(name))
    return transfer


def pull(name: str, store: Store, progress: Progress = no_progress, force: bool = False) -> Transfer:
    """Makes the place of a name what the store has, unless it was changed here since it was pushed or pulled.

    Such a change is a UsageError, and lost with `force`. Nothing is pulled where all stored files are here and others
    were added, such as exported variants.
    """
    place = place_of(name)
    manifest = store.require(name)
    if place.exists() and not force and manifest.difference(place):
        before = _remembered(name)
        if before is None or before.difference(place):
            if _holds(place, manifest):
                return Transfer(name, len(manifest.files), manifest.bytes, 0, 0)
            raise UsageError(
                f"{place} is another one than {name} in the store, and was not pushed",
                "push it, keep it under another name, or replace it: rbserve pull --force",
            )
    if not manifest.single and not name.startswith(("bench/", "reports/")):
        require_replaceable(place)
    transfer = store.pull(name, place, progress)
    _remember(manifest)
    return transfer


def pull_artifact(name: str) -> Artifact:
    """The artefact of a name, pulled from the store at RBSERVE_STORE where this machine has not the same."""
    store = open_store()
    with progress_bar(f"pull {name}") as progress:
        transfer = pull(name, store, progress)
    if transfer.moved_files:
        say(f"pulled {name} from {store.url}: {transfer.moved_bytes / 1e6:,.1f} MB")
    return open_artifact(place_of(name))


def _holds(place: Path, manifest: StoredManifest) -> bool:
    """Whether every stored file of an artefact is at a place, which may have more, such as exported variants."""
    files = [file for file in manifest.files if file.path != "manifest.json"]
    if manifest.single or not all(mismatch(place / file.path, file.digest) is None for file in files):
        return False
    try:
        open_artifact(place)
    except ArtifactError:
        return False
    return True


def _memory(name: str) -> Path:
    return home() / "stored" / f"{name}.json"


def _remember(manifest: StoredManifest | None) -> None:
    if manifest is not None:
        write_bytes(_memory(manifest.name), msgspec.json.encode(manifest))


def _remembered(name: str) -> StoredManifest | None:
    try:
        return parse_manifest(_memory(name).read_bytes(), str(_memory(name)))
    except (OSError, RbserveError):
        return None
