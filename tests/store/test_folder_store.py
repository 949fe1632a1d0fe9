"""A store in a folder and in memory: what any file system of fsspec must hold, and processes that meet there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbserve.core.errors import RbserveError, UsageError
from rbserve.store.store import open_store

NAME = "data/shop"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "ctr").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "same.json").write_text("{}")
    (folder / "empty").write_bytes(b"")
    (folder / "ctr" / "train.parquet").write_bytes(os.urandom(50_000))
    (folder / ".manifest.json.77.partial").write_text("being written")
    return folder


@pytest.mark.parametrize("url", ["file://{}/store", "{}/plain", "memory://store-{}"])
def test_any_file_system_keeps_contents_once(url: str, folder: Path, tmp_path: Path) -> None:
    store = open_store(url.format(tmp_path))
    assert store.names() == []
    assert (store.push(NAME, folder).moved_files, store.push(NAME, folder).moved_files) == (3, 0)
    again = open_store(store.url)
    assert again.names("data") == [NAME]
    again.pull(NAME, tmp_path / "out")
    files = {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert files == {"manifest.json", "same.json", "empty", "ctr/train.parquet"}
    assert (tmp_path / "out/ctr/train.parquet").read_bytes() == (folder / "ctr/train.parquet").read_bytes()


def test_one_file_is_a_name_too(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    (tmp_path / "a.json").write_text("1")
    store.push("runs/a", tmp_path / "a.json")
    store.pull("runs/a", tmp_path / "deep" / "b.json")
    assert (tmp_path / "deep" / "b.json").read_text() == "1"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (None, "RBSERVE_STORE is not set"),
        ("nonsense://x", "Protocol not known: nonsense"),
        ("s3://", "names no folder or bucket"),
        ("gs://bucket/x", "gcsfs"),
    ],
)
def test_a_url_that_is_no_store_is_refused(
    url: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RBSERVE_STORE", raising=False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UsageError, match=message) as caught:
        open_store(url)
    assert caught.value.hint


def test_a_manifest_cannot_write_outside_its_folder(folder: Path, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    store.push(NAME, folder)
    manifest = tmp_path / "store" / "names" / "data" / "shop.json"
    for bad in ("../manifest.json", "/etc/manifest.json"):
        manifest.write_text(manifest.read_text().replace('"manifest.json"', f'"{bad}"'))
        with pytest.raises(RbserveError, match="names no files that could be written"):
            store.pull(NAME, tmp_path / "out")
        manifest.write_text(manifest.read_text().replace(f'"{bad}"', '"manifest.json"'))
    manifest.write_text("{}")
    with pytest.raises(RbserveError, match="is no manifest of a store"):
        store.pull(NAME, tmp_path / "out")


def test_a_read_only_store_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(RbserveError) as caught:
        open_store(f"file://{tmp_path}/store").push(NAME, folder)
    assert "file:///" in caught.value.message


def test_processes_that_pull_to_one_place_take_turns(folder: Path, tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    store.push(NAME, folder)
    code = (
        "import sys; from pathlib import Path; from rbserve.store.store import open_store\n"
        "print(open_store(sys.argv[1]).pull(sys.argv[2], Path(sys.argv[3])).moved_files)"
    )
    command = [sys.executable, "-c", code, store.url, NAME, str(tmp_path / "out")]
    pulls = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    moved = sorted(int(pull.communicate()[0]) for pull in pulls)
    assert moved == [0, 0, 0, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "shop", "store"]
