"""Feature columns through the command line: what wrong ones are answered, what leaks, and what they are worth."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from entry_point import rbserve
from field_dataset import train_with_fields
from small_shop import FEATURES, Shop, made_shop

from rbserve.core.fields import MISSING, UNSEEN
from rbserve.core.requests import slate_request
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.columns import open_column
from rbserve.data.dataset import CtrSplit, open_dataset
from rbserve.features.opening import open_coders
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.pairwise import auc


@pytest.fixture(scope="module")
def shop() -> Shop:
    return made_shop()


@pytest.fixture(scope="module")
def words(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return shop.write(tmp_path_factory.mktemp("raw"))


def refused(home: Path, *words: str) -> str:
    """The lines with which a command is refused, once it is clear that it left nothing behind."""
    done = rbserve(*words, home=home, check=None)
    assert done.returncode != 0
    assert not (home / "data").exists() or not list((home / "data").iterdir())
    return done.stderr


@pytest.mark.parametrize(
    ("features", "says", "hint"),
    [
        (("--item-feature", "prise:numeric"), "goods.csv lacks the column 'prise'", "did you mean price?"),
        (("--context", "houre"), "clicks.csv lacks the column 'houre'", "did you mean hour?"),
        (("--user-feature", "nation"), "people.csv lacks the column 'nation'", "it has: user_id, country"),
        (("--item-feature", "price:money"), "unknown kind of feature in --item-feature price:money: money",
         "kinds: category, numeric, multi, text"),
        (("--item-feature", "price:numerc"), "unknown kind of feature", "did you mean numeric?"),
        (("--item-feature", "brand", "--item-feature", "brand:text"), "two features are called brand",
         "rename one of two columns"),
        (("--item-feature", "hour", "--context", "hour"), "two features are called hour: --item-feature and --context",
         "name each once"),
        (("--item-feature", "price,brand"), "--item-feature takes one column, not price,brand", "each on its own"),
        (("--item-feature", "../x"), "--item-feature takes a plain name, not ../x", "has no slash"),
        (("--item-feature", ""), "--item-feature takes", ""),
        (("--context", "clicked"), "--context clicked: it would tell the model the label, which --label names",
         "leave it out"),
        (("--context", "at:numeric"), "--context at: it is the time, which --time names", "no other role"),
        (("--user-feature", "user_id"), "--user-feature user_id: it is the user", "no other role"),
        (("--item-feature", "item"), "a feature cannot be called item", "rename the column"),
        (("--item-feature", "label:numeric"), "a feature cannot be called label", "rename the column"),
        (("--context", "time:numeric"), "a feature cannot be called time", "rename the column"),
        (("--item-feature", "likes:numeric"), "cannot be called likes: a feature that training counts has that name",
         "rename"),
        (("--item-feature", "own"), "a feature cannot be called own: --set fields= takes that word", "rename"),
        (("--item-feature", "title:numeric"), "feature title: 40 of 40 rows (100.0%) would be lost: 40 values are no "
         "numbers, for example 'thing 0'", "--allow-loss takes these values for missing ones"),
        (("--separator", ""), "invalid option: --separator=''", "--separator takes"),
        (("--most-values", "0"), "--most-values", ""),
    ],
)  # fmt: skip
def test_a_wrong_feature_is_refused_in_one_clear_line(
    words: tuple[str, ...], features: tuple[str, ...], says: str, hint: str, tmp_path: Path
) -> None:
    more = () if "--user-feature" in features else ("--user-feature", "country")
    text = refused(tmp_path, "prepare", *words, "--name", "shop", *more, *features)
    flat = " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())
    assert says in flat
    assert hint in flat


def test_features_are_of_your_own_tables_and_a_table_of_users_needs_a_feature(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    text = refused(tmp_path, "prepare", "synthetic", "--item-feature", "brand")
    assert "synthetic has no feature columns to name" in text
    text = refused(tmp_path, "prepare", *words, "--name", "shop", "--item-feature", "brand")
    assert "--users names a table, and no column of it is named" in text


def test_a_few_texts_in_a_numeric_column_are_missing_values_that_are_counted(
    shop: Shop, tmp_path: Path
) -> None:
    goods = [item | ({"price": "cheap"} if place == 7 else {}) for place, item in enumerate(shop.goods)]
    words = Shop(shop.people, goods, shop.clicks).write(tmp_path / "raw", people=False)
    done = rbserve("prepare", *words, "--name", "shop", "--item-feature", "price:numeric", home=tmp_path)
    assert "mended, price: value that is no number, taken for a missing one: 1" in done.stderr
    dear = [item | ({"price": "dear"} if place % 4 == 1 else {}) for place, item in enumerate(shop.goods)]
    words = Shop(shop.people, dear, shop.clicks).write(tmp_path / "other", people=False)
    done = rbserve(
        "prepare", *words, "--name", "shop", "--item-feature", "price:numeric", home=tmp_path, check=None
    )
    assert done.returncode != 0
    assert (
        "feature price: 10 of 38 rows (26.3%) would be lost: 10 values are no numbers, for example 'dear'"
        in " ".join(done.stderr.split())
    )
    rbserve(
        "prepare", *words, "--name", "shop", "--item-feature", "price:numeric", "--allow-loss", home=tmp_path
    )
    assert sum(open_dataset(tmp_path / "data" / "shop").manifest.repaired.values()) == 10


@pytest.mark.parametrize("kind", ["numeric", "category", "multi"])
def test_a_column_that_tells_the_label_is_warned_of_when_it_is_prepared_and_when_it_is_shown(
    kind: str, shop: Shop, tmp_path: Path
) -> None:
    bought = [
        click | {"bought": "yes" if click["clicked"] else "no", "paid": 5 * click["clicked"]}
        for click in shop.clicks
    ]
    words = Shop(shop.people, shop.goods, bought).write(tmp_path / "raw", people=False)
    name = "paid:numeric" if kind == "numeric" else f"bought:{kind}"
    done = rbserve("prepare", *words, "--name", "shop", "--context", name, "--context", "hour", home=tmp_path)
    warning = f"warning: {name.split(':')[0]} alone orders the labels of the training rows with AUC 1.000"
    assert warning in done.stderr
    assert "warning: hour" not in done.stderr
    shown = rbserve("datasets", "show", "shop", home=tmp_path)
    assert warning in shown.stderr
    fields = json.loads(rbserve("datasets", "show", "shop", "--json", home=tmp_path).stdout)["fields"]
    assert [field["auc"] > 0.99 for field in fields] == [True, False]


def test_a_number_that_is_there_only_for_clicks_is_warned_of(shop: Shop, tmp_path: Path) -> None:
    rows = [click | {"dwell": click["hour"] if click["clicked"] else None} for click in shop.clicks]
    words = Shop(shop.people, shop.goods, rows).write(tmp_path / "raw", people=False)
    done = rbserve("prepare", *words, "--name", "shop", "--context", "dwell:numeric", home=tmp_path)
    assert "warning: dwell alone orders the labels" in done.stderr


def test_an_identifier_of_rows_is_no_leak_though_it_has_a_value_for_each(shop: Shop, tmp_path: Path) -> None:
    rows = [click | {"visit": f"v{place}"} for place, click in enumerate(shop.clicks)]
    words = Shop(shop.people, shop.goods, rows).write(tmp_path / "raw", people=False)
    done = rbserve("prepare", *words, "--name", "shop", "--context", "visit", home=tmp_path)
    assert "warning" not in done.stderr


@pytest.mark.parametrize("model", ["dnn", "gbdt"])
def test_columns_that_say_nothing_are_no_harm(model: str, shop: Shop, tmp_path: Path) -> None:
    """A number that no row has, a category that all share, one with more values than a vocabulary may have."""
    goods = [item | {"empty": None, "same": "x", "code": place} for place, item in enumerate(shop.goods)]
    words = Shop(shop.people, goods, shop.clicks).write(tmp_path / "raw", people=False)
    names = ("--item-feature", "empty:numeric", "--item-feature", "same", "--item-feature", "code")
    done = rbserve("prepare", *words, "--name", "shop", *names, "--most-values", "9", home=tmp_path)
    assert "field empty of the item: a number; 100.0% missing" in done.stderr
    assert "field same of the item: 1 values; 0.0% missing" in done.stderr
    assert "field code of the item: 9 hashes, since it has more values than --most-values" in done.stderr
    dataset = open_dataset(tmp_path / "data" / "shop")
    artifact = train_with_fields(model, dataset, tmp_path / model, "own", epochs=1)
    test = dataset.ctr("test")
    scores = score_rows(open_scorer(artifact, artifact.can_open[0]), test.histories, test.candidates)
    assert np.isfinite(scores).all()


def test_training_with_a_field_that_is_not_there_names_the_nearest(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    rbserve("prepare", *words, "--name", "shop", *FEATURES, home=tmp_path)
    for name, hint in (("xyz", "known: all, brand"), ("prices", "did you mean price?")):
        done = rbserve(
            "train",
            "--model",
            "dnn",
            "--dataset",
            "shop",
            "--set",
            f"fields={name}",
            home=tmp_path,
            check=None,
        )
        assert done.returncode != 0
        assert f"unknown field: {name}" in done.stderr
        assert hint in done.stderr
    assert not (tmp_path / "artifacts").exists()


def test_price_and_country_together_are_worth_a_clear_margin_of_auc(tmp_path: Path) -> None:
    words = made_shop(people=160, goods=300, each=10).write(tmp_path / "raw")
    rbserve("prepare", *words, "--name", "shop", *FEATURES, home=tmp_path)
    small = ("--set", "hidden=32", "--set", "dim=8", "--epochs", "10", "--batch", "128", "--lr", "0.01")
    artifacts = {}
    for name, fields in {"without": "", "with": "own"}.items():
        more = ("--set", f"fields={fields}") if fields else ()
        rbserve(
            "train", "--model", "dnn", "--dataset", "shop", *small, *more, "--out", str(tmp_path / name),
            home=tmp_path,
        )  # fmt: skip
        artifacts[name] = open_artifact(tmp_path / name)
    test = open_dataset(tmp_path / "data" / "shop").ctr("test")
    areas = {name: auc(test.labels, _scores(artifact, test)) for name, artifact in artifacts.items()}
    assert areas["with"] > 0.85
    assert areas["with"] > areas["without"] + 0.2
    coders = open_coders(artifacts["with"])
    assert [*coders] == ["price", "tags", "brand", "country", "hour"]
    assert coders["country"].value("nowhere").tolist() == [UNSEEN]
    assert coders["country"].value(None).tolist() == [MISSING]
    assert sorted(coders["country"].values) == ["DE", "FR", "IN", "US"]


def _scores(artifact: Artifact, rows: CtrSplit) -> list[float]:
    """The served score of each row, asked for with the row's own fields."""
    score = open_scorer(artifact, "torch-fp32").score
    return [
        float(
            score({
                **slate_request(rows.histories[row], rows.candidates[row : row + 1]),
                **{name: column[row : row + 1] for name, column in rows.extras.items()},
            })[0]
        )
        for row in range(len(rows))
    ]  # fmt: skip


def test_new_items_bring_their_own_fields_and_others_keep_theirs(
    words: tuple[str, ...], shop: Shop, tmp_path: Path
) -> None:
    rbserve("prepare", *words, "--name", "shop", *FEATURES, home=tmp_path)
    out = tmp_path / "model"
    rbserve(
        "train", "--model", "dnn-text", "--dataset", "shop", "--set", "fields=own", "--set", "hidden=8", "--set",
        "dim=4", "--epochs", "1", "--out", str(out), home=tmp_path,
    )  # fmt: skip
    before = {
        name: open_column(out / "fields" / f"item.{name}.npy").tolist() for name in ("price", "tags", "brand")
    }
    table = tmp_path / "new.csv"
    table.write_text(
        "item_id,title,price,brand,tags\nn1,thing 1,9.5,zen,new|sale|unheard\nn2,thing 2,,other,\n"
    )
    rbserve("items", "add", str(out), "--items", str(table), "--fields", "price,brand,tags", home=tmp_path)
    artifact = open_artifact(out)
    coders = open_coders(artifact)
    width = coders["tags"].spec.width
    added = {
        "price": [9.5, float("nan")], "brand": [*coders["brand"].value("zen").tolist(), UNSEEN],
        "tags": [*coders["tags"].value(["new", "sale", "unheard"]).tolist(), *[MISSING] * width],
    }  # fmt: skip
    for name, values in before.items():
        now = open_column(artifact.file(f"fields/item.{name}.npy"))
        np.testing.assert_array_equal(now, np.array([*values, *added[name]], now.dtype))
    request = slate_request(np.array([0], np.int32), np.arange(len(artifact.items), dtype=np.int32))
    assert np.isfinite(open_scorer(artifact, "torch-fp32").score(request)).all()
    for text, says in {
        "item_id,title,price\nn3,thing 3,1\n": "lacks the column 'tags'",
        "item_id,title,price,tags\nn3,thing 3,cheap,\n": "is no number: 'cheap'",
    }.items():
        table.write_text(text)
        more = ("--items", str(table), "--fields", "price,tags")
        done = rbserve("items", "add", str(out), *more, home=tmp_path, check=None)
        assert done.returncode != 0
        assert says in done.stderr
    assert open_artifact(out).manifest == artifact.manifest
