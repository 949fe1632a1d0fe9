"""Files are whole or absent."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.files import (
    digest,
    file_error,
    mismatch,
    optional_write,
    replacing,
    replacing_directory,
    require_replaceable,
    require_writable,
    scratch,
    write_bytes,
)


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


@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_modes_are_what_the_umask_gives_whatever_a_library_chose(
    tmp_path: Path, mask: int, file_mode: int, folder_mode: int
) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "file", b"content")
        with replacing_directory(tmp_path / "folder") as partial:
            descriptor = os.open(
                partial / "private", os.O_WRONLY | os.O_CREAT, 0o600
            )  # as onnx writes weights
            os.close(descriptor)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == file_mode
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == folder_mode
    assert stat.S_IMODE((tmp_path / "folder/private").stat().st_mode) == file_mode


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "make it writable for this user"),
        (errno.EROFS, "the file system is mounted read-only"),
        (errno.ENOSPC, "free the disk"),
        (errno.ENOENT, "fix the path"),
    ],
)
def test_each_cause_has_its_own_advice(number: int, advice: str) -> None:
    told = file_error(OSError(number, os.strerror(number), "choices"))
    assert told.message == f"{os.strerror(number)}: choices"
    assert told.hint is not None
    assert told.hint.startswith(advice)


def test_a_write_that_only_saves_work_warns_once_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("where a folder should be")
    for name in ("a", "b"):
        with optional_write("what this test keeps"):
            write_bytes(tmp_path / "cache" / name, b"")
    said = capsys.readouterr().err
    assert said.startswith("warning: what this test keeps is not kept: ")
    assert said.count("\n") == 1


def test_a_folder_that_takes_no_file_is_known_beforehand(tmp_path: Path) -> None:
    require_writable(tmp_path / "new/runs")
    require_writable(tmp_path)
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "file").write_text("")
    with pytest.raises(RbserveError, match="file") as raised:
        require_writable(tmp_path / "file")
    assert raised.value.hint is not None


def test_what_rbserve_did_not_make_is_not_replaced(tmp_path: Path) -> None:
    """The smallest case: `train --out FOLDER` replaced a folder of somebody's own files."""
    own, empty, ours = (tmp_path / name for name in ("own", "empty", "ours"))
    for folder in (own, empty, ours):
        folder.mkdir()
    (own / "thesis.txt").write_text("years of work")
    (ours / "manifest.json").write_text("{}")
    (tmp_path / "note.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (empty, ours, tmp_path / "new"):
        require_replaceable(path)
    for path in (own, tmp_path / "note.json", tmp_path / "link"):
        with pytest.raises(UsageError, match="was not made by rbserve"):
            require_replaceable(path)
    with pytest.raises(UsageError, match="was not made by rbserve"):
        require_replaceable(ours, "report.json")


def test_a_folder_that_another_process_takes_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = tmp_path / "answers", tempfile.mkdtemp

    def taken_away_once(**given: Any) -> str:
        monkeypatch.setattr(tempfile, "mkdtemp", made)
        folder.rmdir()
        return made(**given)

    monkeypatch.setattr(tempfile, "mkdtemp", taken_away_once)
    with scratch(folder, "writable") as within:
        assert within.parent == folder
    assert not within.exists()
