"""MovieLens-100K, the default data set: 943 users rate 1,682 titled movies from 1 to 5.

A rating of 4 or 5 is a click, 1 or 2 is none, 3 says neither and is dropped. Files are RecBole's
tab-separated copies (`ml-100k.inter`, `ml-100k.item`) with typed headers.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from rbserve.core.assets import fetch
from rbserve.core.dataset import ItemTable
from rbserve.core.errors import DataError
from rbserve.train.sampling import Interactions


def read(raw: Path | None, dropped: Counter[str]) -> tuple[Interactions, ItemTable]:
    """Interactions and items from `raw`, or from the fetched asset; dropped rows are counted by reason."""
    folder = raw or fetch("ml-100k")
    items = _items(folder / "ml-100k.item", dropped)
    return _interactions(folder / "ml-100k.inter", items, dropped), items


def _items(path: Path, dropped: Counter[str]) -> ItemTable:
    columns = _read_tsv(path, ("item_id:token", "movie_title:token_seq"), dropped)
    ids, titles = columns["item_id:token"], columns["movie_title:token_seq"]
    texts: dict[str, str] = {}
    for item, title in zip(ids, titles, strict=True):
        if not title or not title.strip():
            dropped["item without text"] += 1
        elif item in texts:
            dropped["duplicate item"] += 1
        else:
            texts[item] = title.strip()
    ordered = sorted(texts, key=lambda item: (len(item), item))  # numeric order of numeric ids
    return ItemTable(ordered, [texts[item] for item in ordered])


def _interactions(path: Path, items: ItemTable, dropped: Counter[str]) -> Interactions:
    columns = _read_tsv(path, ("user_id:token", "item_id:token", "rating:float", "timestamp:float"), dropped)
    rating, time = _numbers(columns["rating:float"]), _numbers(columns["timestamp:float"])
    item = np.array([items.index.get(one, -1) for one in columns["item_id:token"]], np.int32)
    users = np.array(columns["user_id:token"], dtype=object)
    reasons = {
        "unparsable row": ~(np.isfinite(rating) & np.isfinite(time)),
        "item without text or not in the item file": item < 0,
        "rating 3 (neither liked nor disliked)": (rating > 2) & (rating < 4),
    }
    keep = np.ones(len(users), bool)
    for reason, bad in reasons.items():
        dropped[reason] += int((keep & bad).sum())
        keep &= ~bad
    names, codes = np.unique(users[keep].astype(str), return_inverse=True)
    pair = codes.astype(np.int64) * len(items) + item[keep]
    first = np.zeros(len(pair), bool)
    first[np.unique(pair, return_index=True)[1]] = True
    dropped["duplicate rating of an item by a user"] += int((~first).sum())
    if not len(names):
        raise DataError(f"{path} has no usable rating", "see the counts above for why")
    return Interactions(
        codes[first].astype(np.int32),
        item[keep][first],
        (rating[keep][first] >= 4).astype(np.int8),
        time[keep][first].astype(np.int64),
    )


def _read_tsv(path: Path, wanted: tuple[str, ...], dropped: Counter[str]) -> dict[str, list[str]]:
    """The wanted columns as text; rows with another number of fields are counted as unparsable."""
    import duckdb

    if not path.is_file():
        raise DataError(f"no file {path}", "--raw names the folder that holds ml-100k.inter and ml-100k.item")
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline().lstrip("\ufeff").rstrip("\r\n").split("\t")
    missing = [name for name in wanted if name not in header]
    if missing:
        raise DataError(
            f"{path} lacks the column {missing[0]!r}; its first line has: {', '.join(header)[:200]}",
            "the file must be tab-separated with RecBole's typed header",
        )
    select = ", ".join(f'coalesce("{name}", \'\') as "{name}"' for name in wanted)
    names = ", ".join(f"'{name}': 'VARCHAR'" for name in header)
    with duckdb.connect() as database:
        relation = f"""read_csv(?, delim='\t', quote='', header=true, columns={{{names}}},
                       ignore_errors=true, store_rejects=true, encoding='utf-8')"""
        try:
            rows = database.execute(f"select {select} from {relation}", [str(path)]).fetchnumpy()
            rejected = database.execute("select count(distinct line) from reject_errors").fetchone()
        except duckdb.Error as error:
            raise DataError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    dropped["unparsable row"] += rejected[0] if rejected else 0
    return {name: list(rows[name]) for name in wanted}


def _numbers(column: list[str]) -> np.ndarray:
    """Floats, with nan for what is none."""

    def number(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            return float("nan")

    return np.fromiter((number(text) for text in column), np.float64, len(column))
