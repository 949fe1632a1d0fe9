"""A data set made of a few events that a test has in memory."""

from __future__ import annotations

from pathlib import Path

from rbserve.data.dataset import Dataset, ItemTable
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import Interactions
from rbserve.train.protocol.splitting import EventsInMemory, write_splits
from rbserve.train.protocol.tally import Tally


def build(
    path: Path,
    source: str,
    events: Interactions,
    items: ItemTable,
    protocol: Protocol,
    tally: Tally | None = None,
) -> Dataset:
    """Splits the events for both tasks and writes the data set to `path`, with all items."""
    held = EventsInMemory(events, items)
    return write_splits(path, source, held, protocol, tally or Tally(), catalogue="all")
