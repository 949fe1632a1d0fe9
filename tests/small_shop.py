"""The tables of an invented shop: people with a country, goods with price, tags and brand, clicks with an hour.

In half of the countries people click on cheap goods, in the other half on dear ones: price and country say nothing
alone, and nearly all together.
"""

from __future__ import annotations

import csv
import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

COUNTRIES = ("DE", "FR", "IN", "US")
TAGS = ("red", "blue", "new", "sale")
Rows = list[dict[str, Any]]
FEATURES = (
    "--item-feature", "price:numeric", "--item-feature", "tags:multi", "--item-feature", "brand",
    "--user-feature", "country", "--context", "hour:numeric",
)  # fmt: skip


@dataclass
class Shop:
    """The rows of the three tables; None where a value is missing."""

    people: Rows = field(default_factory=list)
    goods: Rows = field(default_factory=list)
    clicks: Rows = field(default_factory=list)

    def write(self, folder: Path, form: str = "csv", people: bool = True) -> tuple[str, ...]:
        """Writes the tables and returns the words of `rbserve prepare` that name them, that of people if asked for."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("people", "goods", "clicks"):
            WRITERS[form](folder / f"{name}.{form}", getattr(self, name))
        files = [str(folder / f"{name}.{form}") for name in ("clicks", "goods", "people")]
        tables = list(zip(("--interactions", "--items", "--users"), files, strict=True))[: 3 if people else 2]
        return (form, *(word for pair in tables for word in pair), "--time", "at", "--label", "clicked")


def made_shop(people: int = 60, goods: int = 40, each: int = 14, seed: int = 1) -> Shop:
    """A shop in which everybody is shown `each` goods."""
    chance = random.Random(seed)
    shop = Shop()
    for number in range(people):
        country = chance.choice(COUNTRIES)
        shop.people.append({"user_id": f"u{number}", "country": country if number % 20 else None})
    for number in range(goods):
        shop.goods.append({
            "item_id": f"i{number}", "title": f"thing {number}",
            "price": round(math.exp(chance.uniform(0, 5)), 2) if number % 20 else None,
            "tags": chance.sample(TAGS, chance.randint(0, 3)) or None, "brand": chance.choice(("acme", "zen", "bolt")),
        })  # fmt: skip
    for number, person in enumerate(shop.people):
        for item in chance.sample(shop.goods, each):
            dear = math.log(item["price"] or 12) - 2.5
            sign = 1 if COUNTRIES.index(person["country"] or "DE") % 2 else -1
            shop.clicks.append({
                "user_id": f"u{number}", "item_id": item["item_id"], "at": 1_700_000_000 + len(shop.clicks),
                "clicked": int(chance.random() < 1 / (1 + math.exp(-3 * sign * dear))), "hour": chance.randint(0, 23),
            })  # fmt: skip
    return shop


def _write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        for row in rows:
            texts = {
                name: "|".join(value) if isinstance(value, list) else value for name, value in row.items()
            }
            writer.writerow(texts)


def _write_json(path: Path, rows: Rows) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {"csv": _write_csv, "json": _write_json, "parquet": _write_parquet}
