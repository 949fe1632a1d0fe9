"""Feature columns of a user's own tables: each row has its own values, whatever the format and the order of rows."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from entry_point import rbserve
from field_dataset import train_with_fields
from small_shop import FEATURES, Shop, made_shop

from rbserve.core.fields import FIRST, MISSING, UNSEEN, FieldSpec
from rbserve.data.dataset import SPLITS, Dataset, open_dataset
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer
from rbserve.train.counting import counted_features


def prepared(home: Path, words: tuple[str, ...], *more: str) -> Dataset:
    """The data set `shop` of some tables."""
    rbserve("prepare", *words, "--name", "shop", *more, home=home)
    return open_dataset(home / "data" / "shop")


@pytest.fixture(scope="module")
def shop() -> Shop:
    return made_shop()


@pytest.fixture(scope="module")
def dataset(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    home = tmp_path_factory.mktemp("home")
    return prepared(home, shop.write(home / "raw"), *FEATURES)


def decoded(dataset: Dataset, spec: FieldSpec, codes: Any) -> Any:
    """The raw value behind a number or codes; "unseen" for a code without a value."""
    if spec.is_number:
        return None if math.isnan(codes) else float(codes)
    values = {MISSING: None, UNSEEN: "unseen", **dict(enumerate(dataset.field_values(spec), FIRST))}
    texts = [values[code] for code in np.ravel(codes).tolist() if code != MISSING]
    return (texts or None) if spec.kind == "multi" else (texts or [None])[0]


def specs(dataset: Dataset) -> dict[str, FieldSpec]:
    return {spec.name: spec for spec in dataset.manifest.fields}


def test_every_row_has_the_raw_values_of_its_item_its_user_and_its_event(
    dataset: Dataset, shop: Shop
) -> None:
    fields = specs(dataset)
    assert [*fields] == ["price", "tags", "brand", "country", "hour"]
    people = {person["user_id"]: person for person in shop.people}
    goods = {item["item_id"]: item for item in shop.goods}
    clicks = {(click["user_id"], click["item_id"]): click for click in shop.clicks}
    table = pq.read_table(dataset.path / "users.parquet")
    ids = dict(zip(table["user"].to_pylist(), table["user_id"].to_pylist(), strict=True))
    compared = 0
    for split in SPLITS:
        rows = dataset.ctr(split)
        for row, (user, item) in enumerate(zip(rows.users.tolist(), rows.candidates.tolist(), strict=True)):
            user_id, item_id = ids[user], dataset.items.ids[item]
            for name in ("price", "tags", "brand"):
                value = decoded(dataset, fields[name], dataset.item_field(fields[name])[item])
                raw = goods[item_id][name]
                assert value == (float(np.float32(raw)) if name == "price" and raw else raw)
            country = decoded(dataset, fields["country"], rows.extras["user.country"][row])
            assert country == people[user_id]["country"]
            assert rows.extras["context.hour"][row] == clicks[user_id, item_id]["hour"]
            compared += 1
    assert compared > 500


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_all_formats_give_the_same_data_set(dataset: Dataset, shop: Shop, form: str, tmp_path: Path) -> None:
    again = prepared(tmp_path, shop.write(tmp_path / "raw", form), *FEATURES)
    assert again.manifest.fields == dataset.manifest.fields
    assert again.fingerprint == dataset.fingerprint


def test_homes_data_sets_and_columns_may_have_quotes_and_spaces(
    dataset: Dataset, shop: Shop, tmp_path: Path
) -> None:
    names = {"price": "the pri'ce", "brand": 'bra"nd', "hour": "ho ur;--", "country": "c'try", "tags": "tags"}
    quoted = Shop(
        *(
            [{names.get(name, name): value for name, value in row.items()} for row in rows]
            for rows in (shop.people, shop.goods, shop.clicks)
        )
    )
    home = tmp_path / 'it\'s a "home"; --'
    words = [
        f"{names[name]}{colon}{kind}" if (name := word.partition(":")[0]) in names else word
        for word in FEATURES
        for _, colon, kind in [word.partition(":")]
    ]
    rbserve("prepare", *quoted.write(home / "raw's"), "--name", "sh op's", *words, home=home)
    other = open_dataset(home / "data" / "sh op's")
    known = specs(other)
    assert [*known] == [names[name] for name in specs(dataset)]
    for name, spec in specs(dataset).items():
        if spec.scope == "item":
            np.testing.assert_array_equal(other.item_field(known[names[name]]), dataset.item_field(spec))
    artifact = train_with_fields(
        "dnn", other, home / "dn'n", f"{names['price']},{names['brand']},likes", epochs=1
    )
    test = other.ctr("test")
    scores = score_rows(open_scorer(artifact, "torch-fp32"), test.histories, test.candidates, test.extras)
    assert np.isfinite(scores).all()


def test_the_order_of_the_rows_of_all_tables_means_nothing(
    dataset: Dataset, shop: Shop, tmp_path: Path
) -> None:
    mixed = Shop(
        *(random.Random(2).sample(rows, len(rows)) for rows in (shop.people, shop.goods, shop.clicks))
    )
    assert prepared(tmp_path, mixed.write(tmp_path / "raw"), *FEATURES).fingerprint == dataset.fingerprint


def test_features_leave_every_other_file_of_the_data_set_as_it_is(
    dataset: Dataset, shop: Shop, tmp_path: Path
) -> None:
    plain = prepared(tmp_path, shop.write(tmp_path / "raw", people=False))
    assert plain.fingerprint != dataset.fingerprint
    assert plain.manifest.fields == []
    for name, file in plain.manifest.files.items():
        if name.endswith(".npy"):
            assert dataset.manifest.files[name] == file
    added = set(dataset.manifest.files) - set(plain.manifest.files)
    assert added == {
        "fields/item.price.npy", "fields/item.tags.npy", "fields/item.brand.npy", "fields/user.country.npy",
        *(f"fields/values.{name}.parquet" for name in ("tags", "brand", "country")),
        *(f"ctr/{split}/context.hour.npy" for split in SPLITS),
    }  # fmt: skip


def test_a_value_that_training_rows_do_not_have_is_unseen(
    shop: Shop, dataset: Dataset, tmp_path: Path
) -> None:
    table = pq.read_table(dataset.path / "users.parquet")
    ids = dict(zip(table["user"].to_pylist(), table["user_id"].to_pylist(), strict=True))
    tested = {ids[user] for user in dataset.ctr("test").users.tolist()}
    people = [person | ({"country": "XX"} if person["user_id"] in tested else {}) for person in shop.people]
    clicks = [click | ({"hour": 99} if click["user_id"] in tested else {}) for click in shop.clicks]
    words = Shop(people, shop.goods, clicks).write(tmp_path / "raw")
    again = prepared(tmp_path, words, "--user-feature", "country", "--context", "hour")
    assert set(again.ctr("test").extras["user.country"].tolist()) == {UNSEEN}
    assert set(again.ctr("test").extras["context.hour"].tolist()) == {UNSEEN}
    assert UNSEEN not in again.ctr("train").extras["user.country"]
    shown = rbserve("datasets", "show", "shop", home=tmp_path).stdout
    assert "100.0%" in next(line for line in shown.splitlines() if line.startswith("country"))


def test_of_the_events_a_users_first_value_counts(shop: Shop, tmp_path: Path) -> None:
    first: dict[str, str] = {}
    clicks = []
    chance = random.Random(3)
    for click in shop.clicks:
        device = chance.choice(("", "phone", "tv", "web"))
        if device:
            first.setdefault(click["user_id"], device)
        clicks.append(click | {"device": device})
    words = Shop(shop.people, shop.goods, clicks[::-1]).write(tmp_path / "raw", people=False)
    done = rbserve("prepare", *words, "--name", "shop", "--user-feature", "device", home=tmp_path)
    assert "field device of the user: 3 values, the first one of each user; 0.0% missing" in done.stderr
    dataset = open_dataset(tmp_path / "data" / "shop")
    table = pq.read_table(dataset.path / "users.parquet")
    codes = dataset.field_column("fields", specs(dataset)["device"])
    for user, code in zip(table["user_id"].to_pylist(), codes, strict=True):
        assert decoded(dataset, specs(dataset)["device"], code) == first[user]


@pytest.mark.parametrize("split", ["users", "time"])
def test_random_negatives_take_the_contexts_of_their_users_positive_rows_in_turn(
    split: str, shop: Shop, tmp_path: Path
) -> None:
    clicks = [click | {"moment": place} for place, click in enumerate(shop.clicks)]
    words = Shop(shop.people, shop.goods, clicks).write(tmp_path / "raw", people=False)
    likes = words[: words.index("--label")]
    dataset = prepared(tmp_path, likes, "--context", "moment:numeric", "--negatives", "2", "--split", split)
    for part in SPLITS:
        rows = dataset.ctr(part)
        moments = rows.extras["context.moment"]
        for user in np.unique(rows.users):
            own = rows.users == user
            positive, negative = (sorted(moments[own & (rows.labels == label)].tolist()) for label in (1, 0))
            assert positive == negative


def test_many_values_are_hashed_and_told(shop: Shop, tmp_path: Path) -> None:
    words = shop.write(tmp_path / "raw")
    done = rbserve(
        "prepare", *words, "--name", "shop", "--item-feature", "title:text", "--user-feature", "country",
        "--most-values", "16", home=tmp_path,
    )  # fmt: skip
    assert "field title of the item: 16 hashes, since it has more values than --most-values" in done.stderr
    dataset = open_dataset(tmp_path / "data" / "shop")
    title = specs(dataset)["title"]
    assert (title.hashed, title.size, title.width) == (True, FIRST + 16, 2)
    assert not (dataset.path / "fields" / "values.title.parquet").exists()
    assert specs(dataset)["country"].size == FIRST + 4
    assert dataset.item_field(title).max() < title.size


def test_exported_rows_have_the_raw_values_and_counted_features_where_asked_for(
    dataset: Dataset, shop: Shop, tmp_path: Path
) -> None:
    home = dataset.path.parents[1]
    rbserve("datasets", "export", "shop", "--to", str(tmp_path / "tables"), "--counted", home=home)
    people = {person["user_id"]: person for person in shop.people}
    goods = {item["item_id"]: item for item in shop.goods}
    clicks = {(click["user_id"], click["item_id"]): click for click in shop.clicks}
    for split in SPLITS:
        table = pq.read_table(tmp_path / "tables" / f"{split}.parquet").to_pylist()
        counted = counted_features(dataset, None)
        names = [spec.name for spec in counted.fields]
        for row, features in zip(table, counted.features(split), strict=True):
            item = goods[row["item"]]
            assert row["price"] == pytest.approx(item["price"])
            assert (row["tags"] or None, row["brand"]) == (item["tags"], item["brand"])
            assert row["country"] == people[row["user"]]["country"]
            assert row["hour"] == clicks[row["user"], row["item"]]["hour"]
            np.testing.assert_array_equal([row[name] for name in names], features)
    items = pq.read_table(tmp_path / "tables" / "items.parquet")
    assert items.column_names == ["item", "text", "price", "tags", "brand"]
    assert [goods[item]["brand"] for item in items["item"].to_pylist()] == items["brand"].to_pylist()


def test_an_exported_value_that_training_rows_do_not_have_is_empty_and_a_hashed_one_its_hash(
    shop: Shop, tmp_path: Path
) -> None:
    clicks = [click | {"visit": f"v{place}"} for place, click in enumerate(shop.clicks)]
    words = Shop(shop.people, shop.goods, clicks).write(tmp_path / "raw", people=False)
    for most, expected in (("100000", {""}), ("7", set(range(FIRST, FIRST + 7)))):
        dataset = prepared(tmp_path, words, "--context", "visit", "--most-values", most)
        rbserve("datasets", "export", str(dataset.path), "--to", str(tmp_path / "tables"), home=tmp_path)
        values = pq.read_table(tmp_path / "tables" / "test.parquet")["visit"].to_pylist()
        assert set(values) == expected
