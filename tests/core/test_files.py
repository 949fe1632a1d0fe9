"""Files are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbserve.core.files import digest, mismatch, replacing, replacing_directory, write_bytes


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="midway"), replacing(path) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError("midway")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_directory_leaves_the_old_one_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with replacing_directory(path) as partial:
        (partial / "a").write_text("old")
    with pytest.raises(RuntimeError, match="midway"), replacing_directory(path) as partial:
        (partial / "a").write_text("half")
        raise RuntimeError("midway")
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for name in ("a", "b"):
        with replacing_directory(path) as partial:
            (partial / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["b"]


def test_a_digest_tells_missing_truncated_and_tampered(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    expected = digest(path)
    assert mismatch(path, expected) is None
    path.write_bytes(b"contenT")
    assert "sha256" in (mismatch(path, expected) or "")
    path.write_bytes(b"cont")
    assert mismatch(path, expected) == "has 4 bytes instead of 7"
    path.unlink()
    assert mismatch(path, expected) == "is missing"
