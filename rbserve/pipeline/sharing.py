"""Data sets, artefacts, runs and benches pushed to a store and pulled from one, by the names that users type."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rbserve.home.stored import home_names, pull, push
from rbserve.home.target import stored_names
from rbserve.progress import progress_bar
from rbserve.store.store import Transfer, open_store


def push_names(
    names: Sequence[str], datasets: Sequence[str], runs: bool, url: str | None = None, again: bool = False
) -> list[Transfer]:
    """Uploads what names mean below the home directory to the store at `url`, or at RBSERVE_STORE."""
    store = open_store(url)
    wanted = stored_names(names, datasets, runs, home_names)
    return _each("push", wanted, lambda name, progress: push(name, store, progress, again))


def pull_names(
    names: Sequence[str], datasets: Sequence[str], runs: bool, url: str | None = None, force: bool = False
) -> list[Transfer]:
    """Brings what names mean in the store at `url`, or at RBSERVE_STORE, to the home directory."""
    store = open_store(url)
    wanted = stored_names(names, datasets, runs, store.names)
    return _each("pull", wanted, lambda name, progress: pull(name, store, progress, force))


def _each(verb: str, names: list[str], work: Callable[..., Transfer]) -> list[Transfer]:
    transfers = []
    for name in names:
        with progress_bar(f"{verb} {name}") as progress:
            transfers.append(work(name, progress))
    return transfers
