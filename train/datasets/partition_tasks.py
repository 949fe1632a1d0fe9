"""The tasks of a data set that is prepared in partitions: each reads files, and writes files into the shared folder.

`read_share` reads a share of the raw interactions, `distribute` sends events to the partitions of their users, and
`store_part` sorts, cleans and stores the events of a partition. A task uses the memory that its job says.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import UsageError
from rbserve.core.files import scratch
from rbserve.core.types import no_progress
from rbserve.train.datasets.columns import Wanted
from rbserve.train.datasets.delimited import COMMAS
from rbserve.train.datasets.options import Dialect, Reading
from rbserve.train.datasets.raw_shares import RawShare
from rbserve.train.datasets.source import DataSource
from rbserve.train.datasets.workspace import Workspace, literal, pieces_of
from rbserve.train.protocol.event_store import EventStore
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import Interactions
from rbserve.train.protocol.splitting import SPLITTERS
from rbserve.train.protocol.tally import Tally

EVENTS, USERS, ITEMS, NUMBERS = "events", "users", "item.parquet", "usr.parquet"
"""Names in the shared folder: usable events and their users by share, numbers of items and of users."""
COLUMNS = "usr, item, label, time"
SUMS = ("follow", "together", "likes", "given")


@dataclass(frozen=True)
class Shared:
    """What every task knows: the folder that all of them see, and the memory that each may use."""

    folder: Path
    memory: int


@dataclass(frozen=True)
class ReadJob:
    """A share of the raw interactions to be read, by the code of its source."""

    shared: Shared
    number: int
    share: RawShare
    source: DataSource
    raw: Path
    reading: Reading
    needs_times: bool


@dataclass(frozen=True)
class ShareRead:
    """What was in a share: usable events, with or without a known item, and counts of all others."""

    total: int
    rows: int
    event_item: str | None
    problems: Counter[int]
    tally: Tally


@dataclass(frozen=True)
class PartJob:
    """A partition to be stored: of `users` users and `items` items in all, those from `first` to before `last`."""

    shared: Shared
    number: int
    first: int
    last: int
    users: int
    items: int
    protocol: Protocol


@dataclass(frozen=True)
class PartStored:
    """A stored partition: the folder of its columns of events and of `counts.npz`, the counts of its users."""

    folder: Path
    rows: int
    sums: dict[str, int]
    dropped: Counter[str] = field(default_factory=Counter)


def require_shared(folder: Path) -> None:
    """Raises UsageError on a machine that does not see the folder."""
    if not folder.is_dir():
        raise UsageError(
            f"a node of the cluster does not see {folder}",
            "--temp-dir and --raw name folders that all nodes have, such as a network file system",
        )


# ---- Reading ----


class ShareWorkspace(Workspace):
    """A workspace that reads a share of the interactions, and no items."""

    def __init__(self, folder: Path, job: ReadJob) -> None:
        super().__init__(folder, job.shared.memory, Tally(), needs_times=job.needs_times, most_threads=1)
        self._share = job.share

    def add_items(self, rows: Iterable[Sequence[str | None]], path: Path | None = None) -> None:
        """Leaves the items to the process that has begun the tasks."""

    def delimited(
        self, path: Path, wanted: Wanted, dialect: Dialect = COMMAS, header: Sequence[str] | None = None
    ) -> str:
        """SQL for the records of the share."""
        return super().delimited(self._share.copy(self.folder / path.name), wanted, dialect, header)

    def json(self, path: Path, wanted: Wanted) -> str:
        """SQL for the lines of the share."""
        return super().json(self._share.copy(self.folder / path.name), wanted)


def read_share(job: ReadJob) -> ShareRead:
    """Reads a share and writes its usable events and their users."""
    require_shared(job.shared.folder)
    with scratch(job.shared.folder, f"share-{job.number}") as folder:
        space = ShareWorkspace(folder, job)
        with closing(space):
            assert job.source.load is not None
            job.source.load(job.raw, space, job.reading)
            return write_events(space, job.shared.folder, job.number)


def write_events(space: Workspace, folder: Path, number: int, shares: int = 1) -> ShareRead:
    """Writes the usable events of known items in a workspace, in `shares` shares of users, and each user's number."""
    items = f"read_parquet({literal(folder / ITEMS)})"
    split = space.folder / "split"
    space.run(f"""copy (select hash(user_id) % {shares} as share, user_id, i.item, label, time
        from raw_event join {items} i using (item_id) where problem = 0)
        to {literal(split)} (format parquet, compression zstd, partition_by (share))""")
    rows = 0
    for share in range(shares):
        events, written = folder / f"{EVENTS}-{number + share}", split / f"share={share}"
        shutil.rmtree(events, ignore_errors=True)  # of a task that was killed
        if not written.is_dir():  # nobody's
            continue
        written.rename(events)
        users = folder / f"{USERS}-{number + share}.parquet"
        space.run(f"""copy (select user_id, count(*) as events from {parquet_of(events)} group by user_id)
            to {literal(users)} (format parquet)""")
        rows += space.one(f"select sum(events)::bigint from read_parquet({literal(users)})")[0]
    total, item = space.usable_events()
    return ShareRead(total, rows, item, space.problems, space.tally)


def parquet_of(folder: Path) -> str:
    """SQL for all Parquet files of a folder, as one relation."""
    return f"read_parquet({literal(folder / '*.parquet')}, hive_partitioning=false)"


# ---- Numbering ----


def distribute(job: tuple[Shared, int]) -> None:
    """Writes the events of a share to the partitions of their users, with the users' numbers."""
    shared, number = job
    require_shared(shared.folder)
    events = shared.folder / f"{EVENTS}-{number}"
    if not events.is_dir():
        return
    with scratch(shared.folder, f"numbers-{number}") as folder:
        space = Workspace(folder, shared.memory, Tally(), most_threads=1)
        with closing(space):
            space.run(f"""copy (select part, {COLUMNS} from {parquet_of(events)}
                join read_parquet({literal(shared.folder / NUMBERS)}) using (user_id))
                to {literal(folder / "parts")} (format parquet, compression zstd, partition_by (part))""")
        for part in (folder / "parts").glob("part=*"):
            target = shared.folder / part.name / str(number)
            target.parent.mkdir(exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)  # of a task that was killed
            part.rename(target)


# ---- Sorting and storing ----


class PartEvents:
    """The sorted events of a partition, as `EventStore.write` reads them."""

    def __init__(self, job: PartJob, file: Path, rows: int) -> None:
        self.users, self.items, self.rows = job.users, job.items, rows
        self.fields = None
        self._file = file

    def pieces(self) -> Iterator[Interactions]:
        """The events, whole users at a time."""
        return pieces_of(self._file)

    def item_texts(self, items: NDArray[np.int32]) -> Iterator[tuple[list[str], list[str]]]:
        """No texts: the process that has begun the tasks has them."""
        raise NotImplementedError

    def user_ids(self, users: NDArray[np.int32]) -> Iterator[list[str]]:
        """No ids: the process that has begun the tasks has them."""
        raise NotImplementedError


def store_part(job: PartJob) -> PartStored:
    """Sorts the events of a partition by user, cleans and orders them, and counts what its users give."""
    shared, tally = job.shared, Tally()
    require_shared(shared.folder)
    target = shared.folder / f"stored-{job.number}"
    target.mkdir(exist_ok=True)
    raw = shared.folder / f"part={job.number}"
    with scratch(shared.folder, f"sorting-{job.number}") as folder:
        space = Workspace(folder, shared.memory, Tally(), most_threads=1)
        with closing(space):
            events_of_part = parquet_of(raw / "*")
            (rows,) = space.one(f"select count(*) from {events_of_part}")
            space.run(f"""copy (select {COLUMNS} from {events_of_part} order by usr)
                to {literal(folder / "sorted.parquet")} (format parquet, compression zstd)""")
        splitter = SPLITTERS[job.protocol.split](job.protocol, tally, job.users)
        events = PartEvents(job, folder / "sorted.parquet", rows)
        store = EventStore.write(target, events, job.protocol.seed, tally, splitter.count, no_progress)
    users = slice(job.first, job.last)
    counts = {name: array[users] for name, array in splitter.counted.items()}
    np.savez(
        target / "counts.npz",
        seen=store.seen,
        lengths=np.diff(store.offsets)[users],
        allow_pickle=False,
        **counts,
    )
    return PartStored(target, rows, {name: getattr(store, name) for name in SUMS}, tally.dropped)


def counts_of(part: PartStored) -> Mapping[str, NDArray[np.int64]]:
    """The counts of a stored partition's users, by name."""
    with np.load(part.folder / "counts.npz", allow_pickle=False) as counts:
        return dict(counts)
