"""The table of data sources, and the function that makes a data set of any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbserve.core.errors import DataError, UsageError, unknown_name
from rbserve.core.files import scratch
from rbserve.core.types import Progress, no_progress
from rbserve.data.dataset import Dataset
from rbserve.train.datasets import (
    avazu,
    cds,
    criteo,
    goodbooks,
    goodreads,
    hm,
    microlens,
    mind,
    ml_100k,
    synthetic,
    tables,
)
from rbserve.train.datasets.feature_options import own_fields
from rbserve.train.datasets.log_splits import EVERY_ROW, write_log
from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.partitioned import NotInSharesError, PartitionedWorkspace, Partitions
from rbserve.train.datasets.source import DataSource, no_times
from rbserve.train.datasets.workspace import Workspace
from rbserve.train.protocol.options import Catalogue, Protocol
from rbserve.train.protocol.splitting import TEXTS, EventsInMemory, Texts, write_splits
from rbserve.train.protocol.tally import Tally

SOURCES: dict[str, DataSource] = {
    "ml-100k": ml_100k.SOURCE,
    "synthetic": synthetic.SOURCE,
    "mind": mind.SOURCE,
    "hm": hm.SOURCE,
    "microlens": microlens.SOURCE,
    "goodreads": goodreads.SOURCE,
    "cds": cds.SOURCE,
    "goodbooks": goodbooks.SOURCE,
    "criteo": criteo.SOURCE,
    "avazu": avazu.SOURCE,
    "csv": tables.CSV,
    "json": tables.JSON,
    "parquet": tables.PARQUET,
}
MEMORY = 2 << 30
READING = Reading()
LOG_OPTIONS = ("split", "valid_users", "ctr_test_rows", "ctr_finetune_rows", "max_rows")
"""The options of the protocol that a log of clicks takes."""


def find_source(name: str) -> DataSource:
    """The source of this name; UsageError with the nearest name if there is none."""
    if name not in SOURCES:
        raise unknown_name("data set", name, SOURCES)
    return SOURCES[name]


def protocol_of(
    source: DataSource, chosen: Mapping[str, Any] | None = None, reading: Reading = READING
) -> Protocol:
    """The protocol of a source, with the chosen values instead of its own.

    A user's own tables without label and rating have only likes: two random negatives a user are drawn. Random
    negatives need held-out likes: two, as in the paper, unless a number is given.
    """
    if source.log is not None:
        return _protocol_of_log(source, chosen or {})
    with_histories = {"given_history": True, "min_history": 1} if reading.histories else {}
    values = {**source.defaults, **with_histories, **(chosen or {})}
    likes_alone = source.own and not reading.label and not reading.rating
    if likes_alone and "negatives" not in values:
        values["negatives"] = 2
    if likes_alone and not values["negatives"]:
        raise UsageError(
            "--negatives native takes the users' own dislikes: without --label and --rating every row is a like",
            "name the column with --label or --rating, or draw random negatives: --negatives 2",
        )
    if values.get("negatives") and not values.get("held_out"):
        if "held_out" in (chosen or {}):
            raise UsageError(
                "random negatives need held-out likes",
                "--held-out 2" if likes_alone else "--held-out 2, or --negatives native with --held-out 0",
            )
        values["held_out"] = 2
    protocol = Protocol(**values)
    if protocol.negatives_by != "uniform" and protocol.given_history:
        raise UsageError(
            f"--negatives-by {protocol.negatives_by} has nothing to draw: given histories are older than the likes, "
            "so that an item's age alone would tell likes from negatives",
            "--negatives-by uniform, or negatives of the source's own: --negatives native",
        )
    if protocol.negatives_by != "uniform" and not protocol.negatives:
        raise UsageError(
            f"--negatives-by {protocol.negatives_by} has nothing to draw: the negatives are the users' own dislikes",
            "--negatives 2 draws random ones instead",
        )
    if protocol.split == "time" and source.own and reading.time is None:
        raise no_times(
            "a table without --time", "name the column with --time, or divide the users: --split users"
        )
    if protocol.split == "time" and not source.times:
        raise no_times(source.about.partition(":")[0])
    return protocol


def _protocol_of_log(source: DataSource, chosen: Mapping[str, Any]) -> Protocol:
    """The protocol of a log of clicks: a tenth of the rows each for validation and test, by time."""
    title = source.about.partition(":")[0]
    for name in chosen:
        if name not in LOG_OPTIONS:
            raise UsageError(
                f"{title} takes no option {name}: its rows have no users, items and histories",
                f"it takes {', '.join(LOG_OPTIONS)}",
            )
    if chosen.get("split", "time") != "time":
        raise UsageError(
            f"{title} has no users to divide: each row is a request of its own",
            "without --split, time divides",
        )
    shares = {"valid_users": 1 / 9, "ctr_test_rows": EVERY_ROW, "ctr_finetune_rows": EVERY_ROW}
    return Protocol(**{**shares, **chosen, "split": "time"})


def prepare(
    name: str,
    path: Path,
    raw: Path | None = None,
    protocol: Protocol | None = None,
    *,
    reading: Reading = READING,
    texts: Texts = TEXTS,
    catalogue: Catalogue = "used",
    memory: int = MEMORY,
    temporary: Path | None = None,
    progress: Progress = no_progress,
    partitions: Partitions | None = None,
) -> Dataset:
    """Reads the source `name`, applies the protocol, and writes the data set at `path`, atomically.

    DuckDB uses at most `memory` bytes and spills to the folder `temporary` (default: beside the data set).
    With `partitions` the events are read, sorted and cleaned by tasks, each with `memory`, and the result is the same.
    """
    source = find_source(name)
    protocol = protocol or protocol_of(source, reading=reading)
    if partitions is not None:
        check_partitions(source, reading)
    tally = Tally()
    written = {"texts": texts, "catalogue": catalogue, "progress": progress}
    if source.make is not None:
        events, items = source.make(tally)
        return write_splits(path, name, EventsInMemory(events, items), protocol, tally, **written)  # type: ignore[arg-type]
    folder = raw or (source.fetch() if source.fetch else None)
    if source.log is not None and folder is not None:
        with _stoppable():
            return write_log(
                source.log, name, path, folder, protocol, reading, memory, temporary or path.parent, progress
            )
    if folder is None:
        if reading.interactions is None or reading.items is None:
            raise UsageError(
                f"{name} is not fetched: --raw names the folder of its files", f"it needs {source.needs}"
            )
        folder = Path()
    work = _Work(
        name, path, folder, source, reading, protocol, tally, memory, temporary or path.parent, written
    )
    return work.by_one_process(progress) if partitions is None else work.in_partitions(partitions, progress)


@dataclass(frozen=True)
class _Work:
    """What makes a data set of files with users and items, in one process or by tasks."""

    name: str
    path: Path
    raw: Path
    source: DataSource
    reading: Reading
    protocol: Protocol
    tally: Tally
    memory: int
    temporary: Path
    written: Mapping[str, Any]

    def by_one_process(self, progress: Progress) -> Dataset:
        """Reads, sorts and writes here."""
        by_time = self.protocol.split == "time"
        with scratch(self.temporary, self.path.name) as folder:
            return self._write(
                Workspace(
                    folder,
                    self.memory,
                    self.tally,
                    self.protocol.max_rows,
                    progress,
                    by_time,
                    own_fields(self.reading),
                )
            )

    def in_partitions(self, partitions: Partitions, progress: Progress) -> Dataset:
        """Reads, sorts and cleans by tasks; where shares cannot say what is wrong, one process reads all."""
        for in_shares in (True, False):
            with scratch(self.temporary, self.path.name) as folder:
                space = PartitionedWorkspace(
                    folder, self.memory, self.tally, self.protocol, progress, partitions=partitions,
                    source=self.source, raw=self.raw, reading=self.reading, in_shares=in_shares,
                )  # fmt: skip
                try:
                    return self._write(space)
                except (NotInSharesError, DataError):
                    if not space.reads_in_shares:
                        raise
                    self.tally.clear()  # one process reads again, and says exactly what is wrong
        raise AssertionError("unreachable")

    def _write(self, space: Workspace) -> Dataset:
        reading = self.reading
        options = {"like_from": reading.like_from, "dislike_to": reading.dislike_to}
        if reading.rating_none is not None:
            options["rating_none"] = reading.rating_none
        with closing(space), _stoppable():
            assert self.source.load is not None
            self.source.load(self.raw, space, reading)
            space.number(reading.interactions or self.raw)
            if not reading.allow_loss:
                space.check_loss(self.source.own)
            stored = space.store if isinstance(space, PartitionedWorkspace) else None
            return write_splits(
                self.path,
                self.name,
                space,
                self.protocol,
                self.tally,
                options=options,
                stored=stored,
                **self.written,
            )


def check_partitions(source: DataSource, reading: Reading) -> None:
    """Raises UsageError for a source that cannot be prepared in partitions."""
    title = source.about.partition(":")[0]
    if source.log is not None or source.make is not None:
        raise UsageError(
            f"{title} cannot be partitioned by user", "prepare it on one machine: without --partitions"
        )
    if own_fields(reading).specs:
        raise UsageError(
            "feature columns are not partitioned", "prepare them on one machine: without --partitions"
        )


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turns DuckDB's answer to Ctrl-C, an error of its own, into KeyboardInterrupt."""
    try:
        yield
    except RuntimeError as error:
        if "interrupted" not in str(error).lower():
            raise
        raise KeyboardInterrupt from None
