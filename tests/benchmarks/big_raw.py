"""Inputs far larger than memory: makes them, measures a command on them, and is the baseline in pandas.

    python tests/benchmarks/big_raw.py generate hm FOLDER
    python tests/benchmarks/big_raw.py measure --watch TEMP --limit-gb 18 -- COMMAND...
    python tests/benchmarks/big_raw.py pandas hm FOLDER

`generate` writes files in the layout the data set's publisher uses, with a known number of damaged rows;
`expected.json` beside them says what a reader should count.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

# ---- generate: all that is random is a hash of (row, seed, purpose), so any order of work gives the same bytes.

MACROS = """
-- 64 random bits. A hash of several values is an exclusive or of theirs, which would tie user to item: hence twice.
create macro draw(i, purpose) as hash(hash(i::bigint, {seed}, purpose));
create macro chance(i, purpose) as (draw(i, purpose) >> 11) / 9007199254740992::double;
create macro pick(i, purpose, list) as list[1 + floor(chance(i, purpose) * len(list))::bigint];
-- Users by activity: with 20 rows on average, the first have thousands and one in ten has at most 2.
create macro skew(x, n) as least(n - 1, floor(n * (1 - sqrt(1 - x)) ** 1.5)::bigint);
-- Items by popularity, scattered over the item file.
create macro scatter(rank, n) as (rank * 2654435761 + 12345) % n;
create macro popular(i, n) as scatter(floor(n * chance(i, 'item') ** 3)::bigint, n);
-- A comma among the words makes csv quote the text.
create macro vocabulary() as ['soft', 'jersey', 'cotton', 'dress', 'the', 'night', 'garden', 'with', 'sleeve',
  'river', 'lace,', 'of', 'winter', 'house', 'pocket', 'song', 'waist', 'silver', 'collar', 'stone'];
create macro words(item, low, high) as array_to_string([pick(item, 'word' || k, vocabulary())
  for k in range((low + draw(item, 'length') % (high - low + 1))::bigint)], ' ');
create macro has_text(item) as chance(item, 'text') >= 0.01;
-- The kind of damage, 0, 1 or 2 in turns, of one row in step; the others have none.
create macro damage(i) as if({step} > 0 and i % {step} = {step} // 2 and i // {step} < {damaged},
  i // {step} % 3, null);
-- A time as Goodreads writes it; damage of kind 2 is a date that is none.
create macro written(moment, kind) as if(kind = 2, 'Fri Jun 31 2017', strftime(moment, '%a %b %d %H:%M:%S')
  || if(month(moment) between 4 and 10, ' -0700 ', ' -0800 ') || year(moment));
"""

# Rows come by date.
HM_ROWS = """
select i, popular(i, {items}) as item, skew(chance(i, 'user'), {users}) as who, damage(i) as kind
from range({rows}) numbers(i)
"""
HM_LINES = """
select case kind when 0 then left(line, 40) when 1 then line || ',1,2' else line end
       as "t_dat,customer_id,article_id,price,sales_channel_id"
from (select kind, concat_ws(',',
        if(kind = 2, '2019-13-45', strftime(date '2018-09-20' + (i * 734 // {rows})::int, '%Y-%m-%d')),
        sha256('{seed}:' || who), printf('%010d', 100000000 + item),
        (5 + draw(i, 'price') % 60)::int / 590.0, 1 + (chance(i, 'channel') < 0.7)::int) as line
      from ({source}))
"""
HM_ITEMS = """
select printf('%010d', 100000000 + item) as article_id, 100000 + item // 1000 as product_code,
  words(item, 2, 3) as prod_name, 200 + item % 100 as product_type_no, 'Dress' as product_type_name,
  'Garment Full body' as product_group_name, 1010000 + item % 20 as graphical_appearance_no,
  'Solid' as graphical_appearance_name, lpad((item % 50)::varchar, 2, '0') as colour_group_code,
  'Black' as colour_group_name, item % 8 as perceived_colour_value_id, 'Dark' as perceived_colour_value_name,
  item % 20 as perceived_colour_master_id, 'Black' as perceived_colour_master_name,
  1000 + item % 900 as department_no, 'Jersey' as department_name, 'A' as index_code,
  'Ladieswear' as index_name, 1 as index_group_no, 'Ladieswear' as index_group_name,
  item % 90 as section_no, 'Womens Everyday Basics' as section_name, 1000 + item % 25 as garment_group_no,
  'Jersey Basic' as garment_group_name, if(has_text(item), words(item, 5, 25), '') as detail_desc
from range({items}) numbers(item)
"""

# Rows come by user, the busiest first.
GOODREADS_ROWS = """
select i, popular(i, {items}) as item, skew(i / {rows}::double, {users}) as who, damage(i) as kind,
  make_timestamp((1167609600 + floor(chance(i, 'time') * 343000000)::bigint) * 1000000) as moment
from range({rows}) numbers(i)
"""
GOODREADS_LINES = """
select case kind when 0 then left(line, 80) when 1 then replace(line, '"book_id"', '"book"') else line end as line
from (select kind, to_json({{user_id: md5('{seed}:' || who), book_id: (1 + item)::varchar,
        review_id: md5('{seed}:review:' || i), is_read: chance(i, 'read') < 0.6,
        rating: if(chance(i, 'read') < 0.6, 1 + draw(i, 'rating') % 5, 0), review_text_incomplete: '',
        date_added: written(moment, kind), date_updated: written(moment + to_seconds(draw(i, 'later') % 1000000), kind),
        read_at: if(chance(i, 'read') < 0.3, written(moment, kind), ''), started_at: ''}})::varchar as line
      from ({source}))
"""
GOODREADS_ITEMS = """
select to_json({{books_count: (1 + item % 30)::varchar, reviews_count: (item % 5000)::varchar,
  original_publication_month: '', default_description_language_code: '', text_reviews_count: (item % 70)::varchar,
  best_book_id: (1 + item)::varchar, original_publication_year: (1950 + item % 67)::varchar,
  original_title: if(has_text(item), words(item, 1, 8), ''), rating_dist: '5:1|4:1|3:1|2:0|1:0|total:3',
  default_chaptering_book_id: '', original_publication_day: '', original_language_id: '',
  ratings_count: (item % 3000)::varchar, media_type: 'book', ratings_sum: (item % 9000)::varchar,
  work_id: (40000000 + item)::varchar}})::varchar as line
from range({items}) numbers(item)
"""

# A field of its own that nothing is quoted in: lines are written as they are, damaged ones too.
AS_IT_IS = "format csv, quote '', escape ''"
KINDS = {
    "hm": ("too few fields", "too many fields", "bad date"),
    "goodreads": ("no JSON", "no book_id", "bad date"),
}


def generate(layout: str, folder: Path, rows: int, items: int, users: int, seed: int, damaged: int) -> None:
    """Writes the item file, the interaction file and what to expect of them."""
    import duckdb

    if not 0 <= damaged <= rows:
        sys.exit("--damaged is a number of rows")
    sizes = {"rows": rows, "items": items, "users": users, "seed": seed, "damaged": damaged}
    values = {**sizes, "step": rows // damaged if damaged else 0}
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(folder)}) as database:
        database.execute(MACROS.format(**values))
        if layout == "hm":
            source = HM_ROWS.format(**values)
            _copy(database, HM_ITEMS.format(**values), folder / "articles.csv", "format csv, header")
            lines = HM_LINES.format(**values, source=source)
            _copy(database, lines, folder / "transactions_train.csv", f"{AS_IT_IS}, header")
        else:
            source = GOODREADS_ROWS.format(**values)
            packed = f"{AS_IT_IS}, header false, compression gzip"
            _copy(database, GOODREADS_ITEMS.format(**values), folder / "goodreads_book_works.json.gz", packed)
            lines = GOODREADS_LINES.format(**values, source=source)
            _copy(database, lines, folder / "goodreads_interactions_dedup.json.gz", packed)
        expected = {"layout": layout, **sizes, **_expected(database, source, layout, items)}
    (folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")


def _copy(database: duckdb.DuckDBPyConnection, query: str, path: Path, options: str) -> None:
    started = time.monotonic()
    database.execute(f"copy ({query}) to '{path}' ({options})")
    print(f"{path}: {path.stat().st_size / 2**20:,.0f} MB in {time.monotonic() - started:.0f} s")


def _expected(database: duckdb.DuckDBPyConnection, source: str, layout: str, items: int) -> dict[str, Any]:
    """What a reader should count: a damaged row counts as damaged, whatever its item."""
    counts = database.execute(
        f"""select count(*) filter (kind = 0), count(*) filter (kind = 1), count(*) filter (kind = 2),
                   count(*) filter (kind is null and not has_text(item)),
                   count(*) filter (kind is null and has_text(item)) from ({source})"""
    ).fetchone()
    empty = database.execute(
        f"select count(*) from range({items}) numbers(i) where not has_text(i)"
    ).fetchone()
    assert counts is not None
    assert empty is not None
    return {
        "damaged_rows": dict(zip(KINDS[layout], counts[:3], strict=True)),
        "items_without_text": empty[0],
        "rows_of_items_without_text": counts[3],
        "usable_rows": counts[4],
    }


# ---- measure


def measure(command: list[str], watch: Path | None, limit_gb: float | None) -> int:
    """Runs `command` and prints one JSON line; the command is killed once its memory passes the limit.

    Memory is the sum of VmHWM over the command and those of its children that are alive, at its highest.
    Disk is what lies in the folder `watch`, at its highest.
    """
    if not command or shutil.which(command[0]) is None:
        sys.exit(f"no such command: {shlex.join(command)}")
    started = time.monotonic()
    rss, disk, stopped = 0, 0, None
    child = subprocess.Popen(command, start_new_session=True)
    try:
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            rss, disk = max(rss, _resident(child.pid)), max(disk, _disk(watch))
            if limit_gb is not None and rss > limit_gb * 2**30 and stopped is None:
                stopped = f"stopped at {limit_gb:g} GB after {time.monotonic() - started:.1f} s"
                os.killpg(child.pid, signal.SIGKILL)
            time.sleep(0.05)
        child.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
    seconds = time.monotonic() - started
    rss, disk = max(rss, usage.ru_maxrss * 1024), max(disk, _disk(watch))  # what came after the last look
    report = {
        "command": shlex.join(command),
        "seconds": round(seconds, 2),
        "peak_rss_mb": round(rss / 2**20, 1),
        "peak_disk_mb": round(disk / 2**20, 1) if watch else None,
        "exit_code": child.returncode,
        "stopped": stopped,
    }
    print(json.dumps(report), flush=True)
    return 1 if child.returncode else 0


def _resident(pid: int) -> int:
    """Bytes: VmHWM of the process and of its living descendants."""
    import psutil

    try:
        pids = [pid, *(one.pid for one in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return 0
    return sum(_high_water(one) for one in pids)


def _high_water(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0  # it has just ended
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0) * 1024


def _disk(folder: Path | None) -> int:
    """Bytes on disk of the files below `folder`, which may vanish meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder) if folder else ():
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_blocks * 512
            except OSError:
                continue
    return total


# ---- pandas: the baseline


def baseline(layout: str, folder: Path, chunk: int | None) -> None:
    """Reads the whole file, applies the protocol, and prints the number of rows after each step."""
    started = time.monotonic()
    rows: dict[str, int] = {}
    frame, items = _read_hm(folder) if layout == "hm" else _read_goodreads(folder, chunk)
    rows["read"] = len(frame)
    seconds_reading = time.monotonic() - started
    frame = frame.dropna()
    rows["parsable"] = len(frame)
    frame = frame[frame["item"].isin(items)]
    rows["with_text"] = len(frame)
    for name in ("user", "item"):  # numbers sort and compare faster than text
        frame[name] = frame[name].factorize()[0]
    frame = frame.sort_values(["user", "time"], kind="stable").drop_duplicates(["user", "item"])
    rows["without_duplicates"] = len(frame)
    frame = frame[frame.groupby("user").cumcount(ascending=False) < 20]
    rows["last_20"] = len(frame)
    by_user = frame.groupby("user")
    held_out = (by_user["item"].transform("size") > 2) & (by_user.cumcount(ascending=False) < 2)
    rows["training"], rows["held_out"] = int((~held_out).sum()), int(held_out.sum())
    seconds = time.monotonic() - started
    timing = {"seconds": round(seconds, 2), "seconds_reading": round(seconds_reading, 2)}
    print(json.dumps({"rows": rows, **timing}), flush=True)


def _read_hm(folder: Path) -> tuple[pd.DataFrame, pd.Series]:
    import pandas as pd

    items = pd.read_csv(folder / "articles.csv", dtype={"article_id": str})
    frame = pd.read_csv(folder / "transactions_train.csv", dtype={"article_id": str}, on_bad_lines="skip")
    times = pd.to_datetime(frame["t_dat"], format="%Y-%m-%d", errors="coerce")
    table = pd.DataFrame({"user": frame["customer_id"], "item": frame["article_id"], "time": times})
    return table, items["article_id"][items["detail_desc"].notna()]


def _read_goodreads(folder: Path, chunk: int | None) -> tuple[pd.DataFrame, pd.Series]:
    import pandas as pd

    as_written: dict[str, Any] = {"lines": True, "dtype": False}
    items = pd.read_json(folder / "goodreads_book_works.json.gz", **as_written)
    with _Objects(gzip.open(folder / "goodreads_interactions_dedup.json.gz"), encoding="utf-8") as file:
        if chunk is None:
            frame = pd.read_json(file, **as_written)
        else:
            wanted = ["user_id", "book_id", "date_added"]
            parts = pd.read_json(file, chunksize=chunk, **as_written)
            frame = pd.concat([part[wanted] for part in parts], ignore_index=True)
    times = pd.to_datetime(frame["date_added"], format="%a %b %d %H:%M:%S %z %Y", errors="coerce", utc=True)
    table = pd.DataFrame({"user": frame["user_id"], "item": frame["book_id"], "time": times})
    return table, items["best_book_id"][items["original_title"] != ""]


class _Objects(io.TextIOWrapper):
    """JSON lines without those that were cut: pandas gives up on the whole file at the first of them."""

    def __next__(self) -> str:
        while not (line := super().__next__()).endswith("}\n"):
            pass
        return line

    def read(self, size: int | None = -1, /) -> str:
        del size  # always all of it
        return "".join(self)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("generate", help="write a folder in an official layout")
    verb.add_argument("layout", choices=list(KINDS))
    verb.add_argument("folder", type=Path)
    for name, default in {"rows": 30_000_000, "items": 1_000_000, "users": 1_500_000}.items():
        verb.add_argument(f"--{name}", type=int, default=default)
    verb.add_argument("--seed", type=int, default=2024)
    verb.add_argument("--damaged", type=int, default=1000, help="this many of the rows are damaged")
    verb = verbs.add_parser("measure", help="run a command; print its time, peak memory and peak disk use")
    verb.add_argument("--watch", type=Path, metavar="DIR", help="a folder whose size is followed")
    verb.add_argument("--limit-gb", type=float, metavar="N", help="kill the command beyond this much memory")
    verb.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    verb = verbs.add_parser("pandas", help="the baseline: all of it in memory")
    verb.add_argument("layout", choices=list(KINDS))
    verb.add_argument("folder", type=Path)
    verb.add_argument(
        "--chunk", type=int, metavar="N", help="goodreads: N rows at a time, keeping three columns"
    )
    options = vars(parser.parse_args())
    match options.pop("verb"):
        case "generate":
            generate(**options)
        case "pandas":
            baseline(**options)
        case _:
            command = options.pop("command")
            return measure(command[1:] if command[:1] == ["--"] else command, **options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
