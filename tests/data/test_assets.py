"""Assets: checked, cached, and clear about what is missing."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from rbserve.core.errors import AssetError, UsageError
from rbserve.data import assets
from rbserve.data.assets import ASSETS, Asset, fetch


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that already holds the wheel of a made-up asset; returns the wheel's path."""
    monkeypatch.setenv("RBSERVE_CACHE", str(tmp_path))
    wheel = tmp_path / "wheels" / "fake-1-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("fake/table.txt", "content")
    asset = Asset(
        requirement="rbserve-no-such-package==1",
        wheel=wheel.name,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        files={"fake/table.txt": hashlib.sha256(b"content").hexdigest()},
        licence="none",
    )
    monkeypatch.setitem(ASSETS, "fake", asset)
    return wheel


def test_files_come_from_the_wheel_once_and_then_from_the_cache(fake: Path) -> None:
    folder = fetch("fake")
    assert (folder / "table.txt").read_text() == "content"
    assert not fake.exists()
    assert fetch("fake") == folder


def test_a_wheel_that_is_not_the_expected_one_is_refused(fake: Path) -> None:
    fake.write_bytes(b"something else")
    with pytest.raises(AssetError, match="expected"):
        fetch("fake")


def test_a_damaged_cached_file_is_fetched_again(fake: Path) -> None:
    content = fake.read_bytes()
    (fetch("fake") / "table.txt").write_text("damaged")
    fake.write_bytes(content)
    assert (fetch("fake") / "table.txt").read_text() == "content"


def test_without_a_network_the_error_says_which_file_to_put_where(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(AssetError, match="cannot download") as error:
        fetch("fake")
    assert error.value.hint is not None
    assert str(fake) in error.value.hint
    assert list(fake.parent.iterdir()) == []


def test_an_unknown_asset_is_named() -> None:
    with pytest.raises(UsageError, match="unknown asset: ml-100") as error:
        assets.fetch("ml-100")
    assert error.value.hint == "did you mean ml-100k?"
