"""`prepare` and `datasets` through the real entry point: a user's own tables, mistakes, and being stopped."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from entry_point import rbserve

OWN = ("--user", "customer", "--item", "sku", "--time", "when", "--items-id", "id", "--text", "name")


def _shop(folder: Path, users: int = 60, items: int = 24, each: int = 12) -> tuple[str, ...]:
    """Writes a shop's two tables, in which half the customers like tea and half like soap; the words that name them."""
    goods = [(f"s{item}", "soap bar" if item % 2 else "green tea") for item in range(items)]
    clicks = [
        (
            f"c{user}",
            item := (user * 5 + step * 7) % items,
            f"2024-05-{1 + step:02} 12:00:00",
            int(item % 2 == user % 2),
        )
        for user in range(users)
        for step in range(each)
    ]
    lines = [f'"{user}";s{item};{when};{liked};{5 if liked else 1}' for user, item, when, liked in clicks]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clicks.csv").write_text("\n".join(["customer;sku;when;bought;stars", *lines, "c1;s1", ""]))
    (folder / "goods.csv").write_text("id;name\n" + "".join(f"{sku};{name}; no {sku}\n" for sku, name in goods[:1])
                                      + "".join(f'{sku};"{name}; no {sku}"\n' for sku, name in goods))  # fmt: skip
    files = (
        "--interactions",
        str(folder / "clicks.csv"),
        "--items",
        str(folder / "goods.csv"),
        "--delimiter",
        ";",
    )
    return "csv", *files, *OWN


def _prepared(home: Path) -> list[str]:
    rows = json.loads(rbserve("datasets", "--json", home=home).stdout)
    return [row["name"] for row in rows if row["prepared"]]


def _everything(home: Path) -> list[str]:
    """All that is in data/, what is hidden too."""
    return sorted(path.name for path in (home / "data").iterdir()) if (home / "data").exists() else []


def test_her_own_tables_go_through_everything_without_code(tmp_path: Path) -> None:
    words = _shop(tmp_path / "tables")
    done = rbserve("prepare", *words, "--label", "bought", "--name", "shop", home=tmp_path)
    assert done.stdout == ""
    assert "prepared shop: 24 items" in done.stderr
    assert "left out, row with another number of fields, or no JSON object: 1" in done.stderr
    assert "left out, item row with another number of fields: 1" in done.stderr
    assert _everything(tmp_path) == ["shop"]
    assert _prepared(tmp_path) == ["shop"]
    assert "your own, from csv" in rbserve("datasets", home=tmp_path).stdout
    rbserve("train", "--model", "dnn", "--dataset", "shop", "--set", "hidden=16", "--set", "dim=8", "--epochs", "2",
            home=tmp_path)  # fmt: skip
    done = rbserve("profile", "--model", "dnn", "--dataset", "shop", "--variants", "onnx-fp32", "--processes", "1",
                   "--runs", "5", "--slates", "3", "--json", home=tmp_path)  # fmt: skip
    (result,) = json.loads(done.stdout)["results"]
    assert 0 <= result["accuracy"]["auc"] <= 1
    command = [sys.executable, "-m", "rbserve", "serve", "--model", "dnn", "--dataset", "shop", "--port", "0"]
    environment = os.environ | {"RBSERVE_HOME": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        url = server.stderr.readline().split()[-1]
        answer = httpx.post(f"{url}/v1/score", json={"history": ["s3", "s11"], "candidates": ["s1", "s2"]})
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0
    assert {one["item"] for one in answer.json()["scores"]} == {"s1", "s2"}


def test_a_label_and_the_rating_behind_it_give_the_same_data(tmp_path: Path) -> None:
    words = _shop(tmp_path / "tables")
    prints = [
        json.loads(rbserve("prepare", *words, *how, "--json", home=tmp_path).stdout)["fingerprint"]
        for how in (("--label", "bought"), ("--rating", "stars", "--like-from", "4.5"))
    ]
    assert prints[0] == prints[1]


def test_the_same_files_give_the_same_bytes_whatever_the_memory(tmp_path: Path) -> None:
    words = (*_shop(tmp_path / "tables", users=300), "--label", "bought", "--name", "shop")
    for home, limit in (("one", "128MB"), ("other", "1.5 GiB")):
        (tmp_path / home).mkdir()
        rbserve("prepare", *words, "--memory-limit", limit, home=tmp_path / home)
    one, other = ({path.relative_to(tmp_path / home): path.read_bytes() for path in (tmp_path / home).rglob("*")
                   if path.is_file()} for home in ("one", "other"))  # fmt: skip
    assert len(one) > 30
    assert one == other
    manifest = (tmp_path / "one/data/shop/manifest.json").read_text()
    assert str(tmp_path) not in manifest


def test_negatives_are_the_users_own_or_so_many_random_ones(tmp_path: Path) -> None:
    words = _shop(tmp_path / "tables")
    native = json.loads(rbserve("prepare", *words, "--label", "bought", "--negatives", "native", "--json",
                                home=tmp_path).stdout)  # fmt: skip
    assert (native["options"]["negatives"], native["options"]["held_out"]) == (0, 0)
    random = json.loads(rbserve("prepare", *words, "--negatives", "2", "--json", home=tmp_path).stdout)
    assert (random["options"]["negatives"], random["options"]["held_out"]) == (2, 2)
    train = random["counts"]["ctr"]["train"]
    assert train["rows"] == 2 * train["positives"] == 4 * train["users"]


def test_other_judgings_of_a_source_get_names_of_their_own(tmp_path: Path) -> None:
    words = (*_shop(tmp_path / "tables"), "--label", "bought")
    drawn = ("--held-out", "1", "--negatives", "2", "--negatives-by", "popularity")
    rbserve("prepare", *words, home=tmp_path)
    paper = json.loads((tmp_path / "data" / "csv" / "manifest.json").read_text())
    rbserve("prepare", *words, "--split", "time", home=tmp_path)
    rbserve("prepare", *words, *drawn, home=tmp_path)
    done = rbserve("prepare", *words, *drawn, "--split", "time", "--json", home=tmp_path)
    moments = json.loads(done.stdout)["counts"]["moments"]["ctr"]
    assert moments["train"] < moments["valid"] < moments["test"]
    assert _everything(tmp_path) == ["csv", "csv-popular", "csv-time", "csv-time-popular"]
    assert json.loads((tmp_path / "data" / "csv" / "manifest.json").read_text()) == paper
    assert "from csv: split by time, 2 popular negatives" in rbserve("datasets", home=tmp_path).stdout
    for name in ("csv-time", "csv-popular", "csv-time-popular"):
        report = json.loads(rbserve("datasets", "show", name, "--json", home=tmp_path).stdout)
        assert report["ok"]


def test_a_temporary_folder_elsewhere_is_left_empty(tmp_path: Path) -> None:
    words = _shop(tmp_path / "tables")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    rbserve("prepare", *words, "--label", "bought", "--temp-dir", str(elsewhere), home=tmp_path)
    assert list(elsewhere.iterdir()) == []
    assert _everything(tmp_path) == ["csv"]


def test_a_data_set_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    rbserve("prepare", *_shop(tmp_path / "tables"), "--label", "bought", "--name", "shop", home=tmp_path)
    old = tmp_path / "data" / "old"
    old.mkdir()
    (old / "manifest.json").write_text('{"schema": 1}')
    for left in (
        ".shop.7.abc.old",
        ".shop.7.abc.partial",
        ".shop.7.abc.scratch",
    ):  # whole, but not put in place
        shutil.copytree(tmp_path / "data" / "shop", tmp_path / "data" / left)
    rows = {
        row["name"]: row["about"] for row in json.loads(rbserve("datasets", "--json", home=tmp_path).stdout)
    }
    assert rows["shop"] == "your own, from csv"
    assert "has schema 1" in rows["old"]
    assert not any(name.startswith(".") for name in rows)


MISTAKES = [
    (("prepare", "mind"), 2, "mind is not fetched: --raw", "MINDsmall_train.zip"),
    (("prepare", "csv"), 2, "csv is not fetched", "--interactions and --items"),
    (("prepare", "goodreds", "--raw", "."), 2, "unknown data set: goodreds", "did you mean goodreads?"),
    (("prepare", "hm", "--raw", "."), 1, "holds no file articles.csv", "--raw"),
    (("prepare", "hm", "--raw", "nowhere"), 1, "no folder nowhere", "--raw"),
    (
        ("prepare", "ml-100k", "--negatives", "abc"),
        2,
        "--negatives takes native or a number",
        "--negatives 2",
    ),
    (("prepare", "ml-100k", "--negatives", "0"), 2, "--negatives takes native or a number", "--negatives 2"),
    (("prepare", "ml-100k", "--negatives", "2", "--held-out", "0"), 2, "held-out", "--held-out 2"),
    (("prepare", "ml-100k", "--memory-limit", "1x"), 2, "--memory-limit takes a size", "2GB"),
    (("prepare", "ml-100k", "--memory-limit", "1MB"), 2, "--memory-limit takes a size", "2GB"),
    (("prepare", "ml-100k", "--name", "../x"), 2, "--name takes a plain name", "--name shop"),
    (("prepare", "ml-100k", "--name", ".hidden"), 2, "--name takes a plain name", "--name shop"),
    (
        ("prepare", "csv", "--format", "xml"),
        2,
        "'xml' is not one of 'auto', 'csv', 'json', 'parquet'",
        "--help",
    ),
    (("prepare", "csv", "--delimiter", "ab"), 2, "--delimiter takes one character", "';'"),
    (
        ("prepare", "csv", "--interactions", "none.csv", "--items", "none.csv"),
        1,
        "no file none.csv",
        "a folder of part files",
    ),
    (("prepare", "ml-100k", "--valid-users", "2"), 2, "--valid-users", "--help"),
    (("prepare", "ml-100k", "--history", "0"), 2, "--history", "--help"),
    (("prepare", "ml-100k", "--split", "day"), 2, "--split='day'", "users, time"),
    (
        ("prepare", "ml-100k", "--split", "time", "--name", "ml-100k"),
        2,
        "the paper's judging",
        "ml-100k-time",
    ),
    (("prepare", "ml-100k", "--split", "time", "--name", "hm"), 2, "the paper's judging", "ml-100k-time"),
    (("prepare", "synthetic", "--split", "time"), 2, "no times: a split by time", "--split users"),
    (("prepare", "goodbooks", "--split", "time"), 2, "goodbooks-10k has an order of rows", "--split users"),
    (
        ("prepare", "csv", "--split", "time", "--interactions", "a", "--items", "b"),
        2,
        "without --time",
        "--time",
    ),
    (("prepare", "ml-100k", "--negatives-by", "popularity"), 2, "has nothing to draw", "--negatives 2"),
    (
        ("prepare", "mind", "--negatives-by", "popularity", "--negatives", "2"),
        2,
        "nothing to draw",
        "--negatives native",
    ),
    (
        ("datasets", "show", "hm-time"),
        2,
        "unknown data set: hm-time",
        "rbserve prepare hm --split time makes it",
    ),
    (
        ("train", "--model", "dnn", "--dataset", "cds-time-popular"),
        2,
        "unknown data set",
        "prepare cds --split time --neg",
    ),
    (("prepare", "ml-100k", "--negatives-by", "likes"), 2, "--negatives-by='likes'", "uniform, popularity"),
]


def _is_one_line_and_a_hint(done: subprocess.CompletedProcess[str], message: str, hint: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.stdout == ""
    assert len(lines) == 2, lines
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"), MISTAKES, ids=[" ".join(one[0]) for one in MISTAKES]
)
def test_a_mistake_is_one_line_and_a_hint(
    words: tuple[str, ...], code: int, message: str, hint: str, tmp_path: Path
) -> None:
    _is_one_line_and_a_hint(rbserve(*words, home=tmp_path, check=code), message, hint)
    assert _everything(tmp_path) == []
    assert list(tmp_path.parent.glob("x")) == []


def test_what_a_reader_cannot_know_is_an_option(tmp_path: Path) -> None:
    """Quotation marks that may be mere signs, an encoding, and a loss of more than 5% of the rows."""
    titles = ["标题", '"Heroes', "Low", 'Lodger 12"', *(f"Title {item}" for item in range(4, 30))]
    lines = ["item_id,title", *(f"A{item:02},{title}" for item, title in enumerate(titles)), ""]
    (tmp_path / "items.csv").write_bytes("\n".join(lines).encode("gbk"))
    clicks = [f"u{user},A{(7 * user + 5 * step) % 30:02},{step if user % 9 else 'noon'}"
              for user in range(40) for step in range(6)]  # fmt: skip
    (tmp_path / "clicks.csv").write_text("\n".join(["user_id,item_id,ts", *clicks, ""]))
    words = (
        "prepare",
        "csv",
        "--name",
        "t",
        "--interactions",
        "clicks.csv",
        "--items",
        "items.csv",
        "--time",
        "ts",
    )
    done = rbserve(*words, "--encoding", "gbk", home=tmp_path, check=1)
    _is_one_line_and_a_hint(done, "items.csv, lines 3 to 5: one record", "--quotes literal")
    words = (*words, "--encoding", "gbk", "--quotes", "literal")
    done = rbserve(*words, home=tmp_path, check=1)
    _is_one_line_and_a_hint(done, "clicks.csv: 30 of 240 rows (12.5%) would be lost", "--allow-loss")
    assert "time 'noon'" in done.stderr
    assert _everything(tmp_path) == []
    manifest = json.loads(rbserve(*words, "--allow-loss", "--json", home=tmp_path).stdout)
    assert manifest["dropped"] == {"row whose time is none": 30}
    assert manifest["counts"]["source"]["items_with_text"] == 30


def _gzip_cut(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes())[:-9])


def _become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "no file"),
    "a folder": (_become_a_folder, "has no part with rows"),
    "empty": (lambda path: path.write_bytes(b""), "clicks.csv is empty"),
    "header only": (lambda path: path.write_text("customer;sku;when;bought;stars\n"), "no usable row"),
    "cut gzip": (_gzip_cut, "damaged or truncated"),
    "other column": (lambda path: path.write_text("buyer;sku;when;bought\nc;s;1;1\n"), "lacks the column 'customer'"),
    "no usable row": (lambda path: path.write_text("customer;sku;bought\nc;s99;1\n;s1;1\n"), "name no item alike"),
    "open quotation mark": (lambda path: path.write_text('customer;sku;bought\n"c;s1;1\n' + "c;s1;1\n" * 9_999),
                            "line 2: a quotation mark is not closed"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_table_that_cannot_be_used_is_named_and_nothing_is_left(fault: str, tmp_path: Path) -> None:
    words = [word for word in _shop(tmp_path / "tables") if word not in ("--time", "when")]
    breaking, message = FAULTS[fault]
    breaking(tmp_path / "tables" / "clicks.csv")
    done = rbserve("prepare", *words, "--label", "bought", "--name", "shop", home=tmp_path, check=1)
    error, *hint = done.stderr.strip().splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert "clicks.csv" in error
    assert len(hint) == 1
    assert hint[0].startswith("hint: ")
    assert _everything(tmp_path) == []


# ---- Being stopped


@pytest.fixture(scope="module")
def many_clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables that take seconds to prepare."""
    folder = tmp_path_factory.mktemp("many")
    with (folder / "interactions.csv").open("w") as file:
        file.write("user_id,item_id,liked\n")
        file.writelines(
            f"u{row * 7919 % 40_000},i{row * 104_729 % 3_001},{row % 2}\n" for row in range(900_000)
        )
    (folder / "items.csv").write_text(
        "item_id,title\n" + "".join(f"i{item},item {item}\n" for item in range(3_001))
    )
    return folder


def _stopped(home: Path, many_clicks: Path, during: str, sign: signal.Signals) -> subprocess.Popen[str]:
    """Starts `prepare` and sends a signal as soon as a file of that name has something in it."""
    command = [sys.executable, "-m", "rbserve", "prepare", "csv", "--raw", str(many_clicks), "--label", "liked",
               "--name", "shop", "--memory-limit", "256MB"]  # fmt: skip
    environment = os.environ | {"RBSERVE_HOME": str(home)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=home)
    while process.poll() is None and not any(
        file.name == during and file.stat().st_size > 1_000 for file in home.glob("data/.shop.*/**/*")
    ):
        time.sleep(0.005)
    process.send_signal(sign)
    process.wait(timeout=60)
    return process


@pytest.mark.parametrize("during", ["work.duckdb", "events.parquet", "item.npy"])
def test_ctrl_c_ends_with_130_and_leaves_nothing(during: str, many_clicks: Path, tmp_path: Path) -> None:
    process = _stopped(tmp_path, many_clicks, during, signal.SIGINT)
    assert process.stderr is not None
    with process.stderr as stream:
        said = stream.read()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert _everything(tmp_path) == []


def test_a_killed_prepare_is_no_data_set_and_the_next_one_tidies_up(
    many_clicks: Path, tmp_path: Path
) -> None:
    rbserve("prepare", *_shop(tmp_path / "tables"), "--label", "bought", "--name", "other", home=tmp_path)
    for during in ("work.duckdb", "item.npy"):
        process = _stopped(tmp_path, many_clicks, during, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.close()
        assert _prepared(tmp_path) == ["other"]
        assert not (tmp_path / "data" / "shop").exists()
    rbserve("prepare", *_shop(tmp_path / "tables"), "--label", "bought", "--name", "shop", home=tmp_path)
    assert _everything(tmp_path) == ["other", "shop"]


# ---- datasets show


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with the data set `shop`. Do not change its files."""
    home = tmp_path_factory.mktemp("home")
    rbserve("prepare", *_shop(home / "tables"), "--label", "bought", "--name", "shop", home=home)
    return home


def test_show_tells_sizes_losses_and_checks_of_a_data_set_by_name_or_path(shop: Path) -> None:
    report = json.loads(rbserve("datasets", "show", "shop", "--json", home=shop).stdout)
    manifest = json.loads((shop / "data/shop/manifest.json").read_text())
    assert (report["ok"], report["name"], report["source"]) == (True, "shop", "csv")
    assert report["fingerprint"] == manifest["fingerprint"]
    assert report["lost"]["total"] == sum(
        count for reason, count in manifest["dropped"].items() if not reason.startswith(("ctr:", "seqrec:"))
    )
    rows = {(one["task"], one["split"]): one["rows"] for one in report["splits"]}
    assert rows == {(task, split): counts["rows"] for task in ("ctr", "seqrec")
                    for split, counts in manifest["counts"][task].items()}  # fmt: skip
    assert report["paper"] is None
    by_path = json.loads(rbserve("datasets", "show", "./data/shop", "--json", home=shop).stdout)
    assert by_path == report
    shown = rbserve("datasets", "show", "shop", home=shop).stdout
    assert "shop" in shown
    assert "item row with another number of fields" in shown


def test_show_fails_when_a_history_holds_its_candidate(shop: Path, tmp_path: Path) -> None:
    path = tmp_path / "data" / "shop"
    shutil.copytree(shop / "data" / "shop", path)
    column = path / "ctr/train/candidate.npy"
    candidates = np.load(column)
    offsets = np.load(path / "ctr/train/history.offsets.npy")
    row = int(np.flatnonzero(np.diff(offsets))[0])
    candidates[row] = np.load(path / "ctr/train/history.values.npy")[offsets[row]]
    np.save(column, candidates)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["ctr/train/candidate.npy"] = {
        "bytes": column.stat().st_size, "sha256": hashlib.sha256(column.read_bytes()).hexdigest(),
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest))
    report = json.loads(rbserve("datasets", "show", "shop", "--json", home=tmp_path, check=1).stdout)
    assert report["ok"] is False
    failed = {check["name"]: check["violations"] for check in report["checks"] if check["passed"] is False}
    assert failed["candidate-unseen"] == 1
    assert "candidate" in rbserve("datasets", "show", "shop", home=tmp_path, check=1).stdout


def test_show_names_a_damaged_file_and_a_data_set_that_is_not_there(shop: Path, tmp_path: Path) -> None:
    path = tmp_path / "data" / "shop"
    shutil.copytree(shop / "data" / "shop", path)
    (path / "ctr/test/label.npy").write_bytes(b"\x93NUMPY")
    done = rbserve("datasets", "show", "shop", home=tmp_path, check=1)
    assert "label.npy has 6 bytes instead of" in done.stderr
    _is_one_line_and_a_hint(rbserve("datasets", "show", "shpo", home=tmp_path, check=2), "unknown data set: shpo",
                            "did you mean shop?")  # fmt: skip


# ---- datasets export


def test_export_writes_the_rows_of_a_data_set_as_tables(shop: Path, tmp_path: Path) -> None:
    listed = rbserve("datasets", "export", "shop", "--to", str(tmp_path / "tables"), "--json", home=shop)
    paths = [Path(path) for path in json.loads(listed.stdout)]
    assert {path.name for path in paths} >= {"train.parquet", "test.parquet", "items.parquet"}
    assert all(path.is_file() for path in paths)
    rbserve("datasets", "export", "shop", "--to", str(tmp_path / "tables"), "--format", "csv", home=shop)
    assert {path.suffix for path in (tmp_path / "tables").iterdir()} == {".csv", ".json"}


def test_export_refuses_an_unknown_data_set_and_a_folder_of_others(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    refused = rbserve("datasets", "export", "shop", "--to", str(tmp_path / "mine"), home=shop, check=2)
    assert "was not made by rbserve" in refused.stderr
    assert (
        "unknown data set: shpo"
        in rbserve("datasets", "export", "shpo", "--to", str(tmp_path / "new"), home=shop, check=2).stderr
    )
    assert not (tmp_path / "new").exists()
