"""Small raw folders in the layouts in which the data sets' owners ship them. All contents are invented."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rbserve.train.datasets.options import Reading
from rbserve.train.datasets.sources import find_source
from rbserve.train.datasets.workspace import Workspace
from rbserve.train.protocol.tally import Tally

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
ARTICLE = (
    "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,"
    "graphical_appearance_no,graphical_appearance_name,colour_group_code,colour_group_name,"
    "perceived_colour_value_id,perceived_colour_value_name,perceived_colour_master_id,"
    "perceived_colour_master_name,department_no,department_name,index_code,index_name,index_group_no,"
    "index_group_name,section_no,section_name,garment_group_no,garment_group_name,detail_desc"
)
BOOK = (
    "book_id,goodreads_book_id,best_book_id,work_id,books_count,isbn,isbn13,authors,"
    "original_publication_year,original_title,title,language_code,average_rating,ratings_count,"
    "work_ratings_count,work_text_reviews_count,ratings_1,ratings_2,ratings_3,ratings_4,ratings_5,"
    "image_url,small_image_url"
)


class Event(NamedTuple):
    """Something a user did; `day` counts from the first."""

    user: str
    item: str
    liked: bool
    day: int


@dataclass(frozen=True)
class Layout:
    """The files of a source: names and header lines (empty where there is none)."""

    events: str
    items: str
    events_header: str = ""
    items_header: str = ""
    dislikes: bool = True


LAYOUTS = {
    "mind": Layout("behaviors.tsv", "news.tsv"),
    "hm": Layout(
        "transactions_train.csv", "articles.csv",
        "t_dat,customer_id,article_id,price,sales_channel_id", ARTICLE, dislikes=False),
    "microlens": Layout("MicroLens-50k_pairs.tsv", "MicroLens-50k_titles.csv", "", "item,title", dislikes=False),
    "microlens-csv": Layout(
        "MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv", "user,item,timestamp", "item,title",
        dislikes=False),
    "goodreads": Layout("goodreads_interactions_dedup.json", "goodreads_book_works.json"),
    "cds": Layout("CDs_and_Vinyl.json", "meta_CDs_and_Vinyl.json"),
    "goodbooks": Layout("ratings.csv", "books.csv", "user_id,book_id,rating", BOOK),
    "ml-100k": Layout(
        "ml-100k.inter", "ml-100k.item", "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"),
    "csv": Layout("interactions.csv", "items.csv", "user_id,item_id,at,liked", "item_id,title"),
    "json": Layout("interactions.jsonl", "items.json"),
}  # fmt: skip
GIVEN_NEWS = {"N90": "A story of the week before", "N91": "Another of that week"}
CSV = {"time": "at", "label": "liked"}


def source_of(layout: str) -> str:
    """The name of the source that reads a layout."""
    return layout.removesuffix("-csv")


def event_line(layout: str, event: Event) -> str:
    """One interaction as its owner writes it (MicroLens' sequences are made in `event_lines`)."""
    user, item, liked, day = event
    moment = datetime(2019, 11, 11, 21, 5, 9, tzinfo=UTC) + timedelta(days=day)
    if layout == "mind":
        return impression(user, moment, " ".join(GIVEN_NEWS), f"{item}-{int(liked)}")
    if layout == "hm":
        return f"{moment:%Y-%m-%d},{user},{item},0.0169322033898305,2"
    if layout == "microlens-csv":
        return f"{user},{item},{int(moment.timestamp()) * 1000}"
    if layout == "goodreads":
        return json.dumps(shelved(user, item, liked, moment))
    if layout == "cds":
        return json.dumps(review(user, item, 5.0 if liked else 1.0, int(moment.timestamp())))
    if layout == "goodbooks":
        return f"{user},{item},{4 if liked else 2}"
    if layout == "ml-100k":
        return f"{user}\t{item}\t{4 if liked else 2}\t{int(moment.timestamp())}"
    if layout == "json":
        return json.dumps({"liked": liked, "user_id": user, "at": int(moment.timestamp()), "item_id": item})
    return f"{user},{item},{int(moment.timestamp())},{int(liked)}"


def event_lines(layout: str, events: Sequence[Event]) -> list[str]:
    """The interactions as lines, without the dislikes where the owner has none."""
    kept = [event for event in events if event.liked or LAYOUTS[layout].dislikes]
    if layout != "microlens":
        return [event_line(layout, event) for event in kept]
    watched: dict[str, list[str]] = {}
    for event in sorted(kept, key=lambda one: one.day):
        watched.setdefault(event.user, []).append(event.item)
    return [f"{user}\t{' '.join(items)}" for user, items in watched.items()]


def item_line(layout: str, item: str, text: str) -> str:
    """One item as its owner writes it."""
    if layout == "mind":
        return f"{item}\tsports\tgolf\t{text}\tAn abstract.\thttps://example.org/{item}.html\t[]\t[]"
    if layout == "hm":
        return _csv([item, item[:-3], "Top", *["1", "x"] * 10, "9", text])
    if layout == "goodreads":
        return json.dumps({"books_count": "3", "best_book_id": item, "original_title": text, "work_id": "7"})
    if layout == "cds":
        return json.dumps({"category": [], "title": text, "asin": item, "also_buy": ["B0"]})
    if layout == "goodbooks":
        names = BOOK.split(",")
        return _csv([{"book_id": item, "title": text}.get(name, "0") for name in names])
    if layout == "ml-100k":
        return f"{item}\t{text}\t1995\tComedy Drama"
    if layout == "json":
        return json.dumps({"title": text, "item_id": item, "images": [{"hi_res": "x"}]})
    return _csv([item, text])


def impression(user: str, moment: datetime, history: str, shown: str, number: int = 1) -> str:
    """A line of MIND's behaviours: the hour on a clock of twelve, nothing padded."""
    half = "AM" if moment.hour < 12 else "PM"
    time = f"{moment.month}/{moment.day}/{moment.year} {moment.hour % 12 or 12}:{moment:%M:%S} {half}"
    return f"{number}\t{user}\t{time}\t{history}\t{shown}"


def shelved(user: str, book: str, read: bool, moment: datetime) -> dict[str, Any]:
    """A Goodreads interaction, dated as in the clock of California."""
    local = moment.astimezone(timezone(timedelta(hours=-8)))
    date = f"{DAYS[local.weekday()]} {MONTHS[local.month - 1]} {local:%d %H:%M:%S %z %Y}"
    return {
        "user_id": user, "book_id": book, "review_id": "0" * 32, "is_read": read, "rating": 0,
        "review_text_incomplete": "", "date_added": date, "date_updated": date, "read_at": "",
        "started_at": ""}  # fmt: skip


def review(user: str, product: str, rating: float, moment: int) -> dict[str, Any]:
    """An Amazon review of the 2018 crawl."""
    return {
        "overall": rating, "verified": True, "reviewTime": "03 10, 2018", "reviewerID": user,
        "asin": product, "style": {"Format:": " Vinyl"}, "unixReviewTime": moment}  # fmt: skip


def write(
    layout: str,
    folder: Path,
    event_lines: Sequence[str],
    item_lines: Sequence[str],
    *,
    end: str = "\n",
    mark: bool = False,
    gz: bool = False,
) -> Path:
    """Writes both files, headers first; with other line ends, a byte order mark, or as .gz."""
    files = LAYOUTS[layout]
    parts = ((files.events, files.events_header, event_lines), (files.items, files.items_header, item_lines))
    for name, header, rows in parts:
        text = "".join(f"{line}{end}" for line in ([header] if header else []) + list(rows))
        put(folder, f"{name}.gz" if gz else name, ("\ufeff" if mark else "") + text)
    return folder


def put(folder: Path, name: str, content: str | bytes) -> Path:
    """Writes a file, compressed when its name ends in .gz."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return path


def zip_mind(path: Path, folder: Path, inside: str = "MINDsmall_train/") -> Path:
    """MIND's official training zip, made of the files in a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("behaviors.tsv", "news.tsv"):
            archive.write(folder / name, f"{inside}{name}")
        archive.writestr(f"{inside}entity_embedding.vec", "Q1\t0.1")
    return path


def crowd(users: int = 24, items: int = 16, each: int = 9) -> tuple[list[Event], dict[str, str]]:
    """Users who like and dislike things, enough of them for all splits; ids are all of one length."""
    events = [
        Event(f"U{100 + user}", f"N{(user * 7 + step * 5) % items + 100}", (user + step) % 3 != 0, step)
        for step in range(each)
        for user in range(users)
    ]
    return events, {f"N{100 + item}": f"Story number {item} of a town" for item in range(items)}


def example(layout: str, folder: Path, **how: Any) -> Path:
    """A folder that can be prepared."""
    events, texts = crowd()
    given = GIVEN_NEWS if layout == "mind" else {}
    lines = [item_line(layout, item, text) for item, text in (texts | given).items()]
    return write(layout, folder, event_lines(layout, events), lines, **how)


@dataclass(frozen=True)
class Loaded:
    """What a source made of a raw folder: (user, item, label) by user and time, times beside them."""

    events: list[tuple[str, str, int]]
    times: list[int]
    items: dict[str, str]
    dropped: dict[str, int]
    repaired: dict[str, int]


@contextmanager
def workspace(max_rows: int = 0) -> Iterator[Workspace]:
    """An empty workspace in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        work = Workspace(Path(folder), 512 << 20, Tally(), max_rows)
        try:
            yield work
        finally:
            work.close()


def load(source: str, raw: Path, max_rows: int = 0, **reading: Any) -> Loaded:
    """Reads a raw folder with a source's loader."""
    with workspace(max_rows) as work:
        loader = find_source(source).load
        assert loader is not None
        loader(raw, work, Reading(**reading))
        work.number(reading.get("interactions", raw))
        return contents(work)


def contents(work: Workspace) -> Loaded:
    """What a numbered workspace holds."""
    users = [one for ids in work.user_ids(np.arange(work.users, dtype=np.int32)) for one in ids]
    items: dict[str, str] = {}
    for ids, texts in work.item_texts(np.arange(work.items, dtype=np.int32)):
        items.update(zip(ids, texts, strict=True))
    names = list(items)
    rows = sorted(
        (user, time, item, label)
        for piece in work.pieces()
        for user, item, label, time in zip(
            piece.users.tolist(), piece.items.tolist(), piece.labels.tolist(), piece.times.tolist(),
            strict=True)
    )  # fmt: skip
    return Loaded(
        [(users[user], names[item], label) for user, _, item, label in rows],
        [time for _, time, _, _ in rows],
        items,
        {reason: count for reason, count in work.tally.dropped.items() if count},
        {reason: count for reason, count in work.tally.repaired.items() if count},
    )


def _csv(fields: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()
