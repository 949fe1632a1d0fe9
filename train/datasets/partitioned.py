"""A data set prepared in partitions by user, by tasks of any engine: the same bytes as on one machine.

    raw shares ── read ──► events by share ── distribute ──► events by partition ── sort, clean, count ──► columns
                     users of all shares ── number, cut into ranges ──┘                    joined in the order of users

A partition is a range of users, of about as many events as any other. What is left to the process that begins the
tasks: items and their texts, the numbers of users, and the last pass, which draws negatives and writes the rows.
"""

from __future__ import annotations

import shutil
import typing
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rbserve.core.errors import RbserveError
from rbserve.core.loss import is_too_much
from rbserve.core.types import Progress
from rbserve.data.columns import ColumnWriter, blocks, open_column
from rbserve.train.datasets.columns import Wanted
from rbserve.train.datasets.delimited import COMMAS
from rbserve.train.datasets.options import Dialect, Reading
from rbserve.train.datasets.partition_tasks import (
    EVENTS,
    ITEMS,
    NUMBERS,
    SUMS,
    USERS,
    PartJob,
    PartStored,
    ReadJob,
    Shared,
    ShareRead,
    counts_of,
    distribute,
    read_share,
    store_part,
    write_events,
)
from rbserve.train.datasets.raw_shares import RawShare, raw_shares
from rbserve.train.datasets.source import DataSource
from rbserve.train.datasets.workspace import Workspace, literal
from rbserve.train.protocol.event_store import EventStore
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.splitting import Splitter
from rbserve.train.protocol.tally import Tally

Job = TypeVar("Job")
Result = TypeVar("Result")
OF_TASK = 0.75  # of a task's memory is DuckDB's; arrays and the interpreter take the rest
KINDS: dict[str, type[np.generic]] = {"item": np.int32, "label": np.int8, "time": np.int64}


class Engine(typing.Protocol):
    """Runs a function on many jobs, on one machine or several, and returns the results in the jobs' order."""

    def __call__(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], progress: Callable[[int], None]
    ) -> list[Result]:
        """Calls `progress` with the number of jobs that are done."""
        ...


@dataclass(frozen=True)
class Partitions:
    """How many partitions there are, and what runs their tasks."""

    count: int
    engine: Engine


class NotInSharesError(RbserveError):
    """What the shares hold has to be told by one process that reads all of the file."""


class PartitionedWorkspace(Workspace):
    """A workspace whose events are read, sorted and stored by tasks in a folder that all of them see."""

    def __init__(
        self, folder: Path, memory: int, tally: Tally, protocol: Protocol, progress: Progress, *,
        partitions: Partitions, source: DataSource, raw: Path, reading: Reading, in_shares: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(folder, memory, tally, protocol.max_rows, progress, protocol.split == "time")
        self._engine, self._partitions, self._protocol = partitions.engine, partitions.count, protocol
        self._source, self._raw, self._reading = source, raw.absolute(), reading
        self._shared = Shared(folder.absolute() / "shared", int(memory * OF_TASK))
        self._shared.folder.mkdir()
        self._may_share = in_shares and source.by_line and not protocol.max_rows
        self._shares: list[RawShare] = []
        self._ranges = np.zeros(0, np.int64)

    @property
    def reads_in_shares(self) -> bool:
        """Whether tasks read the interactions; else this process does."""
        return bool(self._shares)

    # For sources: interactions that have shares are read by tasks

    def delimited(
        self, path: Path, wanted: Wanted, dialect: Dialect = COMMAS, header: Sequence[str] | None = None
    ) -> str:
        """SQL for the records of a file; nothing where tasks read it."""
        quotes = dialect.quotes != "literal"
        if dialect.encoding is None and self._share(path, header=header is None, quotes=quotes):
            return ""
        return super().delimited(path, wanted, dialect, header)

    def json(self, path: Path, wanted: Wanted) -> str:
        """SQL for the lines of a file; nothing where tasks read it."""
        if self._share(path, header=False, quotes=False):
            return ""
        return super().json(path, wanted)

    def add_events(self, relation: str, path: Path, **columns: Any) -> None:
        """Adds the events of a relation, unless tasks read them."""
        self._events_file = path
        if not self._shares:
            super().add_events(relation, path, **columns)

    def _share(self, path: Path, *, header: bool, quotes: bool) -> bool:
        if self._may_share:
            shares = raw_shares(path.absolute(), self._partitions, header=header, quotes=quotes)
            self._shares = shares if len(shares) > 1 else []
        return bool(self._shares)

    # Numbering

    def number(self, path: Path) -> None:
        """Numbers items and users, and has the events sorted and stored by partition; `store` joins them."""
        self._number_items()
        folder = self._shared.folder
        self.run(f"copy (select item_id, item from item) to {literal(folder / ITEMS)} (format parquet)")
        read = self._read()
        self.rows = sum(share.rows for share in read)
        total = sum(share.total for share in read)
        if is_too_much(total - self.rows, total):
            if self._shares:
                raise NotInSharesError("too many rows are of no known item")
            self._look_at_lost_items()
        self._number_users()
        event_item = min((share.event_item for share in read if share.event_item is not None), default=None)
        self._end_numbering(path, total, event_item)

    def _read(self) -> list[ShareRead]:
        folder = self._shared.folder
        if not self._shares:
            return [write_events(self, folder, 0, self._partitions)]
        jobs = [
            ReadJob(self._shared, number, share, self._source, self._raw, self._reading, self.needs_times)
            for number, share in enumerate(self._shares)
        ]
        read = self._run_tasks(read_share, jobs, f"shares of {self._events_file.name} read")
        for share in read:
            self.problems += share.problems
            self.tally.add(share.tally)
        return read

    def _number_users(self) -> None:
        """Numbers the users of all shares, and divides them into ranges of about as many events."""
        folder = self._shared.folder
        users = f"read_parquet({literal(folder / f'{USERS}-*.parquet')})"
        self.run(f"""create table usr as
            select user_id, (row_number() over (order by length(user_id), user_id) - 1)::int as usr, events
            from (select user_id, sum(events)::bigint as events from {users} group by user_id)""")
        counts = self._database.execute("select events from usr order by usr").fetchnumpy()["events"]
        ends = np.cumsum(np.asarray(counts, np.int64))
        cuts = np.searchsorted(ends, self.rows * np.arange(1, self._partitions) // self._partitions)
        self._ranges = np.unique([0, *cuts, len(ends)])
        part = " + ".join(["0", *(f"(usr >= {cut})::int" for cut in self._ranges[1:-1])])
        self.run(f"""copy (select user_id, usr, {part} as part from usr)
            to {literal(folder / NUMBERS)} (format parquet)""")

    def store(self, folder: Path, splitter: Splitter) -> EventStore:
        """The clean events of all partitions in one store, in the order of their users."""
        shares = len(self._shares) or self._partitions
        self._run_tasks(distribute, [(self._shared, share) for share in range(shares)], "shares distributed")
        for events in self._shared.folder.glob(f"{EVENTS}-*"):
            shutil.rmtree(events)
        ranges = zip(self._ranges[:-1].tolist(), self._ranges[1:].tolist(), strict=True)
        jobs = [
            PartJob(self._shared, number, first, last, self.users, self.items, self._protocol)
            for number, (first, last) in enumerate(ranges)
        ]
        parts = self._run_tasks(store_part, jobs, "partitions sorted and stored")
        return self._join(folder, jobs, parts, splitter)

    def _join(
        self, folder: Path, jobs: Sequence[PartJob], parts: Sequence[PartStored], splitter: Splitter
    ) -> EventStore:
        store = EventStore(folder, self.users, self.items)
        with ExitStack() as files:
            columns = {
                name: files.enter_context(closing(ColumnWriter(folder / f"{name}.npy", kind)))
                for name, kind in KINDS.items()
            }
            for job, part in zip(jobs, parts, strict=True):
                for name, column in columns.items():
                    for block in blocks(open_column(part.folder / f"{name}.npy")):
                        column.append(block)
                    (part.folder / f"{name}.npy").unlink()
                counts = counts_of(part)
                store.seen |= counts["seen"].astype(bool)
                store.offsets[1 + job.first : 1 + job.last] = counts["lengths"]
                for name, array in splitter.counted.items():
                    array[job.first : job.last] = counts[name]
                for name in SUMS:
                    setattr(store, name, getattr(store, name) + part.sums[name])
                self.tally.dropped.update(part.dropped)
        np.cumsum(store.offsets, out=store.offsets)
        return store

    def _run_tasks(self, function: Callable[[Job], Result], jobs: Sequence[Job], line: str) -> list[Result]:
        self._progress(0, len(jobs), line)
        return self._engine(function, jobs, lambda done: self._progress(done, len(jobs), line))


def in_this_process(
    function: Callable[[Job], Result], jobs: Sequence[Job], progress: Callable[[int], None]
) -> list[Result]:
    """The engine of one process: one job after the other."""
    results = []
    for done, job in enumerate(jobs, 1):
        results.append(function(job))
        progress(done)
    return results
