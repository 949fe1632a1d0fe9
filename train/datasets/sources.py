"""The table of sources, and the one function that turns any of them into a data set."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rbserve.core.dataset import Dataset, ItemTable, write_dataset
from rbserve.core.errors import unknown_name
from rbserve.train.datasets import ml_100k, synthetic
from rbserve.train.sampling import Interactions, Protocol, ctr_splits, seqrec_splits

Reader = Callable[[Path | None, Counter[str]], tuple[Interactions, ItemTable]]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set comes from. `needs` is what the user must bring, empty when it can be fetched or made."""

    read: Reader
    about: str
    needs: str = ""


def _read_synthetic(raw: Path | None, dropped: Counter[str]) -> tuple[Interactions, ItemTable]:
    del raw  # made, not read
    return synthetic.read(synthetic.Planted(), dropped)


SOURCES: dict[str, Source] = {
    "ml-100k": Source(ml_100k.read, "MovieLens-100K: 943 users, 1,682 movies, 100,000 ratings (fetched)"),
    "synthetic": Source(
        _read_synthetic, "planted topics and tastes: chance is AUC 0.5, the ceiling 0.9 (made)"
    ),
}


def prepare(name: str, path: Path, raw: Path | None = None, protocol: Protocol | None = None) -> Dataset:
    """Reads source `name`, applies the protocol, and writes the data set at `path`, atomically."""
    if name not in SOURCES:
        raise unknown_name("data set", name, SOURCES)
    dropped: Counter[str] = Counter()
    events, items = SOURCES[name].read(raw, dropped)
    return build(path, name, events, items, protocol or Protocol(), dropped)


def build(
    path: Path,
    source: str,
    events: Interactions,
    items: ItemTable,
    protocol: Protocol,
    dropped: Counter[str],
) -> Dataset:
    """Splits events for both tasks and writes the data set."""
    return write_dataset(
        path,
        source=source,
        seed=protocol.seed,
        options=dataclasses.asdict(protocol),
        items=items,
        ctr=ctr_splits(events, protocol, dropped),
        seqrec=seqrec_splits(events, protocol, dropped),
        dropped=dropped,
    )
