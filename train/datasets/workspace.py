"""Raw files of any size become numbered events, in a DuckDB database with a memory limit.

Delimited files stream in from `delimited.py`. Every record becomes a row or is counted by the reason why not: no UTF-8,
another number of fields, an unreadable time or label. A line of a JSON file that is no JSON object is counted too. Item
texts come from `reading.py`, which repairs more and is slower.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.errors import UNENDING, DataError, RbserveError, UsageError
from rbserve.core.ids import id_sql
from rbserve.core.loss import is_too_much
from rbserve.core.types import Progress, no_progress
from rbserve.train.datasets import parquet, raw_file
from rbserve.train.datasets.columns import Wanted, column_places
from rbserve.train.datasets.delimited import COMMAS, EVENTS, SHOWN, DelimitedFile
from rbserve.train.datasets.field_tables import (
    NO_FIELDS,
    OwnFields,
    StoredFields,
    declared,
    first_values,
    selected,
)
from rbserve.train.datasets.formats import require_json_lines
from rbserve.train.datasets.loss import (
    ITEM_LOSSES,
    NO_LABEL,
    NO_TEXT,
    NO_TIME,
    advice_for,
    check_loss,
    counted,
)
from rbserve.train.datasets.options import Dialect
from rbserve.train.protocol.event_store import PIECE
from rbserve.train.protocol.sampling import GIVEN, Interactions
from rbserve.train.protocol.tally import Tally

BATCH = 50_000
MEMORY_A_THREAD = 512 << 20
STOP_S = 10.0  # an interrupted statement is waited for so long: DuckDB 2.0 sometimes never ends one
PROBLEMS = {
    1: EVENTS.fields,
    2: "row without user or item",
    3: NO_TIME,
    4: NO_LABEL,
    6: "rating that means none",
}

LOSSES = (PROBLEMS[2], PROBLEMS[3], PROBLEMS[4])
ONLY_ID = "item without text"


class Workspace:
    """A temporary database that a source is read into; once numbered, it is a `splitting.Events`."""

    def __init__(
        self,
        folder: Path,
        memory: int,
        tally: Tally,
        max_rows: int = 0,
        progress: Progress = no_progress,
        needs_times: bool = False,
        own: OwnFields = NO_FIELDS,
        most_threads: int | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tally = tally
        self.advice: dict[
            str, str
        ] = {}  # by the reason of a loss, what the user can do about it in these files
        self.max_rows = max_rows
        self.needs_times = needs_times
        self.own = own
        self._progress = progress
        import duckdb  # imported here: listing the sources does not need it

        self._database = duckdb.connect(str(folder / "work.duckdb"))
        threads = max(1, min(most_threads or os.cpu_count() or 1, memory // MEMORY_A_THREAD))
        for setting, value in {
            "memory_limit": f"{memory // (1 << 20)}MiB",
            "temp_directory": str(folder / "spilled"),
            "threads": threads,
            "TimeZone": "UTC",
            "enable_progress_bar": True,
            "enable_progress_bar_print": False,
        }.items():
            self._database.execute(f"set {setting} = {literal(value)}")
        self._database.execute("begin")  # one transaction: nothing has to survive a crash
        self._database.execute(
            f"create table raw_item (position bigint, item_id varchar, text varchar{declared(own.of_items)})"
        )
        self._database.execute(
            f"create table raw_user (position bigint, user_id varchar{declared(own.of_users)})"
        )
        self._database.execute(
            "create table raw_event (problem tinyint, user_id varchar, item_id varchar, label tinyint, time bigint"
            f"{declared(own.of_events)})"
        )
        self.problems: Counter[int] = Counter()
        self._taken: list[tuple[str, dict[str, str]]] = []
        self._checked: set[Path] = set()
        self._files: dict[str, tuple[DelimitedFile, list[int]]] = {}
        self._streamed = 0
        self._stuck = False  # whether an interrupted statement did not end
        self.users = self.items = self.rows = 0
        self.read_events = self.read_items = 0
        self._events_file = folder
        self._items_table = "the items table"

    def close(self) -> None:
        """Closes the database; one with a stuck statement ends with the process."""
        if not self._stuck:
            self._database.close()

    # For sources

    def add_items(self, rows: Iterable[Sequence[str | None]], path: Path | None = None) -> None:
        """Adds items from the file `path`: id, text and the values of item fields; of several rows the first counts."""
        self._items_table = f"the items table {path}" if path else self._items_table
        self._add_rows("raw_item", ("item_id", "text", *self.own.of_items), rows, "items read")

    def add_users(self, rows: Iterable[Sequence[str | None]]) -> None:
        """Adds users: id and the values of user fields; of several rows of a user the first counts."""
        self._add_rows("raw_user", ("user_id", *self.own.of_users), rows, "users read")

    def _add_rows(
        self, table: str, names: Sequence[str], rows: Iterable[Sequence[str | None]], line: str
    ) -> None:
        done = 0
        stream = iter(rows)
        while batch := list(islice(stream, BATCH)):
            columns = (pa.array(column, pa.string()) for column in zip(*batch, strict=True))
            positions = pa.array(range(done, done + len(batch)), pa.int64())
            self._insert(table, {"position": positions, **dict(zip(names, columns, strict=True))})
            done += len(batch)
            self._progress(done, 0, line)

    def delimited(
        self, path: Path, wanted: Wanted, dialect: Dialect = COMMAS, header: Sequence[str] | None = None
    ) -> str:
        """SQL for the records of a delimited file: a relation of `ok` and the wanted columns, as text.

        The first record is the header, unless `header` names the columns. Records that cannot be read are counted
        while the file is read, and are not in the relation.
        """
        file = DelimitedFile(path, dialect, self.tally, EVENTS, header, self.max_rows)
        places = column_places(path, wanted, file.names)
        name = f"file_{len(self._files)}"
        self._files[name] = file, sorted(set(places.values()))
        self._checked.add(path)  # reading a packed file to its end checks it
        columns = ", ".join(f"trim(c{place}) as {identifier(role)}" for role, place in places.items())
        return f"select true as ok, {columns} from {name}"

    def parquet(self, parts: Sequence[Path], wanted: Mapping[str, str]) -> str:
        """SQL for the rows of a Parquet table: a relation of `ok` and the wanted columns, as text."""
        names = ", ".join(f"{identifier(role)} varchar" for role in wanted)
        self._database.execute(f"create table parquet_rows ({names})")
        rows = parquet.count_rows(parts)
        total, done = min(rows, self.max_rows or rows), 0
        for columns in parquet.text_batches(parts, wanted, self.max_rows, self.own.of_events):
            self._insert("parquet_rows", columns)
            done += len(columns["user"])
            self._progress(done, total, f"rows of {parts[0].name}")
        return "select true as ok, * from parquet_rows"

    def count_values(self, relation: str, expressions: Sequence[str]) -> dict[str, int]:
        """The number of rows of the relation in which each SQL expression has a value."""
        counted_values = ", ".join(f"count({expression})" for expression in expressions)
        counts = self.one(f"select {counted_values} from {relation}")
        return dict(zip(expressions, counts, strict=True))

    def value_range(self, relation: str, expression: str) -> tuple[float, float]:
        """The smallest and the largest value of the SQL expression in the relation."""
        low, high = self.one(f"select min({expression}), max({expression}) from {relation}")
        return low, high

    def json(self, path: Path, wanted: Wanted) -> str:
        """SQL for the lines of a JSON file: a relation of `ok` and the wanted fields, as text; names match exactly."""
        require_json_lines(path)
        if raw_file.has_mark(
            path
        ):  # with several threads, DuckDB's JSON reader loses the line behind the mark
            raw_file.copy_without_mark(path, unmarked := self.folder / f"unmarked {path.name}")
            path = unmarked
        roles = wanted if isinstance(wanted, Mapping) else {name: name for name in wanted}
        pointers = [literal("/" + name.replace("~", "~0").replace("/", "~1")) for name in roles.values()]
        fields = [f"f[{place + 1}]" for place in range(len(roles))]
        columns = ", ".join(
            f"{field} as {identifier(role)}" for field, role in zip(fields, roles, strict=True)
        )
        return (
            f"select coalesce({', '.join(fields)}) is not null as ok, {columns} "
            f"from (select json_extract_string(json, [{', '.join(pointers)}]) as f "
            f"from read_ndjson_objects({self._stored(path)}, ignore_errors=true))"
        )

    def join_parts(self, parts: Sequence[Path], relation: Callable[[Path], str]) -> str:
        """Reads all parts of a table, in their order, into one table of the database; returns its name.

        `max_rows` bounds all parts together, including rows that cannot be read.
        """
        most, lost = self.max_rows, self.tally.dropped.total()
        try:
            for part in parts:
                verb = "create table all_parts as" if part is parts[0] else "insert into all_parts"
                self.run(f"{verb} {relation(part)}", part)
                (rows,) = self.one("select count(*) from all_parts")
                self.max_rows = most and most - rows - (self.tally.dropped.total() - lost)
                if most and self.max_rows <= 0:
                    break
        finally:
            self.max_rows = most
        return "all_parts"

    def table(self, name: str, select: str, path: Path) -> str:
        """Reads a relation of the file into a table, for use in several selects; returns its name."""
        self.run(f"create table {name} as {select}", path)
        return name

    def add_events(self, relation: str, path: Path, *, user: str, item: str, label: str, time: str,
                   neither: str = "", has_fields: bool = False) -> None:  # fmt: skip
        """Adds the events of `relation`, which has a column `ok`; the other arguments are SQL expressions over it.

        `label` is 1, 0, GIVEN, null (no label), -1 (neither liked nor disliked, for the reason `neither`), or -2 (a
        rating that means none). `has_fields`: the relation has the columns of the events' fields, else they are null.
        """
        fields = "".join(f", {role if has_fields else 'null'} as {role}" for role in self.own.of_events)
        values = f"""select ok, {id_sql(user)} as user_id, {id_sql(item)} as item_id,
            ({label})::tinyint as label, ({time})::bigint as time{fields} from ({relation})"""
        select = f"""select case when not ok then 1
                   when coalesce(user_id, '') = '' or coalesce(item_id, '') = '' then 2
                   when time is null then 3 when label is null then 4
                   when label = -1 then 5 when label = -2 then 6 else 0 end as problem,
            user_id, item_id, label, time{selected(self.own.of_events)} from ({values})"""
        self.run(f"insert into raw_event {select}", path)
        empty = f"coalesce({id_sql(user)}, '') = '' or coalesce({id_sql(item)}, '') = ''"
        conditions = (empty, f"({time}) is null", f"({label}) is null")
        self._taken.append((relation, dict(zip(LOSSES, conditions, strict=True))))
        self._events_file = path
        counts = Counter(
            dict(self._rows("select problem, count(*) from raw_event where problem > 0 group by all"))
        )
        for problem, count in (counts - self.problems).items():
            self.tally.dropped[PROBLEMS.get(problem, neither)] += count
        self.problems = counts

    def add_histories(self, parts: Sequence[Path], user: str, items: str) -> None:
        """Adds a column of lists: what users liked, in order, before the first of their other events."""
        self._database.execute('create table history_rows ("user" varchar, item varchar, back bigint)')
        for columns in parquet.list_batches(parts, user, items):
            self._insert("history_rows", columns)
        first = (
            "select user_id as known, min(time) as first from raw_event where problem = 0 group by user_id"
        )
        self.add_events(
            f"select true as ok, * from history_rows left join ({first}) on known = {id_sql(identifier('user'))}",
            parts[0],
            user=identifier("user"),
            item="item",
            label=str(GIVEN),
            time="coalesce(first, 0) - back",
        )

    def number(self, path: Path) -> None:
        """Numbers items and users by the length of their ids, then by id; events of items without text are dropped."""
        self._number_items()
        self.run("""create table usr as
            select user_id, (row_number() over (order by length(user_id), user_id) - 1)::int as usr
            from (select distinct user_id from raw_event semi join item using (item_id) where problem = 0)""")
        if of_users := self.own.roles("user"):
            self._add_user_fields(of_users)
        of_context = selected(self.own.roles("context"))
        total, event_item = self.usable_events()
        sorted_events = self.folder / "events.parquet"
        self.run(f"""copy (select usr, item, label, time{of_context} from raw_event
            join item using (item_id) join usr using (user_id) where problem = 0 order by usr{of_context})
            to {literal(sorted_events)} (format parquet, compression zstd)""")
        self.rows = pq.read_metadata(sorted_events).num_rows
        if is_too_much(total - self.rows, total):
            self._look_at_lost_items()
        self._end_numbering(path, total, event_item)

    def _number_items(self) -> None:
        """Makes the table `item` of the items read: id, number, text and fields."""
        of_items = self.own.of_items
        self.run(f"""create table item as
            select item_id, (row_number() over (order by length(item_id), item_id) - 1)::int as item, text
            {selected(of_items)} from (select item_id, arg_min(text, position) as text
            {first_values(of_items, "position")} from raw_item group by item_id)""")
        self.items, read = self.one("select (select count(*) from item), (select count(*) from raw_item)")
        self.tally.dropped["duplicate item"] += read - self.items
        self.read_items = read

    def usable_events(self) -> tuple[int, str | None]:
        """The number of events without a problem, of known items or not, and the first item id among them."""
        total, item = self.one("select count(*), min(item_id) from raw_event where problem = 0")
        return total, item

    def _end_numbering(self, path: Path, total: int, event_item: str | None) -> None:
        """Drops the raw tables and counts what was lost; `total` events were usable, `rows` of them have an item."""
        item = self.one("select min(item_id) from raw_item")[0]
        for table in ("raw_event", "raw_item", "raw_user"):
            self._database.execute(f"drop table {table}")
        self._database.execute("commit")  # cursors see it from here on
        self.users = self.one("select count(*) from usr")[0]
        self.tally.dropped[NO_TEXT] += total - self.rows
        unread = (PROBLEMS[1], EVENTS.undecodable or "")
        self.read_events = total + sum(self.tally.dropped[reason] for reason in unread)
        self.read_events += sum(count for problem, count in self.problems.items() if problem != 1)
        if not self.items:
            raise self._no_items()
        if total and not self.rows:
            raise DataError(
                f"{path} and the items table name no item alike: the item {event_item!r} there, {item!r} here",
                self.advice.get(
                    NO_TEXT,
                    "the item columns of both must hold the same ids; --item and --items-id name them",
                ),
            )
        if not self.rows:
            raise DataError(
                f"{path} has no usable row: {_reasons(self.tally)}",
                "columns must be what they are taken for, and both files must name items alike",
            )

    def _add_user_fields(self, roles: Iterable[str]) -> None:
        """Adds the fields of users to the table `usr`: from their own table, or the first value of their events."""
        rows, order = ("raw_user", "position") if self.own.user_table else ("raw_event", "time")
        usable = "" if self.own.user_table else "where problem = 0"
        self.run(f"""create or replace table usr as select * from usr left join (select user_id
            {first_values(roles, order)} from {rows} {usable} group by user_id) using (user_id)""")
        (read, users) = self.one("select count(*), count(distinct user_id) from raw_user")
        self.tally.dropped["duplicate user"] += read - users

    def _look_at_lost_items(self) -> None:
        """Finds an example of an item whose events are lost: one without a text, or one that is not in the table."""
        known = self.tally.examples.get(ONLY_ID)
        lost, example, blank = self.one(f"""select count(distinct item_id), min(item_id),
            count(*) filter (item_id = {literal(known or "")}) from raw_event anti join item using (item_id)
            where problem = 0""")
        self.tally.examples[NO_TEXT] = f"item {known if blank else example!r}"
        if blank:
            count = self.tally.dropped[ONLY_ID]
            advice = f"{counted(count, ONLY_ID)}: fill in the texts, or --text names another column"
            others = f"; for the others {advice_for(NO_TEXT)[0]}" if lost > count else ""
            self.advice[NO_TEXT] = advice + others

    def _no_items(self) -> DataError:
        """The error for an items table without usable rows."""
        reasons = [
            name for name, count in self.tally.dropped.most_common() if count and name.startswith("item ")
        ]
        reasons = [name for name in reasons if name != NO_TEXT]
        example = self.tally.examples.get(reasons[0], "") if reasons else ""
        causes = "; ".join(counted(self.tally.dropped[name], name) for name in reasons) or "it is empty"
        hint = advice_for(reasons[0]) if reasons else []
        return DataError(
            f"{self._items_table} has no usable row: {causes}{', for example ' if example else ''}{example}",
            "; ".join(hint) or "every item needs an id and a text",
        )

    def check_loss(self, own: bool) -> None:
        """Raises `DataError` if too many rows of the tables were lost (`loss.py`); called after `number`."""
        items = [reason for reason in self.tally.dropped if reason.startswith("item ")]
        read = self.read_items + sum(self.tally.dropped[reason] for reason in items if reason != NO_TEXT)
        check_loss(
            self._items_table,
            read,
            ITEM_LOSSES,
            self.tally,
            lambda reason: self.tally.examples.get(reason, ""),
        )
        reasons = [PROBLEMS[1], *LOSSES, EVENTS.undecodable or "", EVENTS.nul, *([NO_TEXT] if own else [])]
        check_loss(self._events_file, self.read_events, reasons, self.tally, self._example, self.advice)

    def _example(self, reason: str) -> str:
        """An event row that was lost for this reason, as text; empty if there is none."""
        if reason in self.tally.examples:
            return self.tally.examples[reason]
        for relation, conditions in self._taken if reason in LOSSES else ():
            sql = f"select * exclude (ok) from ({relation}) where ok and ({conditions[reason]}) limit 1"
            for file, _ in self._files.values():
                file.tally = Tally()  # rows that are read again are not counted again
            with self._open_files(sql):
                self._database.execute(f"create or replace table example as {sql}")
            result = self._database.execute("select * from example")
            names = [column[0] for column in result.description or ()]
            for row in result.fetchall():
                values = (str(value)[:SHOWN] for value in row)
                return ", ".join(f"{name} {value!r}" for name, value in zip(names, values, strict=True))
        return ""

    # For the splitter: splitting.Events

    @property
    def fields(self) -> StoredFields | None:
        """The values of fields, where the source has such."""
        if not self.own.specs:
            return None
        return StoredFields(self._database, self.own, self.folder / "events.parquet")

    def pieces(self) -> Iterator[Interactions]:
        """The events by user, about PIECE at a time, never a user in two pieces."""
        return pieces_of(self.folder / "events.parquet", has_places=bool(self.own.specs))

    def item_texts(self, items: NDArray[np.int32]) -> Iterator[tuple[list[str], list[str]]]:
        """Raw ids and texts of the given items, rising, in batches."""
        query = "select item_id, text from item join wanted on item = number order by item"
        yield from ((ids, texts) for ids, texts in self._lookup(query, items))

    def user_ids(self, users: NDArray[np.int32]) -> Iterator[list[str]]:
        """Raw ids of the given users, rising, in batches."""
        for (ids,) in self._lookup("select user_id from usr join wanted on usr = number order by usr", users):
            yield ids

    # The database

    def _lookup(self, query: str, numbers: NDArray[np.int32]) -> Iterator[tuple[list[str], ...]]:
        cursor = self._database.cursor()  # its own, since another query would end the stream of results
        cursor.register("wanted", pa.table({"number": pa.array(numbers)}))
        for batch in cursor.sql(query).to_arrow_reader(BATCH):
            yield tuple(column.to_pylist() for column in batch.columns)
        cursor.close()

    def _insert(self, table: str, columns: dict[str, pa.Array]) -> None:
        self._database.register("batch", pa.table(columns))
        self._database.execute(f"insert into {table} select * from batch")
        self._database.unregister("batch")

    def _stored(self, path: Path) -> str:
        """SQL arguments with which DuckDB reads a file: its path and compression, no partitions by folder name."""
        if self.max_rows:
            head = self.folder / f"first of {path.name}"
            raw_file.copy_first_lines(path, self.max_rows, head)
            path = head
        packed = "gzip" if raw_file.is_gzip(path) else "none"
        return f"{literal(path)}, compression='{packed}', hive_partitioning=false"

    @contextmanager
    def _open_files(self, sql: str) -> Iterator[None]:
        """Registers the delimited files that a statement reads as tables; raises their own errors, not DuckDB's."""
        faults: list[RbserveError] = []
        names = [name for name in self._files if re.search(rf"\b{name}\b", sql)]
        for name in names:
            file, places = self._files[name]
            schema = pa.schema([(f"c{place}", pa.string()) for place in places])
            batches = self._count_batches(file.batches(places), faults)
            self._database.register(name, pa.RecordBatchReader.from_batches(schema, batches))
        try:
            yield
        except BaseException:
            if faults:
                raise faults[0] from None
            raise
        for name in names:
            self._database.unregister(name)

    def _count_batches(
        self, batches: Iterator[pa.RecordBatch], faults: list[RbserveError]
    ) -> Iterator[pa.RecordBatch]:
        """Yields the batches and counts their rows; adds an error to `faults`, since DuckDB replaces it by its own."""
        try:
            for batch in batches:
                self._streamed += len(batch)
                yield batch
        except RbserveError as error:
            faults.append(error)
            raise

    def run(self, sql: str, path: Path | None = None) -> None:
        """Executes a statement and reports its progress; DataError if a file cannot be read."""
        import duckdb

        rows = (
            raw_file.estimate_rows(path, self.max_rows)
            if path
            else self.one("select count(*) from raw_event")[0]
        )
        line = f"rows of {path.name}" if path else "rows numbered, sorted by user"
        try:
            with self._open_files(sql):
                self._execute(sql, rows, line, None if self.max_rows else path)
        except duckdb.OutOfMemoryException as error:
            raise UsageError(
                f"not enough memory to prepare the data: {str(error).splitlines()[0]}",
                "a higher --memory-limit, or a --temp-dir with more room",
            ) from None
        except duckdb.Error as error:
            raise DataError(
                f"cannot read {path or 'the events'}: {str(error).splitlines()[0]}",
                "the file may be damaged or cut short; fetch it again",
            ) from None

    def _execute(self, sql: str, rows: int, line: str, path: Path | None) -> None:
        """Runs a statement in another thread; this one reports progress and can be interrupted at once.

        The checksum of a packed file is verified at the same time.
        """
        stop = Event()
        self._streamed = 0
        pool = ThreadPoolExecutor(2, thread_name_prefix=UNENDING)
        running: list[Future[Any]] = [pool.submit(self._database.execute, sql)]
        if path and path not in self._checked and raw_file.is_gzip(path):
            running.append(pool.submit(raw_file.check_gzip, path, stop))
            self._checked.add(path)
        try:
            while wait(running, timeout=0.2, return_when=FIRST_EXCEPTION).not_done:
                for future in running:
                    if future.done():
                        future.result()
                share = self._database.query_progress()
                if share > 0:
                    self._progress(int(rows * share / 100), rows, line)
                elif self._streamed:
                    self._progress(min(self._streamed, rows), rows, line)
            for future in running:
                future.result()
        except BaseException:
            stop.set()
            self._database.interrupt()
            self._stuck = bool(wait(running, timeout=STOP_S).not_done)
            raise
        finally:
            pool.shutdown(wait=not self._stuck)

    def _rows(self, sql: str) -> list[Any]:
        rows: list[Any] = self._database.execute(sql).fetchall()
        return rows

    def one(self, sql: str) -> Any:
        """The first row of a query."""
        return self._rows(sql)[0]


def pieces_of(sorted_events: Path, has_places: bool = False) -> Iterator[Interactions]:
    """The events of a file that is sorted by user, about PIECE at a time, never a user in two pieces.

    `has_places`: the pieces also have the events' rows in the file.
    """
    waiting: list[Interactions] = []
    size = done = 0
    names = ["usr", "item", "label", "time"]
    with pq.ParquetFile(sorted_events) as file:
        for batch in file.iter_batches(batch_size=PIECE // 8, columns=names, use_threads=False):
            columns = [column.to_numpy() for column in batch.columns]
            places = [np.arange(done, done + len(batch))] if has_places else []
            waiting.append(Interactions(*columns, *places))
            size += len(batch)
            done += len(batch)
            if size >= PIECE:
                whole, rest = _split_at_last_user(_join(waiting))
                if len(whole):
                    yield whole
                waiting, size = [rest], len(rest)
    if size:
        yield _join(waiting)


def _split_at_last_user(events: Interactions) -> tuple[Interactions, Interactions]:
    """The events of all users but the last, and those of the last user, who may have more."""
    last = int(np.searchsorted(events.users, events.users[-1]))
    rows = np.arange(len(events))
    return events.take(rows[:last]), events.take(rows[last:])


def _join(pieces: list[Interactions]) -> Interactions:
    columns = [[piece.users, piece.items, piece.labels, piece.times] for piece in pieces]
    places = [[piece.places] for piece in pieces if piece.places is not None] or [[]] * len(pieces)
    parts = [of_piece + place for of_piece, place in zip(columns, places, strict=True)]
    return Interactions(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _reasons(tally: Tally) -> str:
    counts = [counted(count, reason) for reason, count in tally.dropped.most_common(4) if count]
    return "; ".join(counts) or "it is empty"


def literal(value: object) -> str:
    """A value as SQL: a number, true or false, or a quoted text."""
    if isinstance(value, bool | int):
        return str(value).lower()
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """The SQL identifier of a column of any name, quoted."""
    return '"' + name.replace('"', '""') + '"'
