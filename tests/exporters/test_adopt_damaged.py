"""Damaged files of tree models: one clear line, never a crash or a traceback, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adopted import small_requests
from entry_point import rbserve
from library_models import LIBRARIES, lightgbm, rows, xgboost

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import RbserveError, UsageError
from rbserve.data.request_set import RequestSet
from rbserve.exporters.adopt import native_process
from rbserve.exporters.adopt.adopt import adopt


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> RequestSet:
    """A small request set with the columns that the models read."""
    return small_requests(tmp_path_factory.mktemp("data") / "clicks")


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """The beginning of a content."""
    return content[: rng.integers(1, len(content))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """A content with three other bits."""
    changed = bytearray(content)
    for place in rng.integers(0, len(changed), 3):
        changed[place] ^= 1 << rng.integers(8)
    return bytes(changed)


def refusal(path: Path, requests: RequestSet, place: Path) -> str | None:
    """The message of the error that a file is refused with; None where it is adopted."""
    try:
        adopt(str(path), requests, AdoptOptions(), place)
    except RbserveError as error:
        return error.message
    return None


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_damaged_file_is_adopted_whole_or_refused_in_one_line(
    library: str, requests: RequestSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = LIBRARIES[library](tmp_path).path
    content, rng = path.read_bytes(), np.random.default_rng(23)
    messages = []
    for damage in (cut, flipped):
        path.write_bytes(damage(content, rng))
        place = tmp_path / "artifacts" / "ranker"
        messages.append(refusal(path, requests, place))
        assert place.exists() == (messages[-1] is None)
        assert [*tmp_path.glob("artifacts/*")] == [place] * place.exists()
    assert messages[0] is not None
    assert all("\n" not in message for message in messages if message)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_crashes_its_library_is_one_line_of_the_command(tmp_path: Path) -> None:
    path = xgboost(tmp_path, suffix=".ubj").path
    content = path.read_bytes()
    table = pa.table({"likes": rows(40)[:, 0], "age": rows(40)[:, 1], "click": np.arange(40) % 2})
    pq.write_table(table, tmp_path / "clicks.parquet")
    path.write_bytes(content[: len(content) // 2])
    before = sorted(tmp_path.rglob("*"))
    done = rbserve(
        "adopt", str(path), "--requests", "clicks.parquet", "--label", "click", home=tmp_path, check=2
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:"))]
    assert len(lines) == 2
    assert str(path) in lines[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_library_that_ends_the_process_is_named_by_its_signal(
    requests: RequestSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = lightgbm(tmp_path)
    run = subprocess.run
    crash = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    monkeypatch.setattr(native_process.subprocess, "run", lambda _, **given: run(crash, **given))
    with pytest.raises(UsageError, match=r"model.txt cannot be adopted: its library crashed .* \(SIGSEGV\)"):
        adopt(str(saved.path), requests, AdoptOptions(), tmp_path / "artifacts" / "ranker")
    assert not (tmp_path / "artifacts").exists()
