"""The command line as a user starts it: in a process of its own, or in this one, which has its imports already."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from unittest import mock

import pytest

from rbserve.cli import app

Done = subprocess.CompletedProcess[str]


def rbserve(*words: str, home: Path, check: int | None = 0, **environment: str) -> Done:
    """Runs the command line in `home`, in this process, and expects an exit code."""
    with (
        mock.patch.object(sys, "argv", ["rbserve", *words]),
        mock.patch.dict(os.environ, _environment(home, environment)),
        contextlib.chdir(home),
        _streams() as texts,
        pytest.raises(SystemExit) as left,
    ):
        app.main()
    code = left.value.code
    assert isinstance(code, int)
    return _expected(Done(words, code, *texts), check)


def rbserve_process(*words: str, home: Path, check: int | None = 0, **environment: str) -> Done:
    """What `rbserve` does, in a process of its own: for what a process is, loads, or leaves behind."""
    done = subprocess.run(
        [sys.executable, "-m", "rbserve", *words],
        capture_output=True,
        text=True,
        env=os.environ | _environment(home, environment),
        cwd=home,
    )
    return _expected(done, check)


def run_here(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """Runs the command line in this process and returns its exit code. Its output goes to this process's streams."""
    monkeypatch.setattr(sys, "argv", ["rbserve", *words])
    with pytest.raises(SystemExit) as left:
        app.main()
    return left.value.code


def _environment(home: Path, more: dict[str, str]) -> dict[str, str]:
    return {"RBSERVE_HOME": str(home), "OMP_NUM_THREADS": "1", **more}


def _expected(done: Done, check: int | None) -> Done:
    assert "Traceback" not in done.stderr, done.stderr
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


@contextlib.contextmanager
def _streams() -> Iterator[list[str]]:
    """Standard output and error of this process and those it starts; the list has their texts at the end."""
    texts: list[str] = []
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2))
        with (
            _diverted(1, out),
            _diverted(2, err),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            yield texts
        for file in (out, err):
            file.seek(0)  # writes what is buffered
            texts.append(file.read())


@contextlib.contextmanager
def _diverted(number: int, file: IO[str]) -> Iterator[None]:
    """What is written to an open file's number goes to another file."""
    before = os.dup(number)
    os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        os.dup2(before, number)
        os.close(before)
